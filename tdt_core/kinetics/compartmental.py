"""Small mechanistic rung: plasma, slow tissue, and one saturable or linear compartment per region.

    dy_i/dt = k_i P (1 - y_i / R_i) - o_i y_i
    dP/dt   = -sum_i k_i P (1 - y_i / R_i) + f sum_i o_i y_i - (k_cl + k_pq) P + k_qp Q
    dQ/dt   = k_pq P - k_qp Q
    dU/dt   = k_cl P + (1 - f) sum_i o_i y_i

Amounts are decay-free nmol of total ligand; k_i = uptake rate per mL x volume, R_i = receptor density x volume (infinite for
regions without receptors), o_i = release rate, f the share of released ligand that returns, U what left. `rest` is P + Q.
`PlasmaTissueModel` is this system as a network with rules, for `simulate`, `sensitivities` and SBML; `Compartmental` is the
rung that the twin fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.kinetics.ladder import Covariates, register, to_natural
from tdt_core.kinetics.network import Binding, Network, Pool, State, Transfer, labelled
from tdt_core.kinetics.ode_rung import System, by_name
from tdt_core.kinetics.pbrpk import SINK
from tdt_core.kinetics.rules import Quantities, Rule, RuleTable, number_text
from tdt_core.kinetics.sum_of_exponentials import SumOfExponentials
from tdt_core.kinetics.units import conversion
from tdt_core.parameters import Parameter, ParameterTable, packaged_table
from tdt_core.twin import Administration, Region

FloatArray = npt.NDArray[np.float64]

REST = "rest"
PLASMA = ("plasma.clearance", "plasma.to_tissue", "plasma.from_tissue")
RETURNED = "release.returned"
RTOL = 1e-6


def population(ligand: str, regions: Sequence[Region]) -> ParameterTable:
    """Population medians and spreads of the rung, plasma first, then region by region."""
    own = packaged_table("kinetics_compartmental.csv")
    levels = SumOfExponentials(ligand, tuple(regions)).parameters
    clearance = own.value("plasma.clearance")
    table = [own[name] for name in PLASMA]
    for region in _tissues(regions):
        uptake = levels[f"{region.name}.uptake_per_ml"]
        half_time = levels[f"{region.name}.slow_half_time"]
        derived = "; derived from the sum-of-exponentials level"
        table += [
            Parameter(
                f"{region.name}.uptake_rate_per_ml",
                uptake.value * levels[f"{region.name}.slow_amplitude"].value * clearance,
                "1/h/mL",
                uptake.status,
                uptake.source + derived,
                "lognormal",
                uptake.sd,
            ),
            Parameter(
                f"{region.name}.release_rate",
                float(np.log(2)) / half_time.value,
                "1/h",
                half_time.status,
                half_time.source + derived,
                "lognormal",
                half_time.sd,
            ),
        ]
        if _saturable(region):
            table.append(replace(own[f"{region.organ}.receptor_density"], name=f"{region.name}.receptor_density"))
    return ParameterTable(table)


def _tissues(regions: Sequence[Region]) -> tuple[Region, ...]:
    return tuple(r for r in regions if r.name != REST)


def _saturable(region: Region) -> bool:
    return f"{region.organ}.receptor_density" in packaged_table("kinetics_compartmental.csv")


@dataclass(frozen=True)
class PlasmaTissueModel:
    """The system of the module as an `OdeModel`: administrations enter plasma, a part of the region `rest`.

    Quantities: the rung's parameters, `<region>.volume` (L), `release.returned`, and what follows from them by `table`.
    """

    ligand: str
    segmented: tuple[Region, ...]
    name: str = "compartmental"

    @property
    def regions(self) -> tuple[str, ...]:
        """Segmented regions, `rest`, and what has left."""
        return (*(r.name for r in _tissues(self.segmented)), REST, SINK)

    @property
    def entry(self) -> tuple[str, str]:
        """Region and part that administrations enter."""
        return (REST, "plasma")

    @cached_property
    def table(self) -> RuleTable:
        """Rules of all quantities."""
        returned = packaged_table("kinetics_compartmental.csv")[RETURNED]
        rules = [_given(p) for p in (*population(self.ligand, self.segmented).values(), returned)]
        for region in _tissues(self.segmented):
            rules += _rules_of(region)
        scopes = [r.name for r in _tissues(self.segmented)]
        return RuleTable(rules, scopes=scopes, common=("plasma", "release"))

    @property
    def parameters(self) -> ParameterTable:
        """The quantities that are given, not derived, with status, source and spread."""
        return self.table.parameters

    def quantities(self, overrides: Mapping[str, Any] | None = None) -> Quantities:
        """Every quantity by full name, each () or (m,), where those in `overrides` are given."""
        return self.table.evaluate(overrides)

    def resolve(self, name: str) -> str:
        """Full name of a quantity."""
        return self.table.resolve(name)

    def coefficients(self, overrides: Mapping[str, Any] | None = None) -> Quantities:
        """Coefficients of the network in min and nmol, each () or (m,)."""
        values = self.quantities(overrides)
        return {name: values[name] * factor for name, factor in self._factors.items()}

    @cached_property
    def _factors(self) -> dict[str, float]:
        """Coefficient -> factor from the unit of its quantity to the network's."""
        wanted = {t.rate: "1/min" for t in self._base.transfers}
        wanted |= {b.rate: "1/min/nmol" for b in self._base.bindings}
        wanted |= {p.capacity: "nmol" for p in self._base.pools}
        return {name: conversion(self.table[name].unit, unit, name) for name, unit in wanted.items()}

    def network(self, labels: Sequence[str] = ("ligand",), occupying: Sequence[str] | None = None) -> Network:
        """States, transfers and receptor pools of one or several labels; the same arguments give the same object."""
        return labelled(self._base, labels, occupying)

    @cached_property
    def _base(self) -> Network:
        plasma, slow, sink = (State("ligand", r, p) for r, p in ((REST, "plasma"), (REST, "slow_tissue"), (SINK, "pool")))
        states = [sink]
        transfers = [
            Transfer(plasma.name, sink.name, "plasma.clearance"),
            Transfer(plasma.name, slow.name, "plasma.to_tissue"),
            Transfer(slow.name, plasma.name, "plasma.from_tissue"),
        ]
        pools, bindings = [], []
        for region in _tissues(self.segmented):
            r, tissue = region.name, State("ligand", region.name, "tissue")
            states.append(tissue)
            transfers += [
                Transfer(tissue.name, plasma.name, f"{r}.returned_rate"),
                Transfer(tissue.name, sink.name, f"{r}.lost_rate"),
            ]
            if _saturable(region):
                pools.append(Pool(r, f"{r}.R0", (tissue.name,)))
                bindings.append(Binding(plasma.name, tissue.name, f"{r}.association_rate", r))
            else:
                transfers.append(Transfer(plasma.name, tissue.name, f"{r}.uptake_rate"))
        return Network((*states, slow, plasma), tuple(transfers), tuple(pools), tuple(bindings))


