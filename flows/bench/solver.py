"""`tdt bench solver`: the batch solver against libRoadRunner (CVODE) on the same model, in the same run.

Both solve the 58 states of `psma_reference` and the time integrals of all regions, weighted by the decay of Lu-177, from one
bolus to 1000 h, for virtual patients with varied receptors, flows and volumes. libRoadRunner compiles the exported SBML once
and then loops over patients; its tolerances are swept, and the fastest that reaches our error counts. Errors are those of the
time integrals: per patient the largest relative one over regions, against a solve at a relative tolerance of 1e-11; the
benchmark reports their mean. Figures per patient are for one core.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from flows.bench.clock import best, cores
from tdt_core.errors import UsageError
from tdt_core.kinetics import sbml
from tdt_core.kinetics.lanes import LANES
from tdt_core.kinetics.pbrpk import PBRPK, pbrpk
from tdt_core.kinetics.rosenbrock import Solution, solve
from tdt_core.kinetics.simulation import Run, plan
from tdt_core.twin import Administration

FloatArray = npt.NDArray[np.float64]

END_H = 1000.0
GIVEN = (Administration(0.0, "benchmark", "PSMA-617", "Lu-177", 7400.0, amount_nmol=110.0),)
VARIED = {
    "tumour_1.R_density": 0.5, "tumour_2.R_density": 0.5, "tumour_rest.R0": 0.5, "salivary_glands.R_density": 0.3,
    "kidneys.R_density": 0.3, "kidneys.lambda_rel": 0.2, "salivary_glands.lambda_rel": 0.2, "TER": 0.2, "body.weight": 0.15,
    "kidneys.volume": 0.2, "liver.volume": 0.2, "spleen.volume": 0.3, "tumour_1.volume": 0.5, "tumour_2.volume": 0.5,
    "muscle.kPS": 0.2, "liver.flow_fraction": 0.1, "k_on": 0.2,
}  # fmt: skip
"""Quantity -> sd of its logarithm between virtual patients of this benchmark (a spread for speed, not a population)."""


def run(patients: int = 512, many: int = 10_000, peers: int = 24, repeats: int = 5, seed: int = 1) -> dict[str, Any]:
    """Named figures. `patients` make a batch, `many` the large one, `peers` of them are given to libRoadRunner."""
    import numba

    if patients < LANES or peers < 1 or peers > patients:
        raise UsageError("too few patients", expected=f"patients >= {LANES}, 1 <= peers <= patients", kind="usage.bench")
    count = min(numba.config.NUMBA_NUM_THREADS, 2)  # type: ignore[attr-defined]
    model = pbrpk("psma_reference")
    course = plan(model, GIVEN, [], END_H, 1e-4, by_part=False)
    ours = Ours(model, course, seed)
    ours.solve(ours.coefficients(LANES + 1), 1e-4)  # compiled before any clock runs

    with cores(count):
        seconds, _ = best(lambda: ours.solve(ours.coefficients(many), 1e-4), 2)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        coefficients = ours.coefficients(patients)
        truth = ours.solve(coefficients[:peers], 1e-11).integrals
        large = ours.coefficients(many)
        both, _ = best(lambda: ours.solve(large, 1e-4), repeats)
    figures: dict[str, Any] = {
        "states": len(course.network.states),
        "time_integrals": len(course.regions),
        "patients": patients,
        "seconds_10000_patients": seconds * 10_000 / many,
        "peak_memory_gb": memory,
    }
    with cores(1):
        peer = Peer(model, course)
        for rtol, name in ((1e-4, "rtol1e-4"), (1e-6, "rtol1e-6")):
            wall, found = best(partial(ours.solve, coefficients, rtol), repeats)
            error = mean_error(found.integrals[:peers], truth)
            theirs = peer.fastest(coefficients[:peers], truth, error)
            figures |= {
                f"ms_per_patient.{name}": 1e3 * wall / patients,
                f"tia_error.{name}": error,
                f"steps.{name}": float(found.steps.mean()),
                f"roadrunner_ms_per_patient.{name}": theirs["ms"],
                f"roadrunner_tia_error.{name}": theirs["error"],
                f"roadrunner_rtol.{name}": theirs["rtol"],
                f"ratio.{name}": theirs["ms"] / (1e3 * wall / patients),
            }
        one, _ = best(lambda: ours.solve(large, 1e-4), repeats)
        alone, _ = best(lambda: ours.solve(coefficients[:1], 1e-4), repeats)
    return figures | {"two_core_speedup": one / both if count > 1 else None, "ms_alone.rtol1e-4": 1e3 * alone}


class Ours:
    """The batch solver on virtual patients."""

    def __init__(self, model: PBRPK, course: Run, seed: int) -> None:
        self.model, self.course, self.seed = model, course, seed
        values = model.quantities({})
        self.medians = {name: float(values[model.resolve(name)]) for name in VARIED}

    def coefficients(self, m: int) -> FloatArray:
        """(m, c) of virtual patients; patient k is the same in every batch."""
        z = np.random.default_rng(self.seed).standard_normal((m, len(VARIED)))
        drawn = {name: self.medians[name] * np.exp(sd * z[:, i]) for i, (name, sd) in enumerate(VARIED.items())}
        return self.course.network.gather(self.model.coefficients(drawn))

    def solve(self, coefficients: FloatArray, rtol: float) -> Solution:
        """One batch."""
        found = solve(self.course.tables, coefficients, self.course.course, rtol, self.course.scale_nmol)
        assert not found.failed.any()
        return found


class Peer:
    """libRoadRunner on the exported model: compiled once, coefficients set for each patient."""

    def __init__(self, model: PBRPK, course: Run) -> None:
        import roadrunner

        roadrunner.Logger.setLevel(roadrunner.Logger.LOG_ERROR)
        names = sbml.identifiers(model)
        self.runner = roadrunner.RoadRunner(sbml.export(model, {}, GIVEN, integrals=True))
        ids = list(self.runner.model.getGlobalParameterIds())
        self.set = [ids.index(names.coefficients[c]) for c in course.network.coefficients]
        label = course.network.states[0].label
        self.integrals = [names.integrals[label, region] for region in course.regions]
        self.kept = roadrunner.SelectionRecord.TIME | roadrunner.SelectionRecord.RATE | roadrunner.SelectionRecord.FLOATING
        self.runner.timeCourseSelections = self.integrals

    def solve(self, coefficients: FloatArray) -> FloatArray:
        """(m, regions) time integrals."""
        out = np.empty((len(coefficients), len(self.integrals)))
        for i, row in enumerate(coefficients):
            self.runner.model.setGlobalParameterValues(self.set, row.tolist())
            self.runner.reset(self.kept)
            out[i] = self.runner.simulate(0.0, END_H * 60.0, 2)[-1]
        return out

    def fastest(self, coefficients: FloatArray, truth: FloatArray, error: float) -> dict[str, float]:
        """The fastest tolerances whose error does not exceed `error`: ms per patient, error, rtol."""
        found: dict[str, float] = {"ms": np.inf}
        for share in (1e-2, 1e-4):
            for exponent in np.arange(2.0, 12.1, 0.5):
                rtol = float(10.0**-exponent)
                self.runner.integrator.relative_tolerance = rtol
                self.runner.integrator.absolute_tolerance = rtol * share * 110.0
                self.runner.integrator.maximum_num_steps = 1_000_000
                wall, integrals = best(lambda: self.solve(coefficients), 2)
                reached = mean_error(integrals, truth)
                if reached <= error:
                    ms = 1e3 * wall / len(coefficients)
                    if ms < found["ms"]:
                        found = {"ms": ms, "error": reached, "rtol": rtol}
                    break
        return found


def mean_error(integrals: FloatArray, truth: FloatArray) -> float:
    """Mean over patients of the largest relative error over regions that hold anything."""
    seen = truth.min(axis=0) > 0
    return float((np.abs(integrals / np.where(seen, truth, 1.0) - 1.0)[:, seen]).max(axis=1).mean())


def describe(figures: Mapping[str, Any]) -> str:
    """A few lines for the terminal."""
    lines = [f"{figures['states']} states, {figures['time_integrals']} time integrals, {END_H:g} h, one core:"]
    for name in ("rtol1e-4", "rtol1e-6"):
        lines.append(
            f"  {name}: {figures[f'ms_per_patient.{name}']:.3f} ms a patient (error {figures[f'tia_error.{name}']:.1e}), "
            f"libRoadRunner {figures[f'roadrunner_ms_per_patient.{name}']:.2f} ms (error "
            f"{figures[f'roadrunner_tia_error.{name}']:.1e}): {figures[f'ratio.{name}']:.1f} times faster"
        )
    lines.append(f"  two cores: {figures['two_core_speedup'] or float('nan'):.2f} times faster than one")
    lines.append(f"  10,000 patients: {figures['seconds_10000_patients']:.2f} s, {figures['peak_memory_gb']:.2f} GB")
    return "\n".join(lines)
