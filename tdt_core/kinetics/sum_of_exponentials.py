"""Population sum of exponentials per region, with the physical-decay bound built in.

    a(t) / A = u V [ (1 - s) e^(-lf t) + s e^(-ls t) - e^(-lu t) ] e^(-lp t)

u = uptake per mL, V = region volume, s = amplitude of the slow phase. s < 1 is an early washout; s > 1 turns the middle phase
into a second, slower uptake, as in a kidney that goes on taking up while the blood clears. Biological rates are ordered and
positive by construction, ls = ln2/T_slow, lf = ls + ln2/T_fast, lu = lf + ln2/T_uptake, so that for any s > 0 activity starts
at zero, is never negative and in the end falls no slower than physical decay. Form: tri-exponential with zero start
(Hardiansyah 2024, f4-type), rates shared with the population through the prior (population sum of exponentials).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tdt_core.errors import ModelError
from tdt_core.kinetics.ladder import register
from tdt_core.kinetics.ligands import family
from tdt_core.nuclides import nuclide
from tdt_core.parameters import Parameter, ParameterTable, packaged_csv
from tdt_core.twin import Administration, Region

FloatArray = npt.NDArray[np.float64]

QUANTITIES = ("uptake_per_ml", "slow_half_time", "fast_half_time", "slow_amplitude", "uptake_half_time")
LN2 = float(np.log(2.0))


@dataclass(frozen=True)
class SumOfExponentials:
    """The rung `sum_of_exponentials`: five parameters per region, region-major order."""

    ligand: str
    regions: tuple[Region, ...]
    name: str = "sum_of_exponentials"

    @cached_property
    def parameters(self) -> ParameterTable:
        """Population medians and spreads of every region, named `region.quantity`."""
        rows = {(r["ligand"], r["organ"], r["quantity"]): r for r in packaged_csv("kinetics_sum_of_exponentials.csv")}
        ligand_family = family(self.ligand)
        borrowed = "" if ligand_family == self.ligand else f" (values of {ligand_family} used for {self.ligand})"
        table = []
        for region in self.regions:
            organ = region.organ if (ligand_family, region.organ, QUANTITIES[0]) in rows else "other"
            for quantity in QUANTITIES:
                row = rows[ligand_family, organ, quantity]
                table.append(
                    Parameter(
                        name=f"{region.name}.{quantity}",
                        value=float(row["value"]),
                        unit=row["unit"],
                        status="assumed" if borrowed else row["status"],  # type: ignore[arg-type]
                        source=row["source"] + borrowed,
                        distribution=row["distribution"],  # type: ignore[arg-type]
                        sd=float(row["sd"]),
                    )
                )
        return ParameterTable(table)

    @cached_property
    def _volumes(self) -> FloatArray:
        volumes = np.array([r.volume_ml for r in self.regions])
        if not (volumes > 0).all():
            empty = [r.name for r in self.regions if r.volume_ml <= 0]
            raise ModelError(f"regions without volume: {empty}", expected="volume_ml > 0", kind="model.regions")
        return volumes

    def exponentials(self, theta: FloatArray, administration: Administration) -> tuple[FloatArray, FloatArray]:
        """Amplitudes (m, regions, 3) in MBq and rates (m, regions, 3) in 1/h, physical decay included.

        The amplitudes sum to zero: fast, slow and (negative) uptake phase.
        """
        p = np.atleast_2d(theta).reshape(-1, len(self.regions), len(QUANTITIES))
        scale = administration.net_activity_mbq * np.exp(p[..., 0]) * self._volumes
        slow_amplitude = np.exp(p[..., 3])
        slow = LN2 * np.exp(-p[..., 1])
        fast = slow + LN2 * np.exp(-p[..., 2])
        uptake = fast + LN2 * np.exp(-p[..., 4])
        rates = np.stack([fast, slow, uptake], axis=-1) + nuclide(administration.nuclide).decay_constant_per_h
        amplitudes = np.stack([1.0 - slow_amplitude, slow_amplitude, -np.ones_like(slow_amplitude)], axis=-1) * scale[..., None]
        return amplitudes, rates

    def activity(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        """See `KineticModel.activity`."""
        amplitudes, rates = self.exponentials(theta, administration)
        t = np.asarray(times_h, dtype=float)
        return np.asarray(np.einsum("mrk,mrkt->mrt", amplitudes, np.exp(-rates[..., None] * t)))

    def time_integrated_activity(self, theta: FloatArray, administration: Administration) -> FloatArray:
        """See `KineticModel.time_integrated_activity`."""
        amplitudes, rates = self.exponentials(theta, administration)
        return np.asarray((amplitudes / rates).sum(axis=-1))

    def log_jacobian(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        """See `KineticModel.log_jacobian`; analytic."""
        n_regions, n_quantities = len(self.regions), len(QUANTITIES)
        p = np.asarray(theta, dtype=float).reshape(n_regions, n_quantities)
        amplitudes, rates = (x[0] for x in self.exponentials(theta, administration))
        t = np.asarray(times_h, dtype=float)
        e = np.exp(-rates[..., None] * t)  # (regions, 3, t)
        total = np.einsum("rk,rkt->rt", amplitudes, e)
        # d rate_k / d ln T: the fast and uptake rates contain the slower ones
        slow, fast, uptake = (-LN2 * np.exp(-p[:, q]) for q in (1, 2, 4))
        zero = np.zeros_like(slow)
        d_rate = {
            1: np.stack([slow, slow, slow], axis=-1),
            2: np.stack([fast, zero, fast], axis=-1),
            4: np.stack([zero, zero, uptake], axis=-1),
        }
        blocks = np.empty((n_regions, t.size, n_quantities))
        blocks[:, :, 0] = 1.0
        for q, d in d_rate.items():
            blocks[:, :, q] = np.einsum("rk,rk,rkt->rt", amplitudes, d, -t * e) / total
        blocks[:, :, 3] = amplitudes[:, 1, None] * (e[:, 1] - e[:, 0]) / total
        jacobian = np.zeros((n_regions, t.size, n_regions * n_quantities))
        for r in range(n_regions):
            jacobian[r, :, r * n_quantities : (r + 1) * n_quantities] = blocks[r]
        return jacobian


def _build(ligand: str, regions: Sequence[Region]) -> SumOfExponentials:
    return SumOfExponentials(ligand, tuple(regions))


register("sum_of_exponentials", _build)
