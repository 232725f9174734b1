"""Small mechanistic rung: plasma, slow tissue, and one saturable or linear compartment per region.

    dy_i/dt = k_i P (1 - y_i / R_i) - o_i y_i
    dP/dt   = -sum_i k_i P (1 - y_i / R_i) + f sum_i o_i y_i - (k_cl + k_pq) P + k_qp Q
    dQ/dt   = k_pq P - k_qp Q

Amounts are decay-free nmol of total ligand; k_i = uptake rate per mL x volume, R_i = receptor density x volume (infinite for
regions without receptors), o_i = release rate. `rest` is P + Q. With equal kinetics of hot and cold ligand the activity is
A e^(-lp t) y_i / dose (hot-fraction law), so that one solve serves any nuclide with the same ligand amount.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tdt_core.errors import EstimationError, ModelError
from tdt_core.kinetics.arrow_solver import solve_batch
from tdt_core.kinetics.ladder import log_jacobian_by_differences, register, to_natural
from tdt_core.kinetics.sum_of_exponentials import SumOfExponentials
from tdt_core.nuclides import nuclide
from tdt_core.parameters import Parameter, ParameterTable, packaged_table
from tdt_core.twin import Administration, Region

FloatArray = npt.NDArray[np.float64]

PLASMA = ("plasma.clearance", "plasma.to_tissue", "plasma.from_tissue")
HORIZON_HALF_LIVES = 12.0


@dataclass(frozen=True)
class Compartmental:
    """The rung `compartmental`. Parameters: three of plasma, then per region uptake and release rate and, where receptors
    bind, their density."""

    ligand: str
    regions: tuple[Region, ...]
    name: str = "compartmental"

    @cached_property
    def _tissues(self) -> tuple[Region, ...]:
        return tuple(r for r in self.regions if r.name != "rest")

    @cached_property
    def parameters(self) -> ParameterTable:
        """Population medians and spreads, plasma first, then region by region."""
        own = packaged_table("kinetics_compartmental.csv")
        levels = SumOfExponentials(self.ligand, self.regions).parameters
        clearance = own.value("plasma.clearance")
        table = [own[name] for name in PLASMA]
        for region in self._tissues:
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
            if f"{region.organ}.receptor_density" in own:
                p = own[f"{region.organ}.receptor_density"]
                table.append(
                    Parameter(f"{region.name}.receptor_density", p.value, p.unit, p.status, p.source, p.distribution, p.sd)
                )
        return ParameterTable(table)

    def _rates(self, theta: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        natural = to_natural(self.parameters, np.atleast_2d(theta))
        names = list(self.parameters)
        m, n = natural.shape[0], len(self._tissues)
        uptake, release, capacity = np.empty((m, n)), np.empty((m, n)), np.full((m, n), np.inf)
        for i, region in enumerate(self._tissues):
            uptake[:, i] = natural[:, names.index(f"{region.name}.uptake_rate_per_ml")] * region.volume_ml
            release[:, i] = natural[:, names.index(f"{region.name}.release_rate")]
            if f"{region.name}.receptor_density" in self.parameters:
                density = natural[:, names.index(f"{region.name}.receptor_density")]
                capacity[:, i] = density * region.volume_ml / 1000.0
        return natural[:, :3], uptake, release, 1.0 / capacity

    def _solve(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> tuple[FloatArray, FloatArray]:
        if administration.amount_nmol is None:
            raise ModelError(
                "the administration has no ligand amount",
                expected="amount_nmol, because uptake saturates",
                remedy="record the ligand amount, or use the rung sum_of_exponentials",
                kind="model.amount",
            )
        decay = nuclide(administration.nuclide).decay_constant_per_h
        plasma, uptake, release, inverse_capacity = self._rates(theta)
        returned = packaged_table("kinetics_compartmental.csv").value("release.returned")
        times = np.asarray(times_h, dtype=float)
        end = max(HORIZON_HALF_LIVES * np.log(2) / decay, float(times.max(initial=0.0)))
        order = np.argsort(times)
        amounts, integrals, ok = solve_batch(
            plasma, uptake, release, inverse_capacity, returned, administration.amount_nmol, times[order], end, decay
        )
        if not ok.all():
            raise EstimationError(f"{int((~ok).sum())} of {ok.size} solves failed", remedy="narrow the prior")
        unsorted = np.empty_like(amounts)
        unsorted[:, order] = amounts
        scale = administration.net_activity_mbq / administration.amount_nmol
        return unsorted * np.exp(-decay * times)[None, :, None] * scale, integrals * scale

    def _by_region(self, states: FloatArray) -> FloatArray:
        """(..., 2 + tissues) states P, Q, y -> (..., regions)."""
        position = {r.name: 2 + i for i, r in enumerate(self._tissues)}
        columns = [states[..., 0] + states[..., 1] if r.name == "rest" else states[..., position[r.name]] for r in self.regions]
        return np.stack(columns, axis=-1)

    def activity(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        """See `KineticModel.activity`."""
        amounts, _ = self._solve(theta, administration, times_h)
        return np.moveaxis(self._by_region(amounts), 1, 2)

    def time_integrated_activity(self, theta: FloatArray, administration: Administration) -> FloatArray:
        """See `KineticModel.time_integrated_activity`."""
        _, integrals = self._solve(theta, administration, np.zeros(0))
        return self._by_region(integrals)

    def log_jacobian(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        """See `KineticModel.log_jacobian`; central differences, one batch of solves."""
        return log_jacobian_by_differences(self, theta, administration, times_h)


def _build(ligand: str, regions: Sequence[Region]) -> Compartmental:
    return Compartmental(ligand, tuple(regions))


register("compartmental", _build)
