"""`tdt bench reference`: the default estimator against long Markov chains, on frozen cases of the rung's own population."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flows.bench.resumable import by_patient
from flows.bench.virtual import QUANTITIES, drawn
from tdt_core.assimilation import assimilate, population_prior
from tdt_core.assimilation.experiment import simulated
from tdt_core.errors import UsageError

CASE = 51  # stream of random numbers
SHIFT_SD, SD = 0.2, 0.15
"""How near the estimator must be: shift of the mean of ln dose in sd of the chains, relative difference of the sd."""


def run(
    cases: int = 10,
    rung: str = "sum_of_exponentials",
    draws: int = 1000,
    chains: int = 4,
    most_steps: int = 6,
    processes: int = 2,
    folder: str | None = None,
) -> dict[str, Any]:
    """Named figures of cases 1 to `cases`: `draws` of each of `chains`, trajectories of at most 2^most_steps steps."""
    if cases < 1 or draws < 20 or chains < 2:
        raise UsageError(
            f"{cases} cases, {chains} chains of {draws}",
            expected="at least one case, two chains, 20 draws",
            kind="usage.bench",
        )
    arguments = {
        f"reference-{rung}-{draws}-{chains}-{most_steps}-{n}": (n, rung, draws, chains, most_steps) for n in range(1, cases + 1)
    }
    return figures(by_patient(one_case, arguments, processes, folder)) | {"cases": cases, "rung": rung}


def one_case(seed: int, name: str, draws: int, chains: int, most_steps: int, work: Path) -> dict[str, Any]:
    """By quantity, how far the default fit of one patient is from the chains, and how far these mixed."""
    rng = np.random.default_rng([seed, CASE])
    virtual = drawn(seed, rng)
    rung = virtual.rung(name)
    prior = population_prior(rung)
    evidence = simulated(virtual.plan(1), rung, prior.draws(1, rng)[0], rng)
    n, count, started = len(prior.names), 2000, time.perf_counter()
    by_map = assimilate(prior, evidence, rung, n_draws=count)
    options = {"draws": draws, "chains": chains, "warm_up": 150, "most_steps": most_steps}
    by_chains = assimilate(prior, evidence, rung, "mcmc", n_draws=count, options=options)
    found, reference = (virtual.dose(rung, p.draws[:, :n], 1) for p in (by_map, by_chains))
    told: dict[str, Any] = {"shift_sd": {}, "sd_ratio": {}}
    for q in QUANTITIES:
        a, b = np.log(found[q]), np.log(reference[q])
        told["shift_sd"][q] = float((a.mean() - b.mean()) / b.std())
        told["sd_ratio"][q] = float(a.std() / b.std())
    mixed = by_chains.diagnostics["estimator"]
    return told | {
        "r_hat": mixed["r_hat"],
        "effective_size": mixed["effective_size"],
        "seconds": time.perf_counter() - started,
    }


def figures(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Share of doses within the bounds, the extremes by quantity, and how the chains mixed."""
    shift = {q: np.array([r["shift_sd"][q] for r in results]) for q in QUANTITIES}
    ratio = {q: np.array([r["sd_ratio"][q] for r in results]) for q in QUANTITIES}
    near = [(np.abs(shift[q]) < SHIFT_SD) & (np.abs(ratio[q] - 1.0) < SD) for q in QUANTITIES]
    return {
        "doses_within": float(np.mean(near)),
        "cases_within": int(np.sum(np.all(near, axis=0))),
        "largest_shift_sd": {q: float(np.abs(shift[q]).max()) for q in QUANTITIES},
        "sd_ratio": {q: [float(ratio[q].min()), float(ratio[q].max())] for q in QUANTITIES},
        "r_hat_largest": float(max(r["r_hat"] for r in results)),
        "effective_size_least": float(min(r["effective_size"] for r in results)),
        "seconds_median": float(np.median([r["seconds"] for r in results])),
    }


def describe(told: Mapping[str, Any]) -> str:
    """The figures for the terminal."""
    chains = f"R-hat at most {told['r_hat_largest']:.3f}, effective size at least {told['effective_size_least']:.0f}"
    lines = [
        f"{told['cases']} cases of {told['rung']}: default estimator against long chains ({chains}, "
        f"{told['seconds_median']:.0f} s a case)",
        f"within {SHIFT_SD} sd in mean and {SD:.0%} in sd: {told['doses_within']:.0%} of doses, "
        f"all doses of {told['cases_within']} cases",
    ]
    for q in QUANTITIES:
        low, high = told["sd_ratio"][q]
        lines.append(
            f"  {q:<9} largest shift {told['largest_shift_sd'][q]:.2f} sd; sd of the fit over theirs {low:.2f} to {high:.2f}"
        )
    return "\n".join(lines)
