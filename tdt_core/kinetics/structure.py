"""From organs and options to flows, binding sites, and networks of them: the structure of a whole-body model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from tdt_core.errors import ModelError
from tdt_core.kinetics.anatomy import ARTERIAL, SINK, VENOUS, Organ
from tdt_core.kinetics.network import Binding, Network, Pool, Transfer, states_of

Release = Literal["lost", "recycled"]
PlasmaBinding = Literal["none", "free_fraction", "albumin"]

COMPLEX, TISSUE_COMPLEX = "complex", "interstitial_complex"
"""Parts that hold ligand bound to albumin, in vessels and in tumour interstitium."""
TRAPPED = "trapped"
"""Part of kidneys that holds what the cells of the tubules took up and keep, in models that have `trapped_share`."""


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
    """What flows where and binds to what: names of quantities, no number. `traps`: kidneys that keep part of the reuptake."""

    organs: tuple[Organ, ...]
    release: Release
    plasma_binding: PlasmaBinding
    traps: tuple[str, ...] = ()

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
        return tuple((rate, *parts) for rate, parts in out.items())

    def network(self, labels: tuple[str, ...], occupying: tuple[str, ...]) -> Network:
        if not labels or not set(occupying) <= set(labels) or not occupying:
            raise ModelError(
                f"labels {labels} of which {occupying} occupy receptors",
                expected="at least one label, and at least one of them that occupies",
                kind="model.label",
            )

        def state(label: str, place: tuple[str, str]) -> str:
            return f"{label}/{place[0]}/{place[1]}"

        return Network(
            states=tuple(s for label in labels for s in states_of(label, self.parts)),
            transfers=tuple(
                Transfer(state(label, f.source), state(label, f.target), f.rate) for label in labels for f in self.flows
            ),
            pools=tuple(Pool(s.name, s.capacity, tuple(state(n, s.target) for n in occupying)) for s in self.sites),
            bindings=tuple(
                Binding(state(label, s.source), state(label, s.target), s.rate, s.name) for label in labels for s in self.sites
            ),
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
