"""What rungs of differential equations share: from draws of parameters to activity, its integral and its gradient.

One solve of the decay-free ligand amount serves any nuclide with the same amount: activity is a share of it (hot-fraction law).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.errors import EstimationError, ModelError
from tdt_core.kinetics.rosenbrock import Solution, solve
from tdt_core.kinetics.sensitivity import COMPLEX_STEP
from tdt_core.kinetics.simulation import MIN_PER_H, OdeModel, Run, plan
from tdt_core.nuclides import nuclide
from tdt_core.twin import Administration

FloatArray = npt.NDArray[np.float64]

HORIZON_HALF_LIVES = 12.0


@dataclass(frozen=True, eq=False)
class System:
    """A rung's model with its place in the ladder.

    Attributes
    ----------
    quantities : (m, n) parameters, maybe complex -> quantities of the model by name, () or (m,), those that follow included.
    coefficients : quantities -> coefficients of the model's network by name.
    shares : quantities -> (m or 1, regions, model regions) share of each region of the model that a region of the
        patient holds; complex where the quantities are.
    """

    model: OdeModel
    quantities: Callable[[npt.NDArray[Any]], Mapping[str, Any]]
    coefficients: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    shares: Callable[[Mapping[str, Any]], npt.NDArray[Any]]
    rtol: float = 1e-6

    def activity(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        """See `KineticModel.activity`."""
        times, back = np.unique(np.asarray(times_h, dtype=float), return_inverse=True)
        run = self._run(administration, times)
        found, shares = self._solve(run, np.atleast_2d(theta))
        return np.asarray((shares @ np.swapaxes(found.amounts, 1, 2) * _mbq_per_nmol(run))[:, :, back])

    def time_integrated_activity(self, theta: FloatArray, administration: Administration) -> FloatArray:
        """See `KineticModel.time_integrated_activity`."""
        run = self._run(administration, np.zeros(0))
        found, shares = self._solve(run, np.atleast_2d(theta))
        mbq_per_nmol = run.schedule[0].net_activity_mbq / run.scale_nmol
        return np.asarray((shares @ found.integrals[:, :, None])[:, :, 0] * (mbq_per_nmol / MIN_PER_H))

    def log_jacobian(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        """See `KineticModel.log_jacobian`; exact derivatives of the solver's steps, of the rules by complex step."""
        times, back = np.unique(np.asarray(times_h, dtype=float), return_inverse=True)
        n = theta.shape[-1]
        turned = (theta[..., None, :] + 1j * COMPLEX_STEP * np.eye(n)).reshape(-1, n)
        found, shares = self._solve(self._run(administration, times), turned)
        # the factors from amount to activity cancel in the logarithm
        amounts, sloped = (np.swapaxes(x, 1, 2) for x in (found.amounts, found.amounts_slope))
        slope = shares.real @ sloped + shares.imag / COMPLEX_STEP @ amounts
        slope = (slope / np.maximum(shares.real @ amounts, 1e-300))[:, :, back]
        return np.moveaxis(slope.reshape(*theta.shape, *slope.shape[1:]), -3, -1)

    def _solve(self, run: Run, theta: npt.NDArray[Any]) -> tuple[Solution, npt.NDArray[Any]]:
        """Solution and shares for each row of (m, n) theta; where it is complex, derivatives along its imaginary part."""
        values = self.quantities(theta)
        turned = run.network.gather(self.coefficients(values))
        turned = np.broadcast_to(turned, (len(theta), turned.shape[1]))
        directions = turned.imag / COMPLEX_STEP if np.iscomplexobj(theta) else None
        found = solve(run.tables, np.ascontiguousarray(turned.real), run.course, self.rtol, run.scale_nmol, directions)
        if found.failed.any():
            raise EstimationError(f"{int(found.failed.sum())} of {found.failed.size} solves failed", remedy="narrow the prior")
        return found, self.shares(values)

    def _run(self, administration: Administration, times_h: FloatArray) -> Run:
        if administration.amount_nmol is None:
            raise ModelError(
                "the administration has no ligand amount",
                expected="amount_nmol, because uptake saturates",
                remedy="record the ligand amount, or use the rung sum_of_exponentials",
                kind="model.amount",
            )
        return _planned(self.model, replace(administration, time_h=0.0), tuple(times_h.tolist()), self.rtol)


def by_name(regions: Sequence[str], organs: Sequence[str]) -> FloatArray:
    """(1, regions, organs) shares where each region is the organ of its name, or none."""
    return np.array([[[float(region == organ) for organ in organs] for region in regions]])


@lru_cache(maxsize=64)  # a fit asks for the same scans again and again
def _planned(model: OdeModel, administration: Administration, times_h: tuple[float, ...], rtol: float) -> Run:
    """The plan of one administration at time 0; without times its integrals go to the horizon."""
    half_life = nuclide(administration.nuclide).half_life_h
    end = max(times_h) if times_h and max(times_h) > 0 else HORIZON_HALF_LIVES * half_life
    return plan(model, [administration], times_h, end, rtol, by_part=False)


def _mbq_per_nmol(run: Run) -> FloatArray:
    """(t,) MBq per nmol of ligand at the times of a run."""
    given = run.schedule[0]
    decay = nuclide(given.nuclide).decay_constant_per_h
    return np.asarray(given.net_activity_mbq / run.scale_nmol * np.exp(-decay * np.maximum(run.times_h, 0.0)))
