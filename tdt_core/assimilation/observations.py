"""What was measured, in one form: every datum is a sum of coefficients times a model's activity curves.

    one time     a(t)                 a frame     mean of a over the frame, by Gauss-Legendre nodes
    collection   e^(-lp T) (E(t1) e^(lp t1) ...), what left between two times, decayed to the end of the collection

Data are ln of these sums, so that proportional error is additive. What the model does not know (a region, a kind of sample) is
left out with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tdt_core.errors import InputError
from tdt_core.kinetics import KineticModel, Sampled
from tdt_core.nuclides import nuclide
from tdt_core.twin import SAMPLE_UNITS, Administration, Evidence, RegionActivity, Sample

FloatArray = npt.NDArray[np.float64]

ROUNDING_H = 1e-6
LEFT_OVER = 0.05
"""Of an earlier administration of the same nuclide no more than this share of the later one's activity may be left: a fit
follows the last one alone. As much as a calibration is known to; assumed."""
FRAME_NODES, FRAME_WEIGHTS = np.polynomial.legendre.leggauss(5)


@dataclass(frozen=True)
class Datum:
    """One measured value as a fit sees it.

    Attributes
    ----------
    name : region, or kind of sample. modality : SPECT, PET or sample.
    time_h : of the image, or the end of a collection. value, unit : as measured, at that time.
    total_sd : relative, all parts of the error. below : the truth is below `value`.
    """

    name: str
    modality: str
    time_h: float
    value: float
    unit: str
    total_sd: float
    nuclide: str
    source: RegionActivity | Sample
    below: bool = False


def data_of(evidence: Evidence) -> tuple[Datum, ...]:
    """Images, then samples, of a cycle: each in order of time, whatever order they came in."""
    images = [
        Datum(a.region, a.modality, a.time_h, a.activity_mbq, "MBq", a.budget.total, a.nuclide, a)
        for a in sorted(evidence.activities, key=lambda a: (a.time_h, a.modality, a.scan, a.region, a.nuclide, a.activity_mbq))
    ]
    samples = sorted((_of_sample(s) for s in evidence.samples), key=lambda d: (d.time_h, d.name, d.value, d.nuclide))
    return (*images, *samples)


def _of_sample(s: Sample) -> Datum:
    total = float(np.sqrt(s.relative_sd**2 + (s.absolute_sd / s.value) ** 2 + s.calibration_sd**2))
    return Datum(s.kind, "sample", s.holds_at_h, s.value, SAMPLE_UNITS[s.kind], total, s.nuclide, s, s.below)


def independent_sd(datum: Datum) -> float:
    """Relative error of a datum that no other one shares."""
    if isinstance(datum.source, RegionActivity):
        return datum.source.budget.independent
    return float(np.hypot(datum.source.relative_sd, datum.source.absolute_sd / datum.source.value))


def unusable(datum: Datum, model: KineticModel, regions: Mapping[str, int]) -> str | None:
    """Why a datum cannot be used, None when it can. An error of 0 is one that the model error alone makes up."""
    if not (np.isfinite(datum.total_sd) and datum.total_sd >= 0):
        return "its error is not a finite number"
    if datum.modality == "sample":
        if not isinstance(model, Sampled) or datum.name not in model.compartments:
            return f"the rung {model.name} does not say what a {datum.name} sample would show"
        return None
    if datum.name not in regions:
        return "region is not in the model"
    if not (np.isfinite(datum.value) and datum.value > 0):
        return "no positive activity"
    return None


class Group(NamedTuple):
    """Data of one administration that one solve predicts: sums of coefficient[e] times curve column[e] at times[time[e]].

    where (k,) data; start (k,) first of each datum's entries; by_region: columns are regions, else compartments.
    """

    administration: Administration
    by_region: bool
    times: FloatArray
    where: npt.NDArray[np.intp]
    start: npt.NDArray[np.intp]
    column: npt.NDArray[np.intp]
    time: npt.NDArray[np.intp]
    coefficient: FloatArray

    def log_sum(self, activity: FloatArray) -> FloatArray:
        """(m, curves, t) activity -> (m, k) ln of the data."""
        terms = activity[:, self.column, self.time]
        if terms.shape[1] != self.where.size:
            terms = np.add.reduceat(terms * self.coefficient, self.start, axis=1)
        return np.log(np.maximum(terms, 1e-300))

    def log_sum_jacobian(self, activity: FloatArray | None, log_jacobian: FloatArray) -> FloatArray:
        """(m, curves, t) activity and (m, curves, t, n) its logarithmic derivatives -> (m, k, n); activity for sums only."""
        rows = log_jacobian[:, self.column, self.time]
        if activity is None:
            return np.asarray(rows)
        terms = activity[:, self.column, self.time] * self.coefficient
        total = np.add.reduceat(terms, self.start, axis=1)
        weighted = np.add.reduceat(terms[..., None] * rows, self.start, axis=1)
        return np.asarray(weighted / np.maximum(total, 1e-300)[..., None])

    @property
    def sums(self) -> bool:
        """Whether any datum is a sum of several terms."""
        return self.column.size != self.where.size


def administration_of(datum: Datum, given: Sequence[Administration]) -> int:
    """Position of the administration that a datum belongs to: the last one of its nuclide before it.

    Raises InputError for a datum before any administration of its nuclide, a frame that began before its administration, and
    where too much of an earlier one may be left (`LEFT_OVER`, by physical decay alone).
    """
    before = [j for j, a in enumerate(given) if a.nuclide == datum.nuclide and a.time_h < datum.time_h]
    before.sort(key=lambda j: given[j].time_h)
    if not before:
        raise InputError(
            f"activity of {datum.name} at {datum.time_h:.1f} h has no earlier administration of {datum.nuclide}",
            remedy="check the administration record and the scan times",
            kind="input.scan_before_injection",
        )
    last = given[before[-1]]
    half = datum.source.duration_h / 2.0 if isinstance(datum.source, RegionActivity) else 0.0
    if half > 0 and datum.time_h - half < last.time_h - ROUNDING_H:
        raise InputError(
            f"a frame of {datum.name} about {datum.time_h:.2f} h, {2 * half:.2f} h long, holds an administration of "
            f"{datum.nuclide}",
            expected="frames that begin with the administration or after it",
            remedy="cut the frame at the injection; its time is the middle of the frame",
            kind="input.scan_before_injection",
        )
    decay = nuclide(datum.nuclide).decay_constant_per_h if len(before) > 1 else 0.0
    left = sum(given[j].activity_mbq * float(np.exp(-decay * (last.time_h - given[j].time_h))) for j in before[:-1])
    if left > LEFT_OVER * last.activity_mbq:
        raise InputError(
            f"of earlier {datum.nuclide} up to {left:.0f} MBq are left when {last.activity_mbq:.0f} MBq are given at "
            f"{last.time_h:.1f} h, before {datum.name} was measured at {datum.time_h:.1f} h",
            expected=f"at most {LEFT_OVER:.0%}: a fit follows the last administration of a nuclide alone",
            remedy="measure before the second administration, or leave the data after it out",
            kind="input.two_administrations",
        )
    return before[-1]


def groups_of(
    data: Sequence[Datum],
    belongs: Sequence[int],
    given: Sequence[Administration],
    model: KineticModel,
    regions: Mapping[str, int],
) -> tuple[Group, ...]:
    """Data by the administration that they belong to (`administration_of`), and whether they are regions or samples."""
    found: dict[tuple[int, bool], list[int]] = {}
    for i, (datum, which) in enumerate(zip(data, belongs, strict=True)):
        found.setdefault((which, datum.modality != "sample"), []).append(i)
    return tuple(_group(given[j], by_region, data, members, model, regions) for (j, by_region), members in found.items())


def _group(
    given: Administration,
    by_region: bool,
    data: Sequence[Datum],
    members: Sequence[int],
    model: KineticModel,
    regions: Mapping[str, int],
) -> Group:
    start: list[int] = []
    column: list[int] = []
    times: list[float] = []
    coefficient: list[float] = []
    for i in members:
        datum = data[i]
        position = regions[datum.name] if by_region or not isinstance(model, Sampled) else model.compartments.index(datum.name)
        start.append(len(times))
        for t, c in _terms(datum, given):
            column.append(position)
            times.append(t)
            coefficient.append(c)
    each, time = np.unique(times, return_inverse=True)  # regions of one scan share its time
    return Group(given, by_region, each, np.array(members), np.array(start), np.array(column), time, np.array(coefficient))


def _terms(datum: Datum, given: Administration) -> list[tuple[float, float]]:
    """Hours after the administration, and coefficients, of a datum."""
    source, after = datum.source, datum.time_h - given.time_h
    if isinstance(source, RegionActivity) and source.duration_h > 0:
        half = source.duration_h / 2.0
        return [(after + half * float(x), float(w) / 2.0) for x, w in zip(FRAME_NODES, FRAME_WEIGHTS, strict=True)]
    if isinstance(source, Sample) and source.until_h is not None:
        begin = max(source.time_h - given.time_h, 0.0)
        if begin == 0.0:
            return [(after, 1.0)]
        # what had left before the collection began has decayed until its end
        left = float(np.exp(-nuclide(given.nuclide).decay_constant_per_h * (after - begin)))
        return [(after, 1.0), (begin, -left)]
    return [(after, 1.0)]
