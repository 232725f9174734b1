"""From pools of the kinetics to activity in structures and voxels.

Every pool is spread over structures by fixed shares that add up to one together with what lies outside the field of view
(arms, legs), so that activity in the field + outside + excreted = administered, decayed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tdt_core.phantom.anatomy import FIRST_LESION, Anatomy, Structure, UInt8, tissues
from tdt_core.phantom.draws import rows, stream
from tdt_core.phantom.kinetics import (
    FAECES,
    FAST,
    GUT,
    LIVER,
    LUMEN,
    MARROW,
    PLASMA,
    SLOW,
    URINE,
    Course,
    SystemParameters,
)
from tdt_core.phantom.physiology import BODY, Body
from tdt_core.phantom.shapes import lowest

FloatArray = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
IMAGES = "phantom_images.csv"
LARGEST_SHARE = 0.95
"""Of blood or interstitial water that the field of view may hold; the rest is in arms and legs."""


def spread(parts: FloatArray, total: float) -> FloatArray:
    """Shares of a pool by size of its parts; at most 95 % stay inside."""
    return parts / max(total, parts.sum() / LARGEST_SHARE)


def shares(
    p: SystemParameters, body: Body, structures: Sequence[Structure], volumes_ml: FloatArray, medulla: Mapping[str, float]
) -> FloatArray:
    """(structures + 1, pools) share of every pool in every structure; the last row is outside the field of view.

    `medulla` is the concentration ratio of medulla over cortex per kidney. Urine and faeces have no share here.
    """
    n = len(structures)
    out = np.zeros((n + 1, p.n_states))
    tissue = [tissues()[s.tissue] for s in structures]
    blood = np.array([t.blood_share for t in tissue]) * volumes_ml
    interstitial_ml = rows(BODY)["interstitial.per_weight"].parameter.value * body.patient.weight_kg * 1000
    out[:n, PLASMA] = spread(blood, body.blood_l * 1000)
    out[:n, FAST] = spread(np.array([t.fast_share for t in tissue]) * volumes_ml, interstitial_ml)
    out[:n, SLOW] = spread(np.array([t.slow_share for t in tissue]) * volumes_ml, interstitial_ml)
    marrow = np.array([s.tissue == "marrow" for s in structures]) * volumes_ml
    out[:n, MARROW] = spread(marrow, body.marrow_total_ml)
    by_name = {s.name: i for i, s in enumerate(structures) if volumes_ml[i] > 0}
    if "liver" in by_name:
        out[by_name["liver"], LIVER] = 1.0
    if "bowel" in by_name:
        out[by_name["bowel"], GUT] = 1.0
    for i, name in enumerate(p.kidneys):
        c, m = by_name.get(f"{name}_cortex"), by_name.get(f"{name}_medulla")
        if c is None or m is None:
            continue
        held = medulla[name] * volumes_ml[m] / (medulla[name] * volumes_ml[m] + volumes_ml[c])
        for pool in range(4):
            inner = 0.5 if pool == LUMEN else held
            out[m, p.kidney_state(i, pool)], out[c, p.kidney_state(i, pool)] = inner, 1 - inner
    for i, name in enumerate(p.tissues):
        if name in by_name:
            for pool in range(3):
                out[by_name[name], p.tissue_state(i, pool)] = 1.0
    out[n] = 1.0 - out[:n].sum(axis=0)
    out[:, [URINE, FAECES]] = 0.0
    return out


@dataclass(frozen=True, eq=False)
class Curves:
    """Decay-free amounts over time as shares of the injected amount, with the physical decay put on when asked.

    `fractions` is (t, structures + 2): structures, outside the field of view, excreted.
    """

    times_h: FloatArray
    fractions: FloatArray
    half_life_h: float
    activity_mbq: float

    def activity(self, time_h: float | FloatArray) -> FloatArray:
        """Activity (MBq) in every column at times after the injection; (columns,) or (t, columns)."""
        t = np.atleast_1d(np.asarray(time_h, float))
        i = np.clip(np.searchsorted(self.times_h, t, side="right") - 1, 0, self.times_h.size - 2)
        w = np.clip((t - self.times_h[i]) / (self.times_h[i + 1] - self.times_h[i]), 0, 1)[:, None]
        amount = (1 - w) * self.fractions[i] + w * self.fractions[i + 1]
        out = self.activity_mbq * amount * np.exp(-np.log(2) / self.half_life_h * t)[:, None]
        return out if np.ndim(time_h) else out[0]

    def mean_activity(self, start_h: float, duration_h: float) -> FloatArray:
        """(columns,) activity averaged over a frame (Simpson over five points)."""
        at = self.activity(start_h + duration_h * np.linspace(0, 1, 5))
        return np.asarray(np.array([1, 4, 2, 4, 1]) @ at / 12.0)

    def integral(self) -> FloatArray:
        """(columns,) time-integrated activity from 0 to the end of the grid, MBq.h; exact for the piecewise linear amounts."""
        lam = np.log(2) / self.half_life_h
        t0, dt = self.times_h[:-1], np.diff(self.times_h)
        x = lam * dt
        e = np.exp(-x)
        small = x < 1e-3
        safe = np.where(small, 1.0, x)
        whole = np.where(small, dt * (1 - x / 2 + x * x / 6), (1 - e) / safe * dt)
        ramp = np.where(small, dt * (0.5 - x / 3 + x * x / 8), (1 - e - safe * e) / safe**2 * dt)
        start = np.exp(-lam * t0)
        f0, f1 = self.fractions[:-1], self.fractions[1:]
        return np.asarray(self.activity_mbq * ((start * (whole - ramp)) @ f0 + (start * ramp) @ f1))


def curves(course: Course, share: FloatArray, bladder: int | None, half_life_h: float, activity_mbq: float) -> Curves:
    """Shares of the injected activity per structure, outside and excreted. `bladder` is its structure's index, or None when the
    anatomy has none: its urine then counts as outside the field of view."""
    inside = course.amounts @ share.T
    inside[:, bladder if bladder is not None else -1] += course.bladder
    fractions = np.concatenate([inside, course.excreted[:, None]], axis=1) / course.amount_nmol
    return Curves(course.times_h, fractions, half_life_h, activity_mbq)


def texture_field(seed: int, anatomy: Anatomy) -> Float32:
    """Smooth Gaussian field of unit variance on the half voxels, one per patient."""
    rng = stream(seed, "texture")
    sigma = rows(IMAGES)["texture.length"].parameter.value / anatomy.grid.spacing_mm
    field = ndimage.gaussian_filter(rng.standard_normal(anatomy.grid.shape, dtype=np.float32), sigma, mode="wrap")
    field /= field.std()
    return np.asarray(field, np.float32)


def texture(anatomy: Anatomy, labels: UInt8, field: Float32) -> Float32:
    """Relative concentration in every half voxel, mean 1 over each structure: log-normal texture, necrotic cores darker."""
    structures = anatomy.structures()
    sd = np.array([tissues()[s.tissue].texture_sd for s in structures], np.float32)
    out = np.exp(sd[labels] * field)
    for i, lesion in enumerate(anatomy.lesions):
        if lesion.core_share > 0:
            mask = labels[lesion.box] == FIRST_LESION + i
            core = lowest(lesion.level, mask, max(1, round(lesion.core_share * int(mask.sum()))), lesion.name)
            out[lesion.box][core] *= rows(IMAGES)["lesions.core_factor"].parameter.value
    n = len(structures)
    count = np.bincount(labels.ravel(), minlength=n)
    mean = np.bincount(labels.ravel(), weights=out.ravel(), minlength=n) / np.maximum(count, 1)
    out /= np.where(mean > 0, mean, 1.0).astype(np.float32)[labels]
    return np.asarray(out, np.float32)
