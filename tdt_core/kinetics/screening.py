"""Which parameters of a population move a result: Morris screening and Sobol indices (SALib) over `simulate_batch`.

Inputs are the population's drawn quantities, taken as independent: u uniform, deviation z = Phi^-1(u) in sds. Correlations of
the population are left out here, because the indices are defined for independent inputs.

Morris, Technometrics 1991;33:161, with mu* of Campolongo 2007; Sobol, Math Comput Simul 2001;55:271, estimated after Saltelli
2010.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy.stats import norm

from tdt_core.errors import InputError
from tdt_core.kinetics.clinical_levels import outcomes
from tdt_core.kinetics.population import Population

FloatArray = npt.NDArray[np.float64]
Outcome = Callable[[Population, Mapping[str, FloatArray]], Mapping[str, FloatArray]]

MORRIS_RANGE = (0.025, 0.975)
"""Quantiles between which Morris trajectories move."""
SOBOL_RANGE = (1e-4, 1 - 1e-4)


def morris(
    people: Population,
    rows: Sequence[str],
    *,
    trajectories: int = 40,
    levels: int = 6,
    seed: int = 0,
    outcome: Outcome = outcomes,
) -> xr.Dataset:
    """Elementary effects of p parameters on some rows of `outcome`; trajectories x (p + 1) simulations.

    Returns
    -------
    Dataset over `parameter` and `row`, in units of the row for the parameter's whole 95 % range: `mu_star` (mean absolute
    effect), `mu` (mean: its sign), `sigma` (spread: interaction or curvature), `mu_star_conf` (95 % half-width).
    """
    from SALib.analyze import morris as analysis
    from SALib.sample import morris as sample

    problem = _problem(people)
    u = sample.sample(problem, trajectories, num_levels=levels, seed=seed)
    found = _evaluate(people, rows, _deviations(u, MORRIS_RANGE), outcome)
    results = [analysis.analyze(problem, u, y, num_levels=levels, seed=seed) for y in found]
    names = ("mu_star", "mu", "sigma", "mu_star_conf")
    return _dataset(people, rows, {n: [np.asarray(r[n], float) for r in results] for n in names})


def sobol(
    people: Population, rows: Sequence[str], *, base: int = 256, seed: int = 0, outcome: Outcome = outcomes
) -> xr.Dataset:
    """First-order and total indices of p parameters; base (a power of two) x (p + 2) simulations.

    Returns
    -------
    Dataset over `parameter` and `row`: `first`, `total` and their 95 % half-widths `first_conf`, `total_conf`.

    Raises
    ------
    InputError : `base` is not a power of two.
    """
    from SALib.analyze import sobol as analysis
    from SALib.sample import sobol as sample

    if base < 2 or base & (base - 1):
        raise InputError(f"a base sample of {base}", expected="a power of two", kind="input.sample")
    problem = _problem(people)
    u = sample.sample(problem, base, calc_second_order=False, seed=seed)
    found = _evaluate(people, rows, _deviations(u, SOBOL_RANGE), outcome)
    results = [analysis.analyze(problem, y, calc_second_order=False, seed=seed) for y in found]
    names = {"first": "S1", "total": "ST", "first_conf": "S1_conf", "total_conf": "ST_conf"}
    return _dataset(people, rows, {ours: [np.asarray(r[theirs], float) for r in results] for ours, theirs in names.items()})


def _problem(people: Population) -> dict[str, Any]:
    names = list(people.drawn)
    return {"num_vars": len(names), "names": names, "bounds": [[0.0, 1.0]] * len(names)}


def _deviations(u: FloatArray, within: tuple[float, float]) -> FloatArray:
    """(m, p) sds from (m, p) uniform numbers squeezed into a range of quantiles."""
    low, high = within
    return np.asarray(norm.ppf(low + (high - low) * u))


def _evaluate(people: Population, rows: Sequence[str], z: FloatArray, outcome: Outcome) -> list[FloatArray]:
    """(m,) values of each row, in its unit."""
    found = outcome(people, people.overrides(z, None))
    missing = [row for row in rows if row not in found]
    if missing:
        raise InputError(f"no result named {', '.join(missing)}", expected=", ".join(sorted(found)), kind="input.row")
    return [np.asarray(found[row]) for row in rows]


def _dataset(people: Population, rows: Sequence[str], values: Mapping[str, list[FloatArray]]) -> xr.Dataset:
    return xr.Dataset(
        {name: (("parameter", "row"), np.stack(columns, axis=1)) for name, columns in values.items()},
        coords={"parameter": list(people.drawn), "row": list(rows)},
    )
