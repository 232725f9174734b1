"""From checked items to cycles: which injection a scan shows, which CT and regions belong to it, which cycle it falls in.

Cycle k runs from the start of therapy k until before therapy k + 1; what came before the first therapy is cycle 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np

from storage import prior_therapy, samples
from storage.administrations import Given, half_life_h, schedule
from storage.dicom.images import ReadImage
from storage.evidence import digest_json, digest_labels, digest_scan
from storage.intake_types import CycleIntake
from storage.labs import results
from storage.masks import Grid, Mask, label_volume, midline_x_mm
from storage.quality import item_of
from storage.reading import Collector, FoundImage, FoundMasks, Material, ct_of
from storage.vault import Vault
from tdt_core.errors import GeometryError, InputError, TimeError, TwinError
from tdt_core.imaging.coverage import check_coverage, check_regions
from tdt_core.imaging.volume import LabelVolume, Scan, Volume

HALF_LIFE_TOLERANCE = 0.01
INJECTION_TOLERANCE_H = 1.0
STILL_SEEN_HALF_LIVES = 10.0
ACTIVITY_FACTOR = 2.0

Labels = tuple[LabelVolume, list[str]]


def cycles_of(
    material: Material, origin: datetime, vault: Vault, collector: Collector, *, known: bool = False
) -> list[CycleIntake]:
    """All cycles in order; every broken rule becomes a refused line of the collector. `origin` is in the site's zone.

    known : whether something of this patient was taken in before. What a cycle lacks here may then stand elsewhere: that is
    judged over all deliveries (`storage.pool`).
    """
    therapies = [g.start for g in material.given if g.intent == "therapy"]
    emission = [f for f in material.images if f.image.modality != "CT"]
    for f in emission:
        with collector.item(f"injection of {f.name}", f.paths):
            check_injection(f.image, material.given)
    drawn = {m.grid.frame_of_reference for m in material.masks}
    early = [f for f in emission if _cycle(therapies, f.image.start) == 0]
    unused = () if any(f.image.frame_of_reference in drawn for f in early) else early  # scans before therapy without regions
    measured = [f for f in emission if f not in unused]
    cts = _cts(material.images, emission, measured, collector)
    labels = _labels(material.masks, cts, measured, vault, collector)
    if collector.refused:
        return []
    number = {id(f): _cycle(therapies, f.image.start) for f in emission}
    cycles: list[CycleIntake] = []
    for k in range(len(therapies) + 1):
        scans = sorted((f for f in emission if number[id(f)] == k), key=lambda f: (f.image.time_of_values, f.image.series_uid))
        with collector.item(f"cycle {k}", [p for f in scans for p in f.paths[:1]]):
            cycle = _assemble(k, material, scans, cts, labels, therapies, origin, vault, known)
            if cycle is not None:
                cycles.append(cycle)
    return cycles


def check_injection(image: ReadImage, given: Sequence[Given]) -> Given:
    """The administration that a scan shows.

    Raises
    ------
    InputError
        `nuclide.mismatch`, `nuclide.half_life`, `activity.contradiction`.
    TimeError
        `time.before_injection`, `time.long_after_injection`, `time.injection_contradiction`.
    """
    header = image.injection
    if header is None:
        raise InputError(
            "a scan without radiopharmaceutical",
            expected="a coded radionuclide",
            remedy="enter the radiopharmaceutical at the scanner and export again",
            kind="nuclide.missing",
        )
    _check_half_life(header.nuclide, header.half_life_h)
    same = [g for g in given if g.nuclide == header.nuclide]
    if not same:
        raise InputError(
            f"a scan of {header.nuclide}, and administrations of {', '.join(sorted({g.nuclide for g in given}))} only",
            expected="an administration of the scan's nuclide",
            remedy="correct the radionuclide at the scanner, or add the administration to the record",
            kind="nuclide.mismatch",
        )
    before = [g for g in same if g.start <= image.start]
    if not before:
        first_h = (same[0].start - image.start).total_seconds() / 3600
        raise TimeError(
            f"a scan that began {first_h:.1f} h before the first injection of {header.nuclide}",
            expected="a scan after its injection",
            remedy="check clock, date and time zone of the scanner and of the administration record",
            kind="time.before_injection",
        )
    shown = before[-1]
    late_h = (image.start - shown.start).total_seconds() / 3600
    if late_h > STILL_SEEN_HALF_LIVES * half_life_h(shown.nuclide):
        raise TimeError(
            f"a scan of {header.nuclide} {late_h:.0f} h after its last injection in the record",
            expected=f"within {STILL_SEEN_HALF_LIVES:.0f} half-lives",
            remedy="add the injection that this scan shows to the administration record",
            kind="time.long_after_injection",
        )
    if header.start is not None and abs(header.start - shown.start) > timedelta(hours=INJECTION_TOLERANCE_H):
        raise TimeError(
            "the injection times of image header and administration record are "
            f"{abs((header.start - shown.start).total_seconds()) / 3600:.1f} h apart",
            expected=f"within {INJECTION_TOLERANCE_H:.0f} h",
            remedy="correct the one that is wrong; check dates and time zones of both",
            kind="time.injection_contradiction",
        )
    if header.activity_mbq is not None and header.activity_mbq > 0:
        ratio = header.activity_mbq / shown.activity_mbq
        if not 1 / ACTIVITY_FACTOR <= ratio <= ACTIVITY_FACTOR:
            raise InputError(
                f"the activity of the image header is {ratio:.3g} times that of the administration record",
                expected="the same activity (RadionuclideTotalDose is MBq in NM and Bq in PT)",
                remedy="correct the one that is wrong; check its unit",
                kind="activity.contradiction",
            )
    return shown


def _check_half_life(nuclide: str, header_h: float | None) -> None:
    known_h = half_life_h(nuclide)
    if header_h is not None and abs(header_h / known_h - 1) > HALF_LIFE_TOLERANCE:
        raise InputError(
            f"a half-life of {header_h:.4g} h for {nuclide} in the image header",
            expected=f"{known_h:.4g} h within 1 %",
            remedy="correct the radionuclide at the scanner; its decay corrections used the wrong half-life",
            kind="nuclide.half_life",
        )


def _cycle(therapies: Sequence[datetime], at: datetime) -> int:
    return sum(t <= at for t in therapies)


def _cts(
    images: Sequence[FoundImage], emission: Sequence[FoundImage], measured: Sequence[FoundImage], collector: Collector
) -> dict[str, FoundImage]:
    """Frame of reference -> the CT nearest in time to its first scan, which must cover those scans that are `measured`."""
    by_frame: dict[str, list[FoundImage]] = {}
    for f in images:
        if f.image.modality == "CT":
            by_frame.setdefault(f.image.frame_of_reference, []).append(f)
    chosen: dict[str, FoundImage] = {}
    for f in sorted(emission, key=lambda f: f.image.start):
        frame = f.image.frame_of_reference
        with collector.item(f"CT of {f.name}", f.paths) as needs:
            needs.append(ct_of(frame))
            if frame not in by_frame:
                raise GeometryError(
                    f"no CT in the frame of reference of a {f.image.modality}",
                    expected="the CT of the same bed time, in the same frame of reference",
                    remedy="export the CT of this scan too; without it there is neither density nor registration",
                    kind="ct.missing",
                )
            if frame not in chosen:
                start = f.image.start
                chosen[frame] = min(by_frame[frame], key=lambda c: (abs(c.image.start - start), c.image.series_uid))
                if len(by_frame[frame]) > 1:
                    collector.findings.append(f"{len(by_frame[frame])} CTs in one frame of reference; the nearest was taken")
            if f in measured:
                check_coverage(_volume(chosen[frame].image), _volume(f.image))
    unused = sum(len(v) for k, v in by_frame.items() if k not in chosen)
    if unused:
        collector.findings.append(f"{unused} CT series without a scan in their frame of reference were not used")
    return chosen


def _labels(
    found: Sequence[FoundMasks],
    cts: Mapping[str, FoundImage],
    measured: Sequence[FoundImage],
    vault: Vault,
    collector: Collector,
) -> dict[str, Labels]:
    """Frame of reference -> label volume and remarks, for frames that have scans."""
    by_frame: dict[str, list[FoundMasks]] = {}
    for f in found:
        by_frame.setdefault(f.grid.frame_of_reference, []).append(f)
    out: dict[str, Labels] = {}
    for frame, sets in sorted(by_frame.items()):
        if frame not in cts:
            collector.findings.append("regions without their scan and its CT in this folder were not used: send them together")
            continue
        paths = [p for s in sets for p in s.paths]
        ct = cts[frame].image
        try:
            grid = _one_grid(sets)
            masks: list[Mask] = [m for s in sets for m in s.masks]
            hidden = Grid(grid.shape, grid.affine, vault.uid(grid.frame_of_reference), "")
            labels, remarks = label_volume(masks, hidden, midline_x_mm(ct.array, ct.affine))
            same_frame = (_volume(f.image, labels.frame_of_reference) for f in measured if f.image.frame_of_reference == frame)
            check_regions(labels, _volume(ct, labels.frame_of_reference), tuple(same_frame))
            out[frame] = labels, remarks
        except TwinError as e:
            collector.items.append(item_of(f"regions of {sets[0].name}", e, paths))
    return out


def _volume(image: ReadImage, frame: str | None = None) -> Volume:
    """The voxels of an image, by default in its own frame of reference."""
    return Volume(image.array, image.affine, image.unit, image.frame_of_reference if frame is None else frame)


def _one_grid(sets: Sequence[FoundMasks]) -> Grid:
    first = sets[0].grid
    for s in sets[1:]:
        if s.grid.shape != first.shape or not np.allclose(s.grid.affine, first.affine, atol=1e-3):
            raise GeometryError(
                "segmentations of one frame of reference on different grids",
                expected="one grid",
                remedy="export all regions of a time point on the same images",
                kind="labels.grids",
            )
    return first


def _assemble(
    k: int,
    material: Material,
    found: Sequence[FoundImage],
    cts: Mapping[str, FoundImage],
    labels: Mapping[str, Labels],
    therapies: Sequence[datetime],
    origin: datetime,
    vault: Vault,
    known: bool,
) -> CycleIntake | None:
    """One cycle; None for a cycle 0 that brought nothing."""
    given = [g for g in material.given if _cycle(therapies, g.start) == k]
    lines = [v for v in material.labs if v.at is not None and _cycle(therapies, v.at) == k]
    earlier = [x for x in material.prior if sum(t.date() <= x.day for t in therapies) == k]
    drawn = [x for x in material.samples if _cycle(therapies, x.end or x.start) == k]
    if k == 0 and not (given or lines or found or earlier or drawn):
        return None
    frames = [f.image.frame_of_reference for f in found]
    images = (*found, *(cts[frame] for frame in dict.fromkeys(frames)))
    findings = [remark for f in images for remark in f.image.findings]
    volume, labels_for = None, ""
    with_labels = list(dict.fromkeys(frame for frame in frames if frame in labels))
    if with_labels:
        volume, remarks = labels[with_labels[0]]
        labels_for = volume.frame_of_reference
        findings += remarks
        if len(with_labels) > 1:
            findings.append(f"{len(with_labels)} scans of the cycle have regions; those of the first are used")
    elif found and k > 0 and not known:
        raise InputError(
            f"cycle {k} has {len(found)} scans and no regions",
            expected="a SEG, RTSTRUCT or NIfTI label map on the images of one of its scans",
            remedy="segment one time point of the cycle and export it",
            kind="labels.missing",
        )
    elif found and k == 0:
        findings.append("the scans before therapy have no regions and cannot be used")
    if not found and k > 0:
        findings.append(f"cycle {k} has no scans")
    elif k > 0 and not with_labels:
        findings.append(f"the scans of cycle {k} have no regions in this folder")
    scans = tuple(_scan(f.image, origin, vault) for f in found)
    ct_scans = {vault.uid(frame): _scan(cts[frame].image, origin, vault) for frame in sorted(set(frames))}
    administrations, labs = schedule(given, origin), results(lines, origin, lambda r: vault.token("lab", r))
    remarks_of = {s.id: f.image.findings for s, f in zip(scans, found, strict=True) if f.image.findings}
    remarks_of |= {s.id: cts[frame].image.findings for frame, s in zip(sorted(set(frames)), ct_scans.values(), strict=True)}
    remarks_of |= {digest_labels(v): tuple(told) for v, told in (labels[frame] for frame in with_labels)}
    digests = {s.id for s in (*scans, *ct_scans.values())}
    digests |= {digest_json("administrations", administrations)} if administrations else set()
    digests |= {digest_json("labs", labs)} if labs else set()
    prior = prior_therapy.on_axis(earlier, origin)
    counted = () if known else samples.on_axis(drawn, administrations, origin)  # a meter's first reading may be known
    digests |= {digest_json("prior_therapies", prior)} if prior else set()
    digests |= {digest_json("samples", counted)} if counted else set()
    digests |= {digest_labels(volume)} if volume is not None else set()
    return CycleIntake(
        number=k,
        administrations=administrations,
        scans=scans,
        cts=ct_scans,
        labels=volume,
        labels_for=labels_for,
        labs=labs,
        digests=tuple(sorted(digests)),
        findings=tuple(dict.fromkeys(findings)),
        prior_therapies=prior,
        samples=counted,
        remarks=remarks_of,
        further_labels=tuple(labels[frame][0] for frame in with_labels[1:]),
    )


def _scan(image: ReadImage, origin: datetime, vault: Vault) -> Scan:
    """The pseudonymised scan, named by its content."""
    scan = Scan(
        id="",
        modality=image.modality,
        volume=_volume(image, vault.uid(image.frame_of_reference)),
        time_h=(image.time_of_values - origin).total_seconds() / 3600,
        duration_s=image.duration_s,
        nuclide="" if image.injection is None else image.injection.nuclide,
        calibration=image.calibration,
        counts_per_mbq=image.counts_per_mbq,
        value_branch=image.value_branch,
        ct_calibration=image.ct_calibration,
    )
    return replace(scan, id=digest_scan(scan))
