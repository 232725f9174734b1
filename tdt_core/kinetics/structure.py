"""From organs and options to flows, binding sites, and networks of them: the structure of a whole-body model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from tdt_core.errors import ModelError
from tdt_core.kinetics.anatomy import ARTERIAL, SINK, VENOUS, Organ
from tdt_core.kinetics.network import Binding, Network, Pool, Production, State, Transfer, states_of
from tdt_core.kinetics.rules import Quantities

Release = Literal["lost", "recycled"]
PlasmaBinding = Literal["none", "free_fraction", "albumin"]
Turnover = Literal["none", "explicit"]
Daughters = Literal["none", "followed"]

COMPLEX, TISSUE_COMPLEX = "complex", "interstitial_complex"
"""Parts that hold ligand bound to albumin, in vessels and in tumour interstitium."""
TRAPPED = "trapped"
"""Part of kidneys that holds what the cells of the tubules took up and keep, in models that have `trapped_share`."""
RECEPTORS, AWAY = "receptors", "away"
"""Label and part of receptors that went inside with their ligand and are not replaced yet."""


@dataclass(frozen=True)
class Species:
    """What is counted apart: a set of states with a label.

    Attributes
    ----------
    ligand : whose rates it moves by where ligands differ; empty: the model's own.
    occupies : it takes up binding sites; what does not binds to those that the others leave free.
    element : of a daughter that left its ligand and moves by the rules of its element; such a one binds to nothing.
    """

    label: str
    ligand: str = ""
    occupies: bool = False
    element: str = ""

    def own(self, rate: str) -> str:
        """Name of a coefficient as this species has it."""
        return f"{self.ligand}/{rate}" if self.ligand else rate

    def at(self, place: tuple[str, str]) -> str:
        """Name of its state there."""
        return State(self.label, *place).name


@dataclass(frozen=True)
class Flow:
    """First-order flow between two (region, part): the quantity `amount` over `volume`, or `amount` alone where that is a rate.

    `blood` marks what must balance in each vascular space.
    """

    source: tuple[str, str]
    target: tuple[str, str]
    amount: str
    volume: str = ""
    blood: bool = False

    @property
    def rate(self) -> str:
        """Name of the coefficient: the expression that it is."""
        return f"{self.amount} / {self.volume}" if self.volume else self.amount


@dataclass(frozen=True)
class Site:
    """What binds ligand of `source` into the part `into` of the same region.

    Quantities by name: `amount` the association rate (L/nmol/min), `volume` of the source (L), `capacity` all sites (nmol).
    """

    name: str
    source: tuple[str, str]
    into: str
    amount: str
    volume: str
    capacity: str

    @property
    def target(self) -> tuple[str, str]:
        """Region and part that hold what is bound."""
        return (self.source[0], self.into)

    @property
    def rate(self) -> str:
        """Name of the coefficient: the expression that it is."""
        return f"{self.amount} / {self.volume}"


@dataclass(frozen=True)
class Structure:
    """What flows where and binds to what: names of quantities, no number.

    `traps`: kidneys that keep part of the reuptake. `elements`: of daughters that are followed off their ligand.
    """

    organs: tuple[Organ, ...]
    release: Release
    plasma_binding: PlasmaBinding
    traps: tuple[str, ...] = ()
    turnover: Turnover = "none"
    elements: tuple[str, ...] = ()

    @cached_property
    def flows(self) -> tuple[Flow, ...]:
        """Everything first order, of any one label."""
        out: list[Flow] = []
        for organ in self.organs:
            if organ.template != "pool":
                out += self._flows_of(organ)
        if self.plasma_binding == "albumin":
            out += self._complex_flows(out)
        return tuple(out)

    def _flows_of(self, organ: Organ) -> list[Flow]:
        o = organ.name
        vessels, tissue, sink = (o, "vascular"), (o, "interstitial"), (SINK, "pool")
        fed_by, drain = (VENOUS if organ.template == "lungs" else ARTERIAL), organ.drains_to
        end = (drain, "pool") if drain in (ARTERIAL, VENOUS) else (drain, "vascular")
        v, i = f"{o}.vascular_volume", f"{o}.interstitial_volume"
        out = [
            Flow((fed_by, "pool"), vessels, f"{o}.flow", f"{fed_by}.volume", blood=True),
            Flow(vessels, end, f"{o}.outflow", v, blood=True),
        ]
        if "intracellular" in organ.parts:
            cells, passed = (o, "intracellular"), f"{o}.{'passed_flow' if o in self.traps else 'reabsorbed_flow'}"
            out += [
                Flow(vessels, tissue, f"{o}.{'free_filtered_flow' if self._by_fraction else 'filtered_flow'}", v),
                Flow(tissue, sink, f"{o}.excreted_flow", i),
                Flow(tissue, cells, passed, i),
                Flow(cells, vessels, passed, f"{o}.intracellular_volume"),
            ]
            if o in self.traps:
                kept, freed = (o, TRAPPED), (sink if self.release == "lost" else tissue)
                out += [Flow(tissue, kept, f"{o}.trapped_flow", i), Flow(kept, freed, f"{o}.lambda_trapped")]
        else:
            leave, enter = ("PS_of_plasma", "PS_of_tissue") if self._by_fraction else ("PS", "PS")
            out += [Flow(vessels, tissue, f"{o}.{leave}", v), Flow(tissue, vessels, f"{o}.{enter}", i)]
        if organ.binds:
            inside = (o, "internalised")
            out += [
                Flow((o, "bound"), tissue, "ligand.k_off"),
                Flow((o, "bound"), inside, f"{o}.lambda_int"),
                Flow(inside, sink if self.release == "lost" else tissue, f"{o}.lambda_rel"),
            ]
        return out

    def _complex_flows(self, flows: Sequence[Flow]) -> list[Flow]:
        """Where the complex with albumin goes: along with the blood, apart again, and across tumour vessels."""

        def carried(place: tuple[str, str]) -> tuple[str, str]:
            return (place[0], COMPLEX)

        out = [replace(f, source=carried(f.source), target=carried(f.target), blood=False) for f in flows if f.blood]
        out += [Flow(s.target, s.source, "ligand.k_off_albumin") for s in self.sites if s.target[1] != "bound"]
        for organ in (o.name for o in self.organs if o.template == "tumour"):
            vessels, tissue = (organ, COMPLEX), (organ, TISSUE_COMPLEX)
            out.append(Flow(vessels, tissue, f"{organ}.PS_albumin", f"{organ}.vascular_volume"))
            out.append(Flow(tissue, vessels, f"{organ}.PS_albumin", f"{organ}.interstitial_volume"))
        return out

    @property
    def _by_fraction(self) -> bool:
        return self.plasma_binding == "free_fraction"

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Everything that binds ligand: receptors, then albumin."""
        k_on = "{}.k_on_of_tissue" if self._by_fraction else "ligand.k_on"
        out = [
            Site(
                o.name, (o.name, "interstitial"), "bound", k_on.format(o.name), f"{o.name}.interstitial_volume", f"{o.name}.R0"
            )
            for o in self.organs
            if o.binds
        ]
        if self.plasma_binding != "albumin":
            return tuple(out)
        rate = "ligand.k_on_albumin"
        for organ in self.organs:
            o, part = organ.name, "pool" if organ.template == "pool" else "vascular"
            volume = f"{o}.volume" if part == "pool" else f"{o}.vascular_volume"
            out.append(Site(f"{o}/albumin", (o, part), COMPLEX, rate, volume, f"{o}.vascular_albumin"))
            if organ.template == "tumour":
                tissue, volume = (o, "interstitial"), f"{o}.interstitial_volume"
                out.append(Site(f"{o}/albumin_outside", tissue, TISSUE_COMPLEX, rate, volume, f"{o}.interstitial_albumin"))
        return tuple(out)

    @cached_property
    def blood(self) -> tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]:
        """Vascular space, flows into it, flows out of it."""
        blood = [f for f in self.flows if f.blood]
        spaces = dict.fromkeys(f.source for f in blood)
        return tuple(
            (s[0], tuple(f.amount for f in blood if f.target == s), tuple(f.amount for f in blood if f.source == s))
            for s in spaces
        )

    @cached_property
    def coefficients(self) -> tuple[tuple[str, str, str], ...]:
        """Coefficient, the quantity above the line and the one below it, if any."""
        out = {f.rate: (f.amount, f.volume) for f in self.flows}
        for site in self.sites:
            out[site.rate] = (site.amount, site.volume)
            out[site.capacity] = (site.capacity, "")
        if self.turnover == "explicit":
            out |= {f"{o.name}.k_turnover": (f"{o.name}.k_turnover", "") for o in self.organs if o.binds}
        for element in self.elements:
            out |= {f.rate: (f.amount, f.volume) for f in self.free_flows(element)}
        return tuple((rate, *parts) for rate, parts in out.items())

    def network(self, species: Sequence[Species]) -> Network:
        """States and flows of each species, and the sites that those that occupy compete for."""
        carried = [one for one in species if not one.element]
        occupying = [one for one in species if one.occupies]
        states = [s for one in species for s in states_of(one.label, self.free_parts if one.element else self.parts)]
        transfers = [Transfer(one.at(f.source), one.at(f.target), one.own(f.rate)) for one in species for f in self._moves(one)]
        members = {s.name: [one.at(s.target) for one in occupying] for s in self.sites}
        productions = []
        if self.turnover == "explicit":
            for organ in (o.name for o in self.organs if o.binds):
                away = State(RECEPTORS, organ, AWAY)
                states.append(away)
                transfers.append(Transfer(away.name, None, f"{organ}.k_turnover"))
                members[organ].append(away.name)
                rate = f"{organ}.lambda_int"
                productions += [Production(one.at((organ, "bound")), away.name, one.own(rate)) for one in occupying]
        return Network(
            states=tuple(states),
            transfers=tuple(transfers),
            pools=tuple(Pool(s.name, s.capacity, tuple(members[s.name])) for s in self.sites),
            bindings=tuple(
                Binding(one.at(s.source), one.at(s.target), one.own(s.rate), s.name) for one in carried for s in self.sites
            ),
            productions=tuple(productions),
        )

    def _moves(self, species: Species) -> Sequence[Flow]:
        return self.free_flows(species.element) if species.element else self.flows

    @cached_property
    def free_parts(self) -> dict[str, tuple[str, ...]]:
        """Parts that hold daughters off their ligand: bound to nothing, inside cells or outside."""
        kept = ("internalised", "intracellular", "interstitial", "vascular", "pool")
        return {region: tuple(p for p in parts if p in kept) for region, parts in self.parts.items()}

    def free_flows(self, element: str) -> tuple[Flow, ...]:
        """How a daughter without ligand moves: with the blood, across vessels as the ligand does, from blood into tubular cells
        and urine by kidneys, from the lumen as ligand; what is inside a cell stays."""
        out = [f for f in self.flows if f.blood]
        for organ in (o for o in self.organs if o.template != "pool"):
            o, vessels, tissue = organ.name, (organ.name, "vascular"), (organ.name, "interstitial")
            v, i = f"{o}.vascular_volume", f"{o}.interstitial_volume"
            if "intracellular" in organ.parts:
                cells, sink = (o, "intracellular"), (SINK, "pool")
                out += [
                    Flow(vessels, cells, f"{o}.uptake_flow_of_{element}", v),
                    Flow(vessels, sink, f"{o}.excreted_flow_of_{element}", v),
                    Flow(tissue, sink, f"{o}.excreted_flow", i),
                    Flow(tissue, cells, f"{o}.reabsorbed_flow", i),
                ]
            else:
                out += [Flow(vessels, tissue, f"{o}.PS", v), Flow(tissue, vessels, f"{o}.PS", i)]
        return tuple(out)

    def check_balance(self, values: Quantities, given: Sequence[str]) -> None:
        """Raise ModelError `model.flow` where blood into and out of a vascular space differ; `given`: what was set by hand."""
        for space, inward, outward in self.blood:
            into, out = (sum((values[q] for q in names), np.zeros(())) for names in (inward, outward))
            off = ~(np.abs(into - out) <= 1e-9 * np.abs(into + out))
            if off.any():
                at = np.flatnonzero(off)[0]
                a, b = (np.atleast_1d(np.real(x)) for x in np.broadcast_arrays(into, out))
                own = [n for n in given if n in (*inward, *outward)]
                raise ModelError(
                    f"{space} takes in {a[at]:g} L/min ({' + '.join(inward)}) and gives off {b[at]:g} L/min",
                    expected="flows that balance in each vascular space",
                    remedy=f"let {', '.join(own)} follow, or change body.CO" if own else "correct the flow rules",
                    kind="model.flow",
                )

    @cached_property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """Region -> parts in the order of the states: sink, organs that drain into others, other organs, lungs, pools."""

        def rank(organ: Organ) -> int:
            if organ.template in ("lungs", "pool"):
                return 3 + (organ.template == "pool")
            depth, drain = 2, organ.drains_to
            while drain != VENOUS:
                depth, drain = depth - 1, next(o.drains_to for o in self.organs if o.name == drain)
            return depth

        parts = {SINK: ("pool",)} | {o.name: o.parts for o in sorted(self.organs, key=rank)}
        parts |= {o: (TRAPPED, *parts[o]) for o in parts if o in self.traps}
        if self.plasma_binding == "albumin":
            for organ in self.organs:
                outside = (TISSUE_COMPLEX,) if organ.template == "tumour" else ()
                *inner, last = parts[organ.name]
                parts[organ.name] = (*outside, *inner, COMPLEX, last)
        return parts
