"""`tdt bench design`: does it pay to choose the scans of a patient by what they are expected to tell of that patient?

Virtual patients of the fitting rung itself, after a PET (or after nothing but the population). Every arm sees scans of the same
simulated series, so that measurement errors are shared where scans are:

    fixed        the protocol `--fixed`, four scans
    pair         the two scans of `--hours` that `design` expects to leave the least of ln kidneys and ln tumours together
    one by one   the earlier of that pair first; after its fit the second is chosen among the later hours
    same pair    the pair that leaves the least on average over this cohort: the best that one protocol of two scans could be

What is judged is the time-integrated activity of kidneys and of all tumours against the truth, and the variance that each
posterior holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flows.bench.resumable import by_patient
from flows.bench.virtual import Virtual, drawn
from flows.design import HOURS
from tdt_core.assimilation import Prior, assimilate, designs, next_prior, population_prior, transition
from tdt_core.assimilation.experiment import simulated
from tdt_core.errors import UsageError
from tdt_core.kinetics import KineticModel
from tdt_core.twin import Evidence, Posterior

FloatArray = npt.NDArray[np.float64]
Pair = tuple[float, float]

OFFERED = ",".join(f"{t:g}" for t in HOURS)
FIXED = "4,24,72,168"
TARGETS = {"kidneys": "kidneys", "tumours": "lesions"}
"""What is judged -> organ whose regions' activities are summed."""
TRUTH, ERRORS, FIT, CHOICE, AGAIN = 61, 62, 63, 64, 65  # streams of random numbers
RESAMPLES = 2000


def run(
    patients: int = 40,
    seed: int = 1,
    rung: str = "whole_body",
    hours: str = OFFERED,
    fixed: str = FIXED,
    pet: int = 1,
    draws: int = 300,
    processes: int = 1,
    folder: str | None = None,
) -> dict[str, Any]:
    """Named figures of virtual patients with seeds `seed * 100000 + i`, by arm and target.

    pet : 1 begins after a PET, 0 with the population alone.
    """
    offered, protocol = _times(hours), _times(fixed)
    if patients < 2 or len(offered) < 2 or not protocol or draws < 20 or pet not in (0, 1):
        raise UsageError(
            f"{patients} patients, {draws} draws, hours {hours!r}, fixed {fixed!r}, pet {pet}",
            expected="two patients, 20 draws, two hours above 0 to choose from, a protocol, and pet 0 or 1",
            kind="usage.bench",
        )
    # all times: they share one stream of errors
    about = f"{rung}-{pet}-{draws}-{'_'.join(f'{t:g}' for t in offered)}-{'_'.join(f'{t:g}' for t in protocol)}"
    numbers = [seed * 100_000 + i for i in range(patients)]
    options = (rung, offered, protocol, bool(pet), draws)
    first = by_patient(one_patient, {f"design-{about}-{n}": (n, *options) for n in numbers}, processes, folder)
    shares = np.mean([[row["share"] for row in r["pairs"]] for r in first], axis=0)
    same = tuple(first[0]["pairs"][int(np.argmin(shares))]["hours"])
    # who chose that pair anyway has its fit already
    others = [r["seed"] for r in first if tuple(r["pair"]) != same]
    second = by_patient(
        with_pair, {f"design-{about}-pair-{same[0]:g}-{same[1]:g}-{n}": (n, *options, same) for n in others}, processes, folder
    )
    by_seed = {r["seed"]: r["rows"] for r in second}
    rows = [row for r in first for row in (*r["rows"], *by_seed.get(r["seed"], _same_pair(r["rows"])))]
    chosen = Counter(tuple(r["pair"]) for r in first)
    return figures(rows, seed) | {
        "patients": patients,
        "seed": seed,
        "rung": rung,
        "pet": bool(pet),
        "fixed": protocol,
        "same_pair": list(same),
        "chosen_pairs": [{"hours": list(p), "patients": n} for p, n in chosen.most_common(5)],
        "expected_left": {
            "adaptive": float(np.mean([min(row["share"] for row in r["pairs"]) for r in first])),
            "same_pair": float(shares.min()),
            "by_pair": [{"hours": row["hours"], "share": float(s)} for row, s in zip(first[0]["pairs"], shares, strict=True)],
        },
    }


