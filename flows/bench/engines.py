"""`tdt bench engines --anatomy FOLDER`: one map of activity through every dose engine, and where they differ.

FOLDER holds a labelled anatomy as `tdt phantom --anatomy` takes it. Activities of regions come from a table (`--activity`,
columns region, value in MBq, unit, status, source); without one every region holds 1 MBq/mL. All decay where they are, at the
physical half-life, so the doses are no patient's: the bench is about the engines. Targets are the regions and, in the body
without them, each medium by itself. Monte Carlo is the reference, with its statistics told.
"""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.anatomy_files import read_anatomy
from tdt_core.dosimetry import MATERIALS, absorbed_dose, dvh
from tdt_core.dosimetry.engines.mc import monte_carlo_dose
from tdt_core.errors import InputError, UsageError
from tdt_core.imaging.density import CtMedia, media
from tdt_core.imaging.masks import body_outline
from tdt_core.imaging.volume import Volume
from tdt_core.nuclides import nuclide as nuclide_of

Array = npt.NDArray[Any]
ENGINES = ("local", "kernel", "multimedium")
REFERENCE = "mc"
SURE = 0.03
"""Largest relative statistical SD of a voxel of Monte Carlo that a comparison voxel by voxel counts."""
METRICS = ("d98", "d50", "d2")


@dataclass(frozen=True, eq=False)
class Case:
    """The map that all engines get. `targets` are masks by name, disjoint."""

    tia_mbq_h: Array
    spacing_mm: tuple[float, float, float]
    affine: Array
    hu: Array
    media: CtMedia
    targets: Mapping[str, Array]
    source: str


def run(
    anatomy: str | None = None,
    activity: str | None = None,
    nuclide: str = "Lu-177",
    decays: float = 2e7,
    seed: int = 1,
    pictures: str | None = None,
) -> dict[str, Any]:
    """Named figures; with `pictures` also PNG files in that folder."""
    if anatomy is None:
        raise UsageError("no anatomy", expected="--anatomy FOLDER", kind="usage.bench")
    case = prepare(Path(anatomy), None if activity is None else Path(activity), nuclide)
    density, material = case.media.density.array, case.media.material
    doses, seconds = {}, {}
    for engine in ENGINES:
        start = time.perf_counter()
        doses[engine] = absorbed_dose(case.tia_mbq_h, case.spacing_mm, nuclide, density, material, engine)
        seconds[engine] = time.perf_counter() - start
    start = time.perf_counter()
    reference = monte_carlo_dose(case.tia_mbq_h, case.spacing_mm, nuclide, density, material, decays=int(decays), seed=seed)
    seconds[REFERENCE] = time.perf_counter() - start
    doses[REFERENCE] = reference.dose_gy
    if pictures is not None:
        from flows.bench.engine_pictures import draw

        draw(Path(pictures), case, doses, reference.sd_gy, nuclide)
    return {
        "nuclide": nuclide,
        "decays": reference.decays,
        "grid": list(case.tia_mbq_h.shape),
        "spacing_mm": list(case.spacing_mm),
        "cores": len(os.sched_getaffinity(0)),
        "seconds": seconds,
        "escaped_fraction": reference.escaped_fraction,
        "targets": {name: _target(name, mask, doses, reference.sd_gy, case) for name, mask in case.targets.items()},
        "findings": list(case.media.findings),
        "source": case.source,
    }


def prepare(folder: Path, activity: Path | None, nuclide: str) -> Case:
    """The anatomy with its activity. Raises what reading raises, and InputError for a table that does not fit."""
    a = read_anatomy(folder)
    ct = Volume(a.hu.astype(np.float32), a.affine, "HU", "anatomy")
    body = body_outline(ct)
    inside = {name: (a.labels == code) for code, name in a.names.items()}
    ct_media = media(ct, body | np.any(list(inside.values()), axis=0))
    held = {n: float(m.sum()) * ct.voxel_ml for n, m in inside.items()} if activity is None else read_activity(activity, inside)
    decays_per_mbq = nuclide_of(nuclide).half_life_h / math.log(2.0)  # MBq h per MBq that stays
    tia = np.zeros(a.hu.shape, np.float32)
    for name, mbq in held.items():
        tia[inside[name]] = mbq * decays_per_mbq / inside[name].sum()
    rest = body & ~np.any(list(inside.values()), axis=0)
    others = {f"rest: {m}": rest & (ct_media.material == i) for i, m in enumerate(MATERIALS) if m != "air"}
    targets = {n: m for n, m in (inside | others).items() if m.any()}
    return Case(tia, ct.spacing_mm, a.affine, a.hu, ct_media, targets, a.source)


