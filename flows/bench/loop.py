"""`tdt bench loop`: the whole loop on reference patients against their truth, files in, states out.

Each patient runs in a process of its own (peak memory is per patient). Finished patients are kept in the work folder under
their options, so that an interrupted run goes on where it stopped; after a change of code use another folder.
"""

from __future__ import annotations

import resource
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flows.bench.resumable import by_patient
from flows.truth import KINDS, errors, kind_of, read_truth

VARIANTS = ("standard", "standard", "standard", "one_kidney", "no_spleen")
Look = Callable[[Any, Any, Path], Any]
ORGANS = {organ for organs in KINDS.values() for organ in organs}


def run(
    patients: int = 20,
    seed: int = 1,
    cycles: int = 2,
    matrix: int = 64,
    processes: int = 2,
    folder: str | None = None,
    model: str | None = None,
    images: str | None = None,
) -> dict[str, Any]:
    """Named figures of `patients` reference patients with seeds `seed * 1000 + i`; `images` as in `PhantomSettings`."""
    started = time.perf_counter()
    arguments = cohort("patient", patients, seed, cycles, matrix, model, images)
    results = by_patient(one_patient, arguments, processes, folder, tasks_per_process=1)
    return figures(results) | {"patients": patients, "seed": seed, "wall_seconds": time.perf_counter() - started}


def cohort(
    kept_as: str, patients: int, seed: int, cycles: int, matrix: int, model: str | None, images: str | None
) -> dict[str, tuple[int, str, int, int, str | None, str | None]]:
    """Name of what is kept -> first arguments of `one_patient`, for seeds `seed * 1000 + i`."""
    options = "-".join([str(cycles), str(matrix), model or "default", *([images] if images else [])])
    return {
        f"{kept_as}-{seed * 1000 + i}-{options}": (
            seed * 1000 + i,
            VARIANTS[i % len(VARIANTS)],
            cycles,
            matrix,
            model,
            images,
        )
        for i in range(patients)
    }


