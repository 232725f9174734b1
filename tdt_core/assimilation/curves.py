"""Draws of the regions whose curves are their own, by tempered Monte Carlo in few dimensions.

Such regions (`Separable`) meet the rest of a problem only in the camera's nuisances and in the prior. A curve's posterior has a
flat far side (an uptake faster than the first scan can tell) and now and then a second mode (washout or second uptake), which
no Gaussian about an optimum holds; in five to fifteen dimensions and closed form tempered Monte Carlo finds both within
milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse.csgraph import connected_components

from tdt_core.assimilation.problem import Prior, Problem, build_problem, factor_of
from tdt_core.assimilation.target import Target
from tdt_core.assimilation.tempered import smc
from tdt_core.kinetics.ladder import Separable
from tdt_core.twin import Region

FloatArray = npt.NDArray[np.float64]

TIED = 0.6
"""Regions whose parameters correlate more in the prior (two kidneys, not two lesions) are drawn together. Assumed."""


def with_tempered_curves(
    target: Target, theta: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Draws theta (m, p) with the parameters of such regions drawn again, and which parameters (p,) these are.

    Only in the problem of one cycle, and only regions with data. Groups of tied regions are fitted alone under their own prior.
    What they share with others (calibration, resolution) is as in `theta`: their own parameters follow by their regression on
    what is shared.
    """
    problem, again = target.problem, np.zeros(target.size, dtype=np.bool_)
    if not isinstance(problem, Problem):
        return theta, again
    theta = theta.copy()
    for group in _tied(problem, seen_curves(problem)):
        part, rows, at = alone(problem, group)
        sample = smc(Target(part, target.sd[rows]), rng, members=len(theta)).sample
        assert sample is not None
        own = np.array([name.startswith(tuple(f"{r.name}." for r in group)) for name in part.names])
        centred = sample - sample.mean(axis=0)
        slope = np.linalg.lstsq(centred[:, ~own], centred[:, own], rcond=None)[0]
        theta[:, at[own]] = sample[:, own] + (theta[:, at[~own]] - sample[:, ~own]) @ slope
        again[at[own]] = True
    return theta, again


def _tied(problem: Problem, regions: Sequence[Region]) -> list[list[Region]]:
    """Regions in groups that the prior ties."""
    names = [r.name for r in regions]
    owner = [name.rpartition(".")[0] for name in problem.names[: problem.n_model]]
    covariance = (problem.factor @ problem.factor.T)[: len(owner), : len(owner)]
    scale = np.sqrt(np.diag(covariance))
    tied = np.zeros((len(names), len(names)), dtype=np.bool_)
    for i, j in np.argwhere(np.abs(covariance) > TIED * np.outer(scale, scale)):
        if owner[i] in names and owner[j] in names:
            tied[names.index(owner[i]), names.index(owner[j])] = True
    count, group = connected_components(tied, directed=False)
    return [[r for r, g in zip(regions, group, strict=True) if g == k] for k in range(count)]


def curved(problem: Problem) -> tuple[Region, ...]:
    """Regions of a problem that have curves of their own."""
    return problem.model.separable if isinstance(problem.model, Separable) else ()


def seen_curves(problem: Problem) -> list[Region]:
    """Those of them that have data."""
    names = {datum.name for datum in problem.data}
    return [region for region in curved(problem) if region.name in names]


class Part(NamedTuple):
    """A problem, and which data and parameters (nuisances with them) of the whole one it has."""

    problem: Problem
    rows: npt.NDArray[np.intp]
    columns: npt.NDArray[np.intp]


def alone(problem: Problem, group: Sequence[Region]) -> Part:
    """The problem of some regions with curves of their own, under their part of the prior."""
    assert isinstance(problem.model, Separable)
    model = problem.model.of_regions(group)
    names = tuple(model.parameters)
    at = [problem.names.index(name) for name in names]
    covariance = (problem.factor @ problem.factor.T)[np.ix_(at, at)]
    regions = {r.name for r in group}
    activities = problem.evidence.activities
    own = replace(problem.evidence, activities=tuple(a for a in activities if a.region in regions), samples=())
    part = build_problem(Prior(names, problem.mean[at], covariance, "its part of the whole prior"), own, model)
    rows = np.array([problem.data.index(datum) for datum in part.data], dtype=np.intp)
    columns = np.array([problem.names.index(name) for name in part.names], dtype=np.intp)
    # errors and nuisances as in the whole problem, whatever the curves' own rung would say of them
    covariance = (problem.factor @ problem.factor.T)[np.ix_(columns, columns)]
    part = replace(part, mean=problem.mean[columns], factor=factor_of(covariance), sd=problem.sd[rows])
    return Part(part, rows, columns)
