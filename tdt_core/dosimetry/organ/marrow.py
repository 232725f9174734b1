"""Absorbed dose of red marrow: self-dose from blood samples or from the image, cross-dose from all else; the method is kept.

The two ways differ by about a factor of 2 in the same cohort (Lu-177-DOTATATE: 20.5 mGy/GBq by blood, 41.9 by image), so a
marrow dose without its method says little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tdt_core.dosimetry.organ.s_values import GY_PER_MBQ_H, MGY_G_PER_KEV, OrganSValues
from tdt_core.dosimetry.s_values import point_kernels
from tdt_core.dosimetry.units import FloatArray
from tdt_core.errors import InputError, TimeError
from tdt_core.nuclides import Progeny
from tdt_core.nuclides import nuclide as decay_of
from tdt_core.parameters import packaged_table
from tdt_core.twin import Sample

Method = Literal["blood", "image"]
METHODS: Mapping[str, str] = {
    "blood": "activity of blood samples times the marrow-to-blood ratio, cross-dose by photons",
    "image": "activity in the segmented marrow, cross-dose by photons",
}
MARROW = "red_marrow"


@dataclass(frozen=True, eq=False)
class MarrowDose:
    """Absorbed dose of red marrow, Gy.

    Attributes
    ----------
    method : "blood" or "image".
    self_gy : (draws,) from activity in the marrow. cross_gy : (draws,) per source, photons only.
    ratio : marrow-to-blood concentration; None for the image method.
    """

    method: Method
    self_gy: FloatArray
    cross_gy: Mapping[str, FloatArray]
    ratio: float | None = None

    @property
    def total_gy(self) -> FloatArray:
        """(draws,) self- and cross-dose."""
        return np.asarray(self.self_gy + sum(self.cross_gy.values(), np.zeros_like(self.self_gy)))


def marrow_to_blood_ratio(haematocrit: float | None, *, peptide: bool = False) -> float:
    """Activity concentration of red marrow over that of blood (RMBLR).

    0.19 / (1 - haematocrit); 1 for small peptides, which reach all of the marrow, and where the haematocrit is not known.
    Raises InputError for a haematocrit that is no fraction.
    """
    table = packaged_table("organ_level.csv")
    if haematocrit is not None and not 0 <= haematocrit < 1:
        raise InputError(f"haematocrit {haematocrit}", expected="a fraction, 0 to 1", kind="input.haematocrit")
    if peptide or haematocrit is None:
        return table.value("marrow.ratio_of_peptides")
    return table.value("marrow.extracellular_fraction") / (1.0 - haematocrit)


def blood_time_integral(times_h: Sequence[float], concentration: Sequence[float], nuclide: str) -> float:
    """Time-integrated concentration from the administration on, in the unit of `concentration` times h.

    Exponential between samples; before the first one along the first two, never below it; after the last along the last two,
    never slower than decay. Zero samples are joined by straight lines.

    Raises
    ------
    TimeError : times that do not rise, or negative. InputError : fewer than two samples, or negative ones.
    """
    t, c = np.asarray(times_h, dtype=np.float64), np.asarray(concentration, dtype=np.float64)
    if t.shape != c.shape or t.ndim != 1 or t.size < 2:
        raise InputError(f"{t.size} blood samples", expected="two at least, one value each", kind="input.blood")
    if not (np.isfinite(t).all() and t[0] >= 0 and (np.diff(t) > 0).all()):
        raise TimeError(f"blood samples at {t.tolist()} h", expected="rising hours after the administration")
    if not (np.isfinite(c).all() and (c >= 0).all()):
        raise InputError("blood samples with negative values", expected=">= 0", kind="input.blood")
    decay = np.log(2) / decay_of(nuclide).half_life_h
    inner = sum(_between(t[i + 1] - t[i], c[i], c[i + 1]) for i in range(t.size - 1))
    first = _rate(t[1] - t[0], c[0], c[1])
    start = c[0] * np.exp(max(first, 0.0) * t[0])
    last = max(_rate(t[-1] - t[-2], c[-2], c[-1]), decay)
    return float(_between(t[0], start, c[0]) + inner + c[-1] / last)


def blood_draws(
    samples: Sequence[Sample], nuclide: str, given_h: float, draws: int, seed: tuple[int, ...]
) -> FloatArray | None:
    """(draws,) time-integrated activity of blood from an administration on, MBq h per mL; None below two samples to use.

    Used are blood samples of that nuclide after the administration that were not below the limit of quantification; those of
    one time (two counters) count as their mean. Each draw takes every sample with its own relative and absolute error, and all
    of one counter with one error of its calibration.
    """
    found = sorted(
        (s for s in samples if s.kind == "blood" and s.nuclide == nuclide and s.time_h > given_h and not s.below),
        key=lambda s: s.time_h,
    )
    times, at = np.unique([s.time_h - given_h for s in found], return_inverse=True)
    if times.size < 2:
        return None
    values = np.array([s.value for s in found])
    own = np.array([np.hypot(s.relative_sd, s.absolute_sd / s.value) for s in found])
    counters = sorted({s.calibration_id for s in found})
    shared = np.array([s.calibration_sd for s in found])
    rng = np.random.default_rng(seed)
    errors = rng.standard_normal((draws, len(found))) * own
    errors += rng.standard_normal((draws, len(counters)))[:, [counters.index(s.calibration_id) for s in found]] * shared
    mean = (at == np.arange(times.size)[:, None]) / np.bincount(at)[:, None]  # (times, samples)
    return np.array([blood_time_integral(times.tolist(), v, nuclide) for v in values * np.exp(errors) @ mean.T])


def _rate(step: float, before: float, after: float) -> float:
    """Rate of fall between two samples, 1/h; 0 where a sample is zero."""
    return float(np.log(before / after) / step) if before > 0 and after > 0 else 0.0


def _between(step: float, before: float, after: float) -> float:
    """Integral of the exponential through two values."""
    k = _rate(step, before, after) * step
    return float(step * (before + after) / 2 if abs(k) < 1e-9 else step * (before - after) / k)


def marrow_self_dose_of_blood(
    blood_mbq_h_per_ml: FloatArray | float, ratio: float, nuclide: str, progeny: Progeny = "equilibrium"
) -> FloatArray:
    """Self-dose of marrow by charged particles, Gy, all absorbed; blood as time-integrated activity per mL.

    Activity per gram of marrow is that per gram of blood times the ratio; the mass of marrow cancels.
    """
    density = packaged_table("organ_level.csv").value("blood.density")
    per_gram = np.asarray(blood_mbq_h_per_ml, dtype=np.float64) / density * ratio
    return np.asarray(per_gram * point_kernels(nuclide, progeny).electrons.total_kev * MGY_G_PER_KEV * GY_PER_MBQ_H)


def marrow_dose(
    s: OrganSValues,
    tia_mbq_h: FloatArray,
    nuclide: str,
    *,
    blood_mbq_h_per_ml: FloatArray | float | None = None,
    ratio: float | None = None,
    marrow: str = MARROW,
    progeny: Progeny = "equilibrium",
) -> MarrowDose:
    """Dose of red marrow: by blood where its time integral is given, else by the activity in the segmented marrow.

    Parameters
    ----------
    s : S values of all regions, the marrow and the remainder of the body among them.
    tia_mbq_h : (draws, n) time-integrated activity in the order of `s`; with blood samples the marrow's own is not used.
    blood_mbq_h_per_ml, ratio : of the blood method, one value or (draws,); `blood_draws`, `marrow_to_blood_ratio`.

    Cross-dose is that of photons. The marrow's own photons follow its activity (by blood: activity per gram times its mass).

    Raises InputError without a region of marrow, or with blood and no ratio.
    """
    if marrow not in s.names:
        raise InputError(f"no region {marrow}", expected="segmented marrow", remedy="segment lumbar vertebrae")
    i = s.names.index(marrow)
    if blood_mbq_h_per_ml is not None and ratio is None:
        raise InputError("blood samples without a marrow-to-blood ratio", expected="a ratio", kind="input.blood")
    cross = {name: tia_mbq_h[:, j] * float(s.photons[i, j]) * GY_PER_MBQ_H for j, name in enumerate(s.names) if j != i}
    if blood_mbq_h_per_ml is None:
        own = tia_mbq_h[:, i] * float(s.total[i, i]) * GY_PER_MBQ_H
        return MarrowDose("image", np.asarray(own), cross)
    charged = marrow_self_dose_of_blood(blood_mbq_h_per_ml, float(ratio or 0.0), nuclide, progeny)
    density = packaged_table("organ_level.csv").value("blood.density")
    held = np.asarray(blood_mbq_h_per_ml) / density * float(ratio or 0.0) * float(s.masses_g[i])
    own = np.broadcast_to(charged + held * float(s.photons[i, i]) * GY_PER_MBQ_H, len(tia_mbq_h))
    return MarrowDose("blood", own, cross, ratio)