def _times(words: str) -> list[float]:
    try:
        found = sorted({float(t) for t in words.split(",") if t.strip()})
    except ValueError:
        return []
    return found if found and found[0] > 0 else []


@dataclass(frozen=True, eq=False)
class _Case:
    """A virtual patient ready to be measured: what is believed before the first scan, and all scans that could be had."""

    seed: int
    virtual: Virtual
    rung: KineticModel
    belief: Prior
    everything: Evidence
    truth: dict[str, float]
    draws: int

    def totals(self, theta: FloatArray) -> dict[str, FloatArray]:
        """Target -> (m,) time-integrated activity, MBq h, for (m, n) parameters."""
        tia = self.rung.time_integrated_activity(np.atleast_2d(theta), self.virtual.therapy(1))
        return {name: tia[:, [r.organ == organ for r in self.virtual.regions]].sum(axis=1) for name, organ in TARGETS.items()}

    def scanned(self, hours: Sequence[float]) -> Evidence:
        """The evidence of the scans at these hours."""
        times = [self.virtual.therapy(1).time_h + t for t in hours]
        kept = tuple(a for a in self.everything.activities if np.isclose(a.time_h, times, atol=1e-9).any())
        return replace(self.everything, activities=kept)

    def fit(self, hours: Sequence[float]) -> Posterior:
        """The fit of these scans."""
        return assimilate(self.belief, self.scanned(hours), self.rung, seed=(self.seed, FIT, 1), n_draws=self.draws)

    def rows(self, arm: str, posterior: Posterior) -> list[dict[str, Any]]:
        """A row per target."""
        found = self.totals(posterior.draws[:, : len(self.belief.names)])
        return [
            {
                "arm": arm,
                "target": name,
                "relative_error": float(np.median(found[name]) / true - 1.0),
                "variance": float(np.log(found[name]).var()),
                "covered": bool(np.quantile(found[name], 0.05) <= true <= np.quantile(found[name], 0.95)),
            }
            for name, true in self.truth.items()
        ]

    def shares(self, belief: Prior | Posterior, sets: Sequence[tuple[float, ...]]) -> list[float]:
        """Of each set of scans, the mean over targets of the share of the variance of ln that it is expected to leave."""
        plans = {f"{t:g}": self.virtual.plan(1, [t]) for t in sorted({t for s in sets for t in s})}
        names = [tuple(f"{t:g}" for t in s) for s in sets]
        quantities = {name: lambda theta, n=name: self.totals(theta)[n] for name in TARGETS}
        found = designs(belief, plans, quantities, names, model=self.rung, seed=(self.seed, CHOICE))
        left = [{w.names: 1.0 - w.reduction for w in ranked} for ranked in found.values()]
        return [float(np.mean([x[n] for x in left])) for n in names]


def _case(seed: int, name: str, offered: Sequence[float], protocol: Sequence[float], pet: bool, draws: int) -> _Case:
    """The same patient, errors and belief whenever it is asked for."""
    rng, errors = np.random.default_rng([seed, TRUTH]), np.random.default_rng([seed, ERRORS])
    virtual = drawn(seed, rng)
    rung = virtual.rung(name)
    population = population_prior(rung)
    theta = population.draws(1, rng)[0]
    seen = simulated(virtual.plan(0), rung, theta, errors)
    belief = population
    if pet:
        after = assimilate(population, seen, rung, seed=(seed, FIT), n_draws=draws)
        belief = next_prior(after, transition(rung, 0, 0.0, treated=False), "PET")
    everything = simulated(virtual.plan(1, sorted({*offered, *protocol})), rung, theta, errors)
    case = _Case(seed, virtual, rung, belief, everything, {}, draws)
    return replace(case, truth={q: float(v[0]) for q, v in case.totals(theta).items()})


def one_patient(
    seed: int, name: str, offered: Sequence[float], protocol: Sequence[float], pet: bool, draws: int, work: Path
) -> dict[str, Any]:
    """Rows of the arms that need no other patient, and what every pair is expected to leave."""
    case = _case(seed, name, offered, protocol, pet, draws)
    pairs = list(combinations(offered, 2))
    shares = case.shares(case.belief, pairs)
    pair = pairs[int(np.argmin(shares))]
    rows = [*case.rows("fixed", case.fit(protocol)), *case.rows("pair", case.fit(pair))]
    later = [(t,) for t in offered if t > pair[0]]
    second = later[int(np.argmin(case.shares(case.fit(pair[:1]), later)))]
    rows += case.rows("one by one", case.fit((pair[0], *second)))
    told = [{"hours": list(p), "share": s} for p, s in zip(pairs, shares, strict=True)]
    return {"seed": seed, "pair": list(pair), "then": [pair[0], *second], "pairs": told, "rows": rows}