def read_activity(path: Path, regions: Mapping[str, Array]) -> dict[str, float]:
    """Region -> MBq. Raises InputError for unknown regions, other units and numbers that are no activity."""
    found = {}
    with path.open(encoding="utf-8", newline="") as f:
        for row in csv.DictReader(line for line in f if not line.startswith("#")):
            try:
                region, unit, mbq = row["region"], row["unit"], float(row["value"])
            except (KeyError, TypeError, ValueError):
                region, unit, mbq = "", "", math.nan
            if region not in regions or unit != "MBq" or not (math.isfinite(mbq) and mbq >= 0):
                raise InputError(
                    "a table of activities with a row that does not fit the anatomy",
                    expected=f"columns region, value, unit (MBq), status, source; regions {', '.join(regions)}",
                    remedy="correct that row",
                    kind="input.activity",
                )
            found[region] = mbq
    return found


def _target(name: str, mask: Array, doses: Mapping[str, Array], sd_gy: Array, case: Case) -> dict[str, Any]:
    """Means, DVH metrics and the difference voxel by voxel from Monte Carlo, where its statistics allow one."""
    truth, sd = doses[REFERENCE][mask].astype(float), sd_gy[mask].astype(float)
    sure = (truth > 0) & (sd <= SURE * truth)
    row: dict[str, Any] = {
        "volume_ml": float(mask.sum() * np.prod(case.spacing_mm) / 1000.0),
        "tia_mbq_h": float(case.tia_mbq_h[mask].sum(dtype=np.float64)),
        "mc_gy": float(truth.mean()),
        "mc_voxel_rel_sd": float(np.median(sd[truth > 0] / truth[truth > 0])) if (truth > 0).any() else None,
        "sure_voxels": int(sure.sum()),
        "voxels": int(mask.sum()),
        "mean_over_mc": {},
        "voxel_over_mc": {},
        "dvh_gy": {e: {k: dvh(doses[e], mask).metrics[k] for k in METRICS} for e in (*ENGINES, REFERENCE)},
    }
    for engine in ENGINES:
        row["mean_over_mc"][engine] = float(doses[engine][mask].mean(dtype=np.float64)) / row["mc_gy"] if row["mc_gy"] else None
        ratio = doses[engine][mask][sure] / truth[sure]
        row["voxel_over_mc"][engine] = np.quantile(ratio, (0.05, 0.5, 0.95)).tolist() if ratio.size >= 20 else None
    return row


def describe(figures: dict[str, Any]) -> str:
    """Tables in Markdown."""
    grid = " x ".join(str(n) for n in figures["grid"])
    lines = [
        f"{figures['nuclide']}, {grid} voxels, {figures['decays']:.3g} decays; "
        + ", ".join(f"{e} {s:.1f} s" for e, s in figures["seconds"].items())
        + f" ({figures['cores']} cores); {figures['escaped_fraction']:.1%} of the energy escapes",
        "",
        "| target | mL | mc, Gy | voxel sd of mc | " + " | ".join(f"{e} / mc" for e in ENGINES) + " |",
        "|---|---|---|---|" + "---|" * len(ENGINES),
    ]
    for name, t in figures["targets"].items():
        sd = "" if t["mc_voxel_rel_sd"] is None else f"{t['mc_voxel_rel_sd']:.1%}"
        ratios = (_ratio(t["mean_over_mc"][e]) for e in ENGINES)
        lines.append(f"| {name} | {t['volume_ml']:.4g} | {t['mc_gy']:.3g} | {sd} | {' | '.join(ratios)} |")
    lines += [
        "",
        f"Voxel by voxel over mc, 5 %, 50 % and 95 % of the voxels that mc knows to {SURE:.0%}:",
        "",
        "| target | voxels | " + " | ".join(ENGINES) + " |",
        "|---|---|" + "---|" * len(ENGINES),
    ]
    for name, t in figures["targets"].items():
        if any(t["voxel_over_mc"].values()):
            cells = (" ".join(_ratio(q) for q in t["voxel_over_mc"][e] or ()) for e in ENGINES)
            lines.append(f"| {name} | {t['sure_voxels']} of {t['voxels']} | {' | '.join(cells)} |")
    lines += ["", "| target, Gy | " + " | ".join((*ENGINES, REFERENCE)) + " |", "|---|" + "---|" * (len(ENGINES) + 1)]
    for name, t in figures["targets"].items():
        if t["tia_mbq_h"] > 0:
            cells = (" / ".join(f"{t['dvh_gy'][e][m]:.3g}" for m in METRICS) for e in (*ENGINES, REFERENCE))
            lines.append(f"| {name}, {' / '.join(m.upper() for m in METRICS)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *figures["findings"], f"anatomy: {figures['source']}"])


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 2 else f"{value:.2f}"
