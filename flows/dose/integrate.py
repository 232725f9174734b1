"""Time integration of a cycle's images: what each method needs beside them, and what its regions' curves and draws are."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from flows.dose.take_in import TakenIn
from tdt_core.dosimetry.region_curves import DrawnCurve, drawn_curves
from tdt_core.dosimetry.time_integration import TimeIntegrated, time_integrated_activity
from tdt_core.dosimetry.time_integration.redraw import noise_sd
from tdt_core.dosimetry.time_integration.single_time import population_half_life
from tdt_core.imaging.quantification import CycleImages
from tdt_core.nuclides import nuclide as nuclide_of

Float32 = npt.NDArray[np.float32]
SINGLE = ("hanscheid_2017", "hanscheid_2018", "madsen")
"""Methods of one scan that need a half-life: that of a population is taken."""
TWIN_ONLY = ("population_shape", "twin_shape")
"""Methods that need the curves of a kinetic model."""
_LABEL = re.compile(r"\blabel (\d+)")


@dataclass(frozen=True, eq=False)
class Integrated:
    """The result of a method with what dose and report need beside it.

    Attributes
    ----------
    curves : region -> curve with draws. factors : (draws, regions) of mean 1 on a region's time-integrated activity.
    noise_rel : (z, y, x) relative SD per voxel that is not common to its region; None where the method tells none.
    findings : in words, regions by name.
    """

    result: TimeIntegrated
    curves: Mapping[str, DrawnCurve]
    factors: npt.NDArray[np.float64]
    noise_rel: Float32 | None
    findings: tuple[str, ...]


def only(images: CycleImages, scan: int) -> CycleImages:
    """The images of one scan, 1 for the first, without what was found of the others."""
    kept = images.registered[scan - 1]
    others = {f for s in images.registered if s is not kept for f in s.findings} - set(kept.findings)
    return replace(
        images,
        registered=(kept,),
        activities=tuple(a for a in images.activities if a.scan == kept.scan),
        findings=tuple(f for f in images.findings if f not in others),
    )


def integrate(taken: TakenIn, images: CycleImages, method: str, before_first: str | None, draws: int, seed: int) -> Integrated:
    """Time-integrated activity per voxel. `before_first` None is the method's own. Raises what the method raises."""
    nuclide = taken.therapy.nuclide
    times = {s.scan: taken.hours(s.time_h) for s in images.registered}
    at = np.array(list(times.values()))
    scans = scaled_scans(images)
    options: dict[str, Any] = {}
    lives: dict[int, float] = {}
    if method in SINGLE:
        known = {n: population_half_life(taken.therapy.ligand, r.organ, nuclide) for n, r in enumerate(images.regions, 1)}
        lives = {n: life for n, (life, _) in known.items()}
        spreads = {n: log_sd for n, (_, log_sd) in known.items()}
        options = {"outside_window": "report", "half_life_h": lives, "half_life_log_sd": spreads}
    if method == "hierarchical":
        options = {"total": "region"}
    result = time_integrated_activity(
        scans,
        at,
        nuclide,
        method=method,
        labels=images.labels.labels,
        sd_mbq=noise(images, scans),
        before_first=before_first,  # type: ignore[arg-type]
        outside="zero",
        **options,
    )
    decay = math.log(2.0) / nuclide_of(nuclide).half_life_h
    tails = {images.regions[n - 1].name: v for n, v in lives.items()}
    early = before_first or ("exponential" if method in SINGLE else "constant")
    curves = drawn_curves(images.activities, times, decay, draws, seed, early, tails)
    assumed = method not in SINGLE and before_first is None
    factors, shared = _factors(images, result, curves, assumed, draws, seed)
    findings = [_LABEL.sub(lambda m: images.regions[int(m[1]) - 1].name, f) for f in result.findings]
    findings = [f for f in findings if not f.startswith("before the first scan")]  # stands among the assumptions
    return Integrated(result, curves, factors, _noise_rel(images, result, shared), tuple(findings))


def scaled_scans(images: CycleImages) -> Float32:
    """(scans, z, y, x) MBq per voxel: registered images whose sum over each region is its corrected activity.

    A region without any counts in a scan gets its activity evenly.
    """
    labels = images.labels.labels
    size = np.bincount(labels.ravel(), minlength=len(images.regions) + 1)
    corrected = {(a.scan, a.region): a.activity_mbq for a in images.activities}
    out = np.empty((len(images.registered), *labels.shape), np.float32)
    for k, scan in enumerate(images.registered):
        voxels = np.maximum(scan.volume.array, np.float32(0))
        sums = np.bincount(labels.ravel(), weights=voxels.ravel(), minlength=len(size))
        wanted = np.array([0.0, *(corrected[scan.scan, r.name] for r in images.regions)])
        scale = np.divide(wanted, sums, out=np.zeros_like(wanted), where=sums > 0)
        even = np.where((sums > 0) | (size == 0), 0.0, wanted / np.maximum(size, 1))
        out[k] = voxels * scale.astype(np.float32)[labels] + even.astype(np.float32)[labels]
    return out


def noise(images: CycleImages, scans: Float32) -> Float32 | None:
    """(scans, z, y, x) noise SD from counts; None where a scan came without counts (Bq/mL)."""
    counts = [s.counts_per_mbq for s in images.registered]
    if not all(c > 0 for c in counts):
        return None
    fwhm = float(np.mean([s.resolution.fwhm_mm for s in images.registered]))
    return noise_sd(scans, images.spacing_mm, counts, fwhm)


def _factors(
    images: CycleImages,
    result: TimeIntegrated,
    curves: Mapping[str, DrawnCurve],
    assumed: bool,
    draws: int,
    seed: int,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(draws, regions) on the TIA of regions, and (labels,) the relative SD that a single-time factor is unsure by.

    `assumed`: nobody said what holds before the first scan, so a region's draws lie evenly between an even rise from zero and
    the decline drawn back.
    """
    rng = np.random.default_rng([seed, 2])
    before = np.random.default_rng([seed, 3])
    shared = np.zeros(len(images.regions) + 1)
    columns = []
    for n, region in enumerate(images.regions, start=1):
        curve = curves[region.name]
        drawn = curve.integral[1:]
        if assumed:
            least, most = (curve.before_first(how)[1:] for how in ("linear", "exponential"))
            drawn = curve.parts[1:, 1:].sum(axis=0) + least + before.random(draws) * (most - least)
        shared[n] = result.regions.get(n, {}).get("factor_rel_sd", 0.0)
        s = math.sqrt(math.log1p(shared[n] ** 2))
        drawn = drawn * np.exp(s * rng.standard_normal(draws) - 0.5 * s**2)
        columns.append(drawn / drawn.mean() if drawn.mean() > 0 else np.ones(draws))
    return np.stack(columns, axis=1), shared


def _noise_rel(images: CycleImages, result: TimeIntegrated, shared: npt.NDArray[np.float64]) -> Float32 | None:
    if result.sd_mbq_h is None:
        return None
    tia = np.maximum(result.tia_mbq_h, np.float32(1e-30))
    relative = np.where(result.tia_mbq_h > 0, result.sd_mbq_h / tia, np.float32(0))
    common = shared.astype(np.float32)[images.labels.labels]
    return np.sqrt(np.maximum(relative**2 - common**2, np.float32(0)))