def _same_pair(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a chosen pair as those of the pair for all."""
    return [{**row, "arm": "same pair"} for row in rows if row["arm"] == "pair"]


def with_pair(
    seed: int,
    name: str,
    offered: Sequence[float],
    protocol: Sequence[float],
    pet: bool,
    draws: int,
    pair: Sequence[float],
    work: Path,
) -> dict[str, Any]:
    """Rows of the pair that all patients have in common."""
    case = _case(seed, name, offered, protocol, pet, draws)
    return {"seed": seed, "rows": case.rows("same pair", case.fit(pair))}


def figures(rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """By arm and target: errors, coverage, mean variance of ln; and by how much choosing lowers the variance."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))

    def of(key: str, arm: str, target: str) -> FloatArray:
        return np.array([row[key] for row in rows if row["arm"] == arm and row["target"] == target], dtype=float)

    by_arm = {
        arm: {
            target: {
                "median_abs_error": float(np.median(np.abs(of("relative_error", arm, target)))),
                "q95_abs_error": float(np.quantile(np.abs(of("relative_error", arm, target)), 0.95)),
                "coverage90": float(of("covered", arm, target).mean()),
                "mean_variance": float(of("variance", arm, target).mean()),
            }
            for target in TARGETS
        }
        for arm in arms
    }
    rng = np.random.default_rng([seed, AGAIN])
    lower: dict[str, dict[str, dict[str, float]]] = {}
    for arm in ("pair", "one by one"):
        lower[arm] = {}
        for target in TARGETS:
            own, same = of("variance", arm, target), of("variance", "same pair", target)
            again = rng.integers(0, own.size, (RESAMPLES, own.size))
            drawn_ = 1.0 - own[again].mean(axis=1) / same[again].mean(axis=1)
            low, high = np.quantile(drawn_, (0.05, 0.95))
            lower[arm][target] = {
                "lower_by": float(1.0 - own.mean() / same.mean()),
                "q05": float(low),
                "q95": float(high),
            }
    return {"arms": by_arm, "variance_below_same_pair": lower}


def describe(told: Mapping[str, Any]) -> str:
    """The table for the terminal."""
    before = "a PET" if told["pet"] else "the population alone"
    same = " and ".join(f"{t:g}" for t in told["same_pair"])
    names = {"fixed": f"fixed at {', '.join(f'{t:g}' for t in told['fixed'])} h", "same pair": f"all at {same} h"}
    lines = [
        f"{told['patients']} virtual patients, seed {told['seed']}, {told['rung']}, after {before}: time-integrated activity",
        f"{'scans':<28}{'of':<10}{'|error|':>9}{'95 %':>8}{'cover':>8}{'sd of ln':>10}",
    ]
    for arm, by in told["arms"].items():
        for target, r in by.items():
            lines.append(
                f"{names.get(arm, arm):<28}{target:<10}{r['median_abs_error']:>9.3f}{r['q95_abs_error']:>8.3f}"
                f"{r['coverage90']:>8.2f}{np.sqrt(r['mean_variance']):>10.3f}"
            )
    for arm, by in told["variance_below_same_pair"].items():
        words = ", ".join(f"{t} {r['lower_by']:+.0%} ({r['q05']:+.0%} to {r['q95']:+.0%})" for t, r in by.items())
        lines.append(f"variance of {arm!r} below that of all at {same} h: {words}")
    left = told["expected_left"]
    chosen = "; ".join(f"{p['hours'][0]:g} and {p['hours'][1]:g} h: {p['patients']}" for p in told["chosen_pairs"])
    worst = max(left["by_pair"], key=lambda p: p["share"])
    lines.append(
        f"expected share of variance left: chosen {left['adaptive']:.3f}, the same pair {left['same_pair']:.3f}, the worst one "
        f"({worst['hours'][0]:g} and {worst['hours'][1]:g} h) {worst['share']:.3f}"
    )
    lines.append(f"pairs chosen: {chosen}")
    return "\n".join(lines)
