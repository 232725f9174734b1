"""`tdt bench estimators`: every estimator on the same virtual patients, with rich and with scarce data, for the same time.

Patients are drawn from the fitting rung's population prior and their images err as the estimators believe
(`flows.bench.virtual`), so an exact posterior covers 90 %. Each estimator is given about `seconds` of one patient's time: its
effort (members, draws, solves) is set from the measured time of a solve, within what it can use; the search for the optimum
that settles which data are outliers is a part of every estimator's time. Chains need far more than a few seconds: `mcmc` stands
here for what it is at this budget, and as the reference elsewhere. `network` is there where PyTorch is installed, on the first
ten patients.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flows.bench.resumable import by_patient
from flows.bench.virtual import QUANTITIES, Virtual, drawn, told_of
from tdt_core.assimilation import assimilate, build_problem, population_prior
from tdt_core.assimilation import estimators as registered
from tdt_core.assimilation.ensemble import MEMBERS
from tdt_core.assimilation.experiment import simulated
from tdt_core.assimilation.network import couplings
from tdt_core.assimilation.target import Target
from tdt_core.errors import TwinError, UsageError
from tdt_core.kinetics import KineticModel
from tdt_core.parameters import packaged_table
from tdt_core.trials.population import TABLE, scan_times

FloatArray = npt.NDArray[np.float64]

LEVELS: Mapping[str, tuple[float, ...] | None] = {"rich": None, "two": (24.0, 96.0), "one": (72.0,)}
"""Level of data -> hours of the scans; None: those of `trial_measurement.csv`."""
TRUTH, ERRORS, FIT = 41, 42, 43

EFFORT: Mapping[str, Callable[[float, int], dict[str, Any]]] = {
    # solves that the budget allows, parameters -> options: factors that make a fit of `reduced_body` take about 5 s, and bounds
    # where more is of no use. A member of `ies` costs more the more there are, so that it does not follow other budgets
    # after the search and the expansion; a member moves by the model and, mostly, by what is far cheaper
    "map": lambda solves, p: {"members": int(np.clip((solves - 150 * p) / 15, 200, 4000))},
    "es_mda": lambda solves, p: {"members": int(np.clip(solves / 2.5, MEMBERS, 25_000))},
    "ies": lambda solves, p: {"members": int(np.clip(solves / 5, 200, 2200))},
    "smc": lambda solves, p: {"members": int(np.clip(solves / 240, 100, 4000))},
    "mcmc": lambda solves, p: {"chains": 2, "warm_up": 20, "most_steps": 3, "draws": int(np.clip(solves / (50 * p), 20, 5000))},
    "cluster_gauss_newton": lambda solves, p: {"members": int(np.clip(solves / 45, 50, 300))},
    "differential_evolution": lambda solves, p: {"solves": int(solves)},
    "simulated_annealing": lambda solves, p: {"solves": int(np.clip(solves / p, 50, 1_000_000))},
    # after the Laplace fits that it starts from
    "network": lambda solves, p: {"steps": int(np.clip((solves - 100 * p) / (8 * (p + 1)), 10, 500))},
}


def run(
    patients: int = 50,
    seed: int = 1,
    rung: str = "reduced_body",
    names: str = "",
    seconds: float = 5.0,
    draws: int = 500,
    processes: int = 1,
    folder: str | None = None,
    network_patients: int = 10,
) -> dict[str, Any]:
    """Named figures of `patients` virtual patients by estimator and level of data; `names` separated by commas, empty: all."""
    if "network" in names:
        couplings()  # where PyTorch is missing, says what to install
    chosen = tuple(x.strip() for x in names.split(",") if x.strip()) or registered()
    if unknown := sorted(set(chosen) - set(registered())):
        raise UsageError(
            f"--names {names}: no estimator named {', '.join(unknown)}",
            expected=f"some of {', '.join(registered())}, separated by commas",
            kind="usage.bench",
        )
    if patients < 1 or not seconds > 0:
        raise UsageError(
            f"--patients {patients}, --seconds {seconds:g}",
            expected="at least one patient and a time above 0 s",
            kind="usage.bench",
        )
    arguments: dict[str, tuple[Any, ...]] = {}
    for i in range(patients):
        number, mine = seed * 100_000 + i, tuple(x for x in chosen if x != "network" or i < network_patients)
        if mine:
            arguments[f"{rung}-{'+'.join(mine)}-{seconds:g}-{draws}-{number}"] = (number, rung, mine, seconds, draws)
    rows = [row for r in by_patient(one_patient, arguments, processes, folder) for row in r["rows"]]
    about = {"patients": patients, "seed": seed, "rung": rung, "budget_seconds": seconds, "hours": hours_of_levels()}
    fewer = {"network": min(patients, network_patients)} if "network" in chosen else {}
    return figures(rows, chosen) | about | {"patients_of": fewer}


def hours_of_levels() -> dict[str, list[float]]:
    """Level of data -> hours of its scans after the administration."""
    usual = scan_times(packaged_table(TABLE)).tolist()
    return {level: list(usual if times is None else times) for level, times in LEVELS.items()}


def one_patient(seed: int, name: str, chosen: Sequence[str], seconds: float, draws: int, work: Path) -> dict[str, Any]:
    """Rows by estimator and level: one for each quantity, or one that says why the estimator refused."""
    rng = np.random.default_rng([seed, TRUTH])
    virtual = drawn(seed, rng)
    rung = virtual.rung(name)
    prior = population_prior(rung)
    theta = prior.draws(1, rng)[0]
    truth = {q: float(d[0]) for q, d in virtual.dose(rung, theta, 1).items()}
    rows: list[dict[str, Any]] = []
    if "network" in chosen:
        couplings()  # the import of PyTorch is no part of a fit
    for level, times in LEVELS.items():
        evidence = simulated(virtual.plan(1, times), rung, theta, np.random.default_rng([seed, ERRORS]))
        target = Target(problem := build_problem(prior, evidence, rung), problem.sd)
        solves = seconds / _seconds_per_solve(target)
        for estimator in chosen:
            options = EFFORT[estimator](solves, target.size) if estimator in EFFORT else {}
            started = time.process_time()
            about: dict[str, Any] = {"estimator": estimator, "level": level}
            try:
                posterior = assimilate(prior, evidence, rung, estimator, seed=(seed, FIT), n_draws=draws, options=options)
            except (TwinError, np.linalg.LinAlgError) as error:
                rows.append({**about, "failed": str(error), "seconds": time.process_time() - started})
                continue
            spent = time.process_time() - started
            rows += _compared(virtual, rung, posterior.draws[:, : len(prior.names)], truth, {**about, "seconds": spent})
    return {"seed": seed, "rows": rows}


def _compared(
    virtual: Virtual, rung: KineticModel, theta: FloatArray, truth: Mapping[str, float], about: Mapping[str, Any]
) -> list[dict[str, Any]]:
    doses = virtual.dose(rung, theta, 1)
    return [{**told_of(q, truth[q], doses[q]), **about} for q in QUANTITIES]


def _seconds_per_solve(target: Target) -> float:
    """Processor time of one member in a batch, compiled code warm."""
    z = 0.5 * np.random.default_rng(0).standard_normal((64, target.size))
    target.residuals(z)
    started = time.process_time()
    target.residuals(z)
    return max((time.process_time() - started) / len(z), 1e-6)


def figures(rows: Sequence[Mapping[str, Any]], chosen: Sequence[str]) -> dict[str, Any]:
    """By estimator and level: median absolute error, CRPS, coverage and half-width over all quantities, seconds, failures."""
    told: dict[str, Any] = {"estimators": {}}
    for name in chosen:
        by_level = {}
        for level in LEVELS:
            mine = [r for r in rows if r["estimator"] == name and r["level"] == level]
            good = [r for r in mine if "failed" not in r]
            failures = [r["failed"] for r in mine if "failed" in r]
            by_level[level] = {"failures": len(failures), "first_failure": failures[0] if failures else None}
            if good:
                by_level[level] |= {
                    "median_abs_error": float(np.median([abs(r["relative_error"]) for r in good])),
                    "crps": float(np.mean([r["crps"] for r in good])),
                    "coverage90": float(np.mean([r["covered"] for r in good])),
                    "halfwidth90_median": float(np.median([r["half_width"] for r in good])),
                    "seconds": float(np.median([r["seconds"] for r in mine])),
                }
        told["estimators"][name] = by_level
    return told


def describe(told: Mapping[str, Any]) -> str:
    """The table for the terminal."""
    about = f"{told['patients']} virtual patients, seed {told['seed']}, rung {told['rung']}"
    fewer = "".join(f"; {name} on the first {n}" for name, n in told["patients_of"].items() if n < told["patients"])
    lines = [
        f"{about}, about {told['budget_seconds']:g} s a fit{fewer}",
        f"{'estimator':<24}{'data':<6}{'error':>8}{'CRPS':>9}{'cover':>8}{'±90 %':>8}{'s':>8}{'failed':>8}",
    ]
    legend = [
        "absorbed doses of cycle 1: " + ", ".join(QUANTITIES),
        "error: median of |median / truth - 1|; CRPS: mean, over the truth; cover: share of 90 % intervals that hold the truth",
        "±90 %: median of half of the 90 % interval over its median; s: processor time of a fit, median; failed: fits refused",
        "data: " + "; ".join(f"{k}, scans at {', '.join(f'{t:g}' for t in h)} h" for k, h in told["hours"].items()),
    ]
    for name, levels in told["estimators"].items():
        for level, r in levels.items():
            keys = ("median_abs_error", "crps", "coverage90", "halfwidth90_median", "seconds")
            cells = "".join(f"{r[k]:>{w}.3f}" for k, w in zip(keys, (8, 9, 8, 8, 8), strict=True)) if "crps" in r else " " * 41
            lines.append(f"{name:<24}{level:<6}{cells}{r['failures']:>8}")
    return "\n".join([*lines, *legend])