def _given(p: Parameter) -> Rule:
    """A parameter as a rule that is a number."""
    bound = "[0,1]" if p.name == RETURNED else ">=0"
    return Rule(p.name, number_text(p.value, p.name), p.unit, p.status, p.source, bound, distribution=p.distribution, sd=p.sd)


def _rules_of(region: Region) -> list[Rule]:
    """What follows from the parameters of a region."""
    law = "equations of the compartmental rung, docs/kinetics.md"

    def derived(name: str, rule: str, unit: str) -> Rule:
        return Rule(f"{region.name}.{name}", rule, unit, "literature", law)

    volume = number_text(region.volume_ml / 1000.0, f"{region.name}.volume")
    out = [
        Rule(f"{region.name}.volume", volume, "L", "measured", "segmented volume of the region", ">0"),
        derived("uptake_rate", "uptake_rate_per_ml*volume", "L/mL/h"),
        derived("returned_rate", "release_rate*returned", "1/h"),
        derived("lost_rate", "release_rate*(1 - returned)", "1/h"),
    ]
    if _saturable(region):
        out += [
            derived("R0", "receptor_density*volume", "nmol"),
            derived("association_rate", "uptake_rate/R0", "L/mL/h/nmol"),
        ]
    return out


@dataclass(frozen=True)
class Compartmental:
    """The rung `compartmental`. Parameters: three of plasma, then per region uptake and release rate and, where receptors
    bind, their density."""

    ligand: str
    regions: tuple[Region, ...]
    name: str = "compartmental"

    @cached_property
    def ode(self) -> PlasmaTissueModel:
        """The system of differential equations, for `simulate`, `sensitivities` and `sbml.export`."""
        return PlasmaTissueModel(self.ligand, self.regions, self.name)

    @cached_property
    def parameters(self) -> ParameterTable:
        """Population medians and spreads, plasma first, then region by region."""
        return population(self.ligand, self.regions)

    @property
    def background(self) -> ParameterTable:
        """The share of released ligand that returns to plasma."""
        return ParameterTable([packaged_table("kinetics_compartmental.csv")[RETURNED]])

    @cached_property
    def _system(self) -> System:
        def quantities(theta: npt.NDArray[Any]) -> dict[str, Any]:
            return dict(zip(self.parameters, to_natural(self.parameters, theta).T, strict=True))

        shares = by_name([r.name for r in self.regions], self.ode.regions)
        return System(self.ode, quantities, self.ode.coefficients, lambda values: shares, RTOL)

    def activity(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        """See `KineticModel.activity`."""
        return self._system.activity(theta, administration, times_h)

    def time_integrated_activity(self, theta: FloatArray, administration: Administration) -> FloatArray:
        """See `KineticModel.time_integrated_activity`."""
        return self._system.time_integrated_activity(theta, administration)

    def log_jacobian(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        """See `KineticModel.log_jacobian`; exact derivatives of the solver's steps."""
        return self._system.log_jacobian(theta, administration, times_h)


def _build(ligand: str, regions: Sequence[Region], covariates: Covariates) -> Compartmental:
    return Compartmental(ligand, tuple(regions))


register("compartmental", _build)