def one_patient(
    seed: int,
    variant: str,
    cycles: int,
    matrix: int,
    model: str | None,
    images: str | None,
    work: Path,
    look: Look | None = None,
) -> dict[str, Any]:
    """Write a reference patient, run the loop on its files, compare every state with the truth.

    `look(site, state, folder of the cycle's true maps)` gives plain data on a treated state, kept as `looks`.
    """
    from flows.chain import run_chain
    from flows.settings import load_settings
    from flows.site import open_site
    from storage.phantom_files import write_reference_patient
    from tdt_core.phantom import PhantomSettings, reference_patient

    folder = work / f"run-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        chosen: dict[str, Any] = {} if images is None else {"images": images}
        settings = PhantomSettings(seed=seed, cycles=cycles, matrix=matrix, variant=variant, **chosen)  # type: ignore[arg-type]
        write_reference_patient(folder / "patient", reference_patient(settings))
        truth = read_truth(folder / "patient" / "truth" / "truth.json")
        site = open_site(load_settings(home=folder / "home", model=model))
        started = time.perf_counter()
        states = [site.store.load(s) for s in run_chain(site, folder / "patient" / "inbox")["states"]]
        seconds = (time.perf_counter() - started) / max(len(states), 1)
        rows = [dict(row, cycle=s.cycle) for s in states if s.cycle > 0 for row in errors(s, truth[s.cycle])]
        true_maps = folder / "patient" / "truth"
        looks = [] if look is None else [look(site, s, true_maps / f"cycle-{s.cycle}") for s in states if s.cycle > 0]
        return {
            "seed": seed,
            "variant": variant,
            "looks": looks,
            "completed": len([s for s in states if s.cycle > 0]) == cycles,
            "rows": rows,
            "forecasts": [score for s in states if s.cycle == 1 for score in forecast_scores(s, truth[2])],
            "abstained": [s.proposal.reasons for s in states if s.proposal is not None and s.proposal.abstains],
            "two_j_per_n": [s.posterior.diagnostics["two_j_per_n"] for s in states],
            "seconds_per_cycle": seconds,
            "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        }
    except Exception as error:  # a failed member is recorded, first class
        return {"seed": seed, "variant": variant, "completed": False, "error": f"{error}", "trace": traceback.format_exc()}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def forecast_scores(state: Any, truth: Mapping[str, Any]) -> list[dict[str, Any]]:
    """CRPS of ln Gy/GBq of the next cycle per region: the twin, the population with the same covariates, carry-forward."""
    from tdt_core.assimilation import state_model
    from tdt_core.planning.forecast import (
        dose_matrix,
        gy_per_mbq,
        mass_factor_draws,
        next_parameters,
        population_gy_per_mbq,
    )
    from tdt_core.planning.outlook import ledger_names, organ_of
    from tdt_core.scores import crps

    rung = state_model(state)
    seed = (int(state.identity["root_seed"]), state.cycle)
    given = state.evidence.therapy()
    theta = next_parameters(rung, state.posterior, state.cycle, state.identity["settings"]["product"]["interval_h"], seed)
    factors = mass_factor_draws(state.evidence, state.posterior, state.posterior.draws[:, : theta.shape[1]], seed)
    candidates = {
        "twin": gy_per_mbq(rung, theta, given, dose_matrix(state), factors),
        "population": population_gy_per_mbq(state, len(theta), seed),
        "carry_forward": state.ledger.dose_gy[-1] / given.net_activity_mbq,
    }
    scores = []
    for i, name in enumerate(ledger_names(rung.regions)):
        kind = kind_of(organ_of(rung.regions, name))
        if kind is None or name not in truth["regions"]:
            continue
        true = np.log(float(truth["regions"][name]["gy_per_gbq"]) / 1e3)
        score: dict[str, Any] = {"region": name, "kind": kind}
        for who, draws in candidates.items():
            logs = np.log(np.maximum(draws[i], 1e-12))
            score[f"crps_{who}"] = crps(logs, true)
            score[f"error_{who}"] = float(abs(np.median(logs) - true))
        scores.append(score)
    return scores


def figures(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The named figures of finished patients."""
    good = [r for r in results if r["completed"]]
    rows = [row for r in good for row in r["rows"]]
    out: dict[str, Any] = {"completed_fraction": len(good) / max(len(results), 1)}
    for kind in KINDS:
        members = [row for row in rows if row["kind"] == kind and row["region"] not in ORGANS]
        wide = [row for row in members if kind != "lesions" or row["true_volume_ml"] > 5.0]
        out[f"n.{kind}"] = len(members)
        out[f"coverage90.{kind}"] = float(np.mean([row["covered"] for row in members])) if members else None
        out[f"halfwidth90_median.{kind}"] = float(np.median([row["half_width"] for row in wide])) if wide else None
        out[f"median_error.{kind}"] = float(np.median([row["relative_error"] for row in wide])) if wide else None
    kidneys = [row for row in rows if row["kind"] == "kidneys" and row["region"] not in ORGANS]
    out["kidney_dose_median_abs_error"] = float(np.median([abs(row["relative_error"]) for row in kidneys])) if kidneys else None
    for other in ("population", "carry_forward"):
        for measure in ("crps", "error"):
            won = [_mean(r, f"{measure}_twin") < _mean(r, f"{measure}_{other}") for r in good if r["forecasts"]]
            key = f"forecast_beats_{other}" + ("" if measure == "crps" else "_abs_error")
            out[key] = float(np.mean(won)) if won else None
    for who in ("twin", "population", "carry_forward"):
        scored = [_mean(r, f"crps_{who}") for r in good if r["forecasts"]]
        out[f"forecast_crps.{who}"] = float(np.mean(scored)) if scored else None
    out["two_j_per_n_median"] = float(np.median([x for r in good for x in r["two_j_per_n"]])) if good else None
    out["abstentions"] = sum(len(r["abstained"]) for r in good)
    out["seconds_per_cycle"] = float(np.median([r["seconds_per_cycle"] for r in good])) if good else None
    out["peak_memory_gb"] = float(np.max([r["peak_memory_gb"] for r in good])) if good else None
    out["failures"] = [{"seed": r["seed"], "error": r["error"]} for r in results if "error" in r]
    return out


def _mean(result: dict[str, Any], key: str) -> float:
    """Mean over the kinds of the mean over regions, so that many lesions do not outvote the kidneys."""
    kinds = [[s[key] for s in result["forecasts"] if s["kind"] == kind] for kind in KINDS]
    return float(np.mean([np.mean(values) for values in kinds if values]))


def describe(out: dict[str, Any]) -> str:
    """The figures as text, with the goals beside them."""
    goals = {
        "completed_fraction": "1",
        "coverage90.kidneys": "0.80-0.97",
        "coverage90.glands": "0.80-0.97",
        "coverage90.lesions": "0.80-0.97",
        "halfwidth90_median.kidneys": "<= 0.25",
        "halfwidth90_median.glands": "<= 0.35",
        "halfwidth90_median.lesions": "<= 0.40",
        "kidney_dose_median_abs_error": "<= 0.12",
        "forecast_beats_population": ">= 0.60",
        "forecast_beats_carry_forward": ">= 0.55",
        "peak_memory_gb": "< 6",
    }
    lines = []
    for key, value in out.items():
        shown = f"{value:.3g}" if isinstance(value, float) else f"{value}"
        lines.append(f"{key:38s} {shown:>10s}   {goals.get(key, '')}")
    return "\n".join(lines)
