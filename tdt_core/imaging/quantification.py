"""From the scans of one cycle to region activities with their error budgets, on one reference grid.

Quantities are read on each scan's own grid, with the labels moved to it: interpolating the image would smooth its noise and
widen its resolution by an amount that the calibration record does not know. Registered images on the reference grid serve the
voxel weights only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.codec import digest
from tdt_core.errors import CalibrationError, GeometryError, InputError, UnitError
from tdt_core.imaging import error_budget as eb
from tdt_core.imaging.coverage import check_coverage, check_regions
from tdt_core.imaging.ct_calibration import packaged_calibration
from tdt_core.imaging.density import media
from tdt_core.imaging.label_shape import shape_fractions
from tdt_core.imaging.masks import body_outline, check_labels
from tdt_core.imaging.partial_volume import Corrected, compartments, correct
from tdt_core.imaging.plausible import rising_activity
from tdt_core.imaging.regions import region_named, with_volume
from tdt_core.imaging.registration import register
from tdt_core.imaging.resampling import RigidTransform, fractions_on, identity_transform, resample
from tdt_core.imaging.resolution import Resolution
from tdt_core.imaging.sphere_table import correct_by_spheres, fit_widths
from tdt_core.imaging.volume import LabelVolume, Scan, Volume
from tdt_core.parameters import packaged_table
from tdt_core.twin import ErrorBudget, Region, RegionActivity

BoolArray = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
REST = "rest"


@dataclass(frozen=True, eq=False)
class RegisteredScan:
    """One scan on the reference grid. `volume` is float32 MBq/mL at `time_h`; `transform` maps reference points to scan points.

    `counts_per_mbq` and `resolution` are those of the scan; `concentration_mbq_ml` the corrected one of each region; `findings`
    are remarks on this scan alone.
    """

    scan: str
    time_h: float
    modality: str
    nuclide: str
    volume: Volume
    transform: RigidTransform
    counts_per_mbq: float
    resolution: Resolution
    concentration_mbq_ml: Mapping[str, float]
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class CycleImages:
    """What the imaging of one cycle says.

    Attributes
    ----------
    activities : per scan and region, `rest` included, in order of time, then of `regions`.
    regions : with volume_ml, mass_g and volume_rel_sd; `rest` (body without regions) stands last.
    labels : regions on the reference grid; the last label is `rest`, so the labels fill the body.
    body : (z, y, x) mask on the reference grid.
    ct_hu, density : float32 on the reference grid. material : (z, y, x) indices of `tdt_core.dosimetry.MATERIALS`.
    density_from : where the curve from CT numbers to density and medium comes from.
    registered : scans on the reference grid in order of time.
    findings : remarks in words that did not lead to a refusal.
    """

    activities: tuple[RegionActivity, ...]
    regions: tuple[Region, ...]
    labels: LabelVolume
    body: BoolArray
    ct_hu: Volume
    density: Volume
    material: npt.NDArray[np.int8]
    density_from: str
    registered: tuple[RegisteredScan, ...]
    findings: tuple[str, ...]

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """(k, j, i, 1) -> LPS mm of the reference grid."""
        return self.labels.affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(dz, dy, dx) of the reference grid."""
        return self.ct_hu.spacing_mm

    @property
    def frame_of_reference(self) -> str:
        """Frame that the reference grid stands in."""
        return self.labels.frame_of_reference

    @property
    def activity_volumes(self) -> tuple[tuple[float, Float32], ...]:
        """(time_h, MBq/mL on the reference grid) of each scan."""
        return tuple((r.time_h, r.volume.array) for r in self.registered)


@dataclass(frozen=True)
class Quality:
    """What a scan's error budget is computed with."""

    resolution: Resolution
    fwhm_rel_sd: float
    calibration_rel_sd: float
    calibration_id: str
    findings: tuple[str, ...] = ()


def check_scan(scan: Scan) -> None:
    """Refuse an activity volume that cannot be meant.

    Raises
    ------
    UnitError not in MBq/mL; InputError `imaging.nonfinite` or `imaging.negative`; `imaging.empty` without any activity;
    CalibrationError a counts volume without a calibration record.
    """
    a = scan.volume.array
    if scan.volume.unit != "MBq/mL":
        raise UnitError(f"a {scan.modality} scan in {scan.volume.unit}", expected="MBq/mL")
    if not np.isfinite(a).all():
        raise InputError(
            f"{int((~np.isfinite(a)).sum())} voxels of a {scan.modality} scan are not finite",
            expected="finite values",
            remedy="export the scan again",
            kind="imaging.nonfinite",
        )
    if a.min() < -1e-6 * max(float(a.max()), 0.0) or a.max() < 0:
        raise InputError(
            f"{int((a < 0).sum())} voxels of a {scan.modality} scan are negative",
            expected="activity >= 0 in every voxel",
            remedy="export the reconstruction without spline interpolation or background subtraction",
            kind="imaging.negative",
        )
    if a.max() == 0:
        raise InputError(f"a {scan.modality} scan holds no activity", expected="some activity", kind="imaging.empty")
    if scan.calibration is None and scan.value_branch == "counts":
        raise CalibrationError("counts became activity without a calibration record", remedy="add the record of this device")


def quality(scan: Scan) -> Quality:
    """Resolution and calibration of a scan from its record; stated defaults, with a finding, where values came as MBq/mL."""
    p = packaged_table("imaging_parameters.csv")
    record = scan.calibration
    if record is not None:
        return Quality(
            Resolution(record.resolution_fwhm_mm, record.resolution_by_radius_mm),
            record.resolution_rel_sd,
            record.sensitivity_rel_sd,
            f"cal-{digest(record)[:16]}",
        )
    fwhm = p.value("resolution.pet_default" if scan.modality == "PET" else "resolution.spect_default")
    return Quality(
        Resolution(fwhm),
        p.value("resolution.default_rel_sd"),
        p.value("calibration.default_rel_sd"),
        f"uncalibrated-{scan.modality}-{scan.nuclide}",
        (
            f"{scan.modality} {scan.time_h:.1f} h after the first therapy has no calibration record: "
            f"resolution {fwhm:g} mm and its sds are assumed",
        ),
    )


def region_activities(
    scan: Scan,
    labels: LabelVolume,
    body: BoolArray | Float32,
    transform: RigidTransform | None = None,
) -> tuple[tuple[RegionActivity, ...], Corrected, tuple[str, ...]]:
    """Activity of each region and of `rest` at one scan.

    Parameters
    ----------
    scan : MBq/mL.
    labels : regions on any grid; `transform` maps points of the scan's frame to the labels' frame (None: same frame).
    body : mask or share of each voxel inside the body, on the scan's grid.

    Returns
    -------
    activities in the order of `labels.regions`, then `rest`; the corrected compartments; findings.

    Raises
    ------
    InputError for scans and masks that cannot be meant (`check_scan`, `input.mask`), GeometryError for a body on another grid.
    """
    check_scan(scan)
    if body.shape != scan.volume.array.shape:
        raise GeometryError(f"body of shape {body.shape} on a scan of {scan.volume.array.shape}", kind="geometry.grid")
    q = quality(scan)
    image = scan.volume.array.astype(np.float32, copy=False)
    own = None if scan.calibration is None else scan.calibration.spheres
    masks = fractions_on(labels, scan.volume, transform) if own is None else shape_fractions(labels, scan.volume, transform)
    label_ml = float(abs(np.linalg.det(labels.affine[:3, :3]))) / 1000.0
    counts = np.bincount(labels.labels.ravel(), minlength=len(labels.regions) + 1)[1:]
    volumes = {r.name: float(c) * label_ml for r, c in zip(labels.regions, counts, strict=True)}
    missing = [r.name for r in labels.regions if r.name not in masks]
    if missing:
        raise InputError(
            f"{', '.join(missing)} cover no voxel of the scan at {scan.time_h:.1f} h",
            expected="every region inside the scan's field of view",
            remedy="draw the regions, or leave out those that the scan does not show",
            kind="input.mask",
        )
    parts = compartments(masks, body.astype(np.float32), scan.volume.spacing_mm, q.resolution.fwhm_mm)
    corrected = (
        correct(parts, image, q.resolution, q.fwhm_rel_sd)
        if own is None
        else correct_by_spheres(parts, image, q.resolution, q.fwhm_rel_sd, own, body)
    )
    place = eb.position_rel_sd(q.resolution) if own is None else eb.sphere_rel_sd(fit_widths(own).rel_sd)
    residual = 0.0 if transform is None else transform.residual_mm
    sd_mm = float(np.hypot(residual, packaged_table("imaging_parameters.csv").value("registration.spect_ct")))
    noise = eb.count_sd(corrected, scan.counts_per_mbq, q.resolution.fwhm_mm)
    partial = eb.partial_volume_sd(corrected, place)
    common = corrected.fwhm_sensitivity * q.fwhm_rel_sd
    contour = eb.segmentation_rel(corrected, masks, image, q.resolution)
    out, findings = [], list(q.findings)
    for i, name in enumerate((*masks, REST)):
        moved = shifted = 0.0
        if name != REST:
            moved, shifted = eb.registration_rel(masks[name], image, scan.volume.spacing_mm, sd_mm), float(contour[i])
        # sampling a label on another grid may change its volume a little: concentration is read here, volume from the labels
        scale = volumes.get(name, 1.0) / (parts.voxel_ml * masks[name].voxels) if name in masks else 1.0
        activity, partial_sd = float(corrected.activity[i]), float(partial[i])
        if name != REST:
            partial_sd = float(np.hypot(partial_sd, eb.coarse_label_rel(float(counts[i])) * activity))
        value, budget = _budget(activity, float(noise[i]), q.calibration_rel_sd, partial_sd, shifted, moved, float(common[i]))
        if budget.total > 0.5:
            findings.append(f"{name} {scan.time_h:.1f} h after the first therapy: one sd of its activity is {budget.total:.0%}")
        out.append(_activity(scan, q, name, value * scale, float(corrected.raw[i]) * scale, budget))
    return tuple(out), corrected, tuple(findings)


def _budget(
    value: float, counts_sd: float, calibration: float, pv_sd: float, contour: float, moved: float, resolution: float
) -> tuple[float, ErrorBudget]:
    """Positive activity and relative parts. The parts keep their proportions where positivity narrows the total."""
    cap = packaged_table("imaging_parameters.csv").value("partial_volume.largest_rel_sd")
    size = abs(value)
    parts = np.array([counts_sd, pv_sd, contour * size, moved * size, resolution * size])
    total = float(np.sqrt((parts**2).sum()))
    mean, rel = eb.positive(value, total)
    noise, partial, segmentation, registration, common = np.clip(parts * (rel / total if total > 0 else 0.0), -cap, cap)
    return mean, ErrorBudget(
        counts=float(noise),
        calibration=calibration,
        partial_volume=float(partial),
        segmentation=float(segmentation),
        registration=float(registration),
        resolution=float(common),
    )


def _activity(scan: Scan, q: Quality, name: str, value: float, raw: float, budget: ErrorBudget) -> RegionActivity:
    return RegionActivity(
        region=name,
        time_h=scan.time_h,
        activity_mbq=float(value),
        raw_activity_mbq=float(raw),
        recovery=float(raw / value) if value > 0 else 1.0,
        budget=budget,
        scan=scan.id,
        modality="PET" if scan.modality == "PET" else "SPECT",
        nuclide=scan.nuclide,
        calibration_id=q.calibration_id,
    )


@dataclass(frozen=True, eq=False)
class _Task:
    """One scan's work, free of shared state, so that it can run anywhere."""

    scan: Scan
    ct: Scan
    reference_scan: Scan
    reference_ct: Scan
    labels: LabelVolume
    seed: int


def _one_scan(task: _Task) -> tuple[tuple[RegionActivity, ...], RegisteredScan]:
    """Register one scan's CT, quantify on its own grid, and bring its image to the reference grid."""
    scan, ct, ref = task.scan, task.ct, task.reference_scan
    findings: list[str] = []
    check_scan(scan)
    check_coverage(ct.volume, scan.volume)
    own_body = body_outline(ct.volume)
    frame, own = ref.volume.frame_of_reference, scan.volume.frame_of_reference
    if own == frame:
        to_scan = identity_transform(frame, own)
    else:
        to_scan = register(task.reference_ct.volume, ct.volume, moving_body=own_body, seed=task.seed)
        if to_scan.shift_mm > 20 or to_scan.rotation_deg > 5:
            findings.append(
                f"the patient lies {to_scan.shift_mm:.0f} mm and {to_scan.rotation_deg:.1f} degrees from the reference scan "
                f"{scan.time_h:.1f} h after the first therapy"
            )
    body = resample(ct.volume.replace(own_body.astype(np.float32), "1"), scan.volume).array
    back = None if own == frame else to_scan.inverse
    activities, corrected, more = region_activities(scan, task.labels, body, back)
    registered = RegisteredScan(
        scan.id,
        scan.time_h,
        scan.modality,
        scan.nuclide,
        resample(scan.volume, ref.volume, None if own == frame else to_scan, "spline"),
        to_scan,
        scan.counts_per_mbq,
        quality(scan).resolution,
        dict(zip(corrected.parts.names, (float(c) for c in corrected.concentration), strict=True)),
        (*findings, *more),
    )
    return activities, registered


def quantify_cycle(
    scans: Sequence[Scan],
    cts: Mapping[str, Scan],
    labels: LabelVolume,
    map: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] = map,
    seed: int = 1,
) -> CycleImages:
    """Region activities and registered images of one cycle.

    Parameters
    ----------
    scans : SPECT or PET of the cycle, MBq/mL, any order; each may stand in its own frame of reference and grid.
    cts : frame of reference -> CT of that bed time, HU.
    labels : regions in the frame of one of the scans (or of its CT), which becomes the reference.
    map : runs the work over scans; results do not depend on it.
    seed : of the voxel sampling in registration.

    Raises
    ------
    InputError and GeometryError with a reason per cause; nothing is guessed.
    """
    if not scans:
        raise InputError("a cycle without a scan", expected="at least one SPECT or PET", kind="imaging.no_scan")
    ordered = sorted(scans, key=lambda s: (s.time_h, s.id))
    reference = next((s for s in ordered if s.volume.frame_of_reference == labels.frame_of_reference), None)
    if reference is None:
        raise GeometryError(
            "the segmentation stands in a frame of reference that no scan of the cycle has",
            remedy="draw the regions on a CT or SPECT of this cycle, or register that CT",
            kind="geometry.frame",
        )
    lacking = [s.time_h for s in ordered if s.volume.frame_of_reference not in cts]
    if lacking:
        raise GeometryError(
            f"no CT shares the frame of reference of the scans at {', '.join(f'{t:.1f} h' for t in lacking)}",
            remedy="send the CT of each bed time, or leave out the scan",
            kind="geometry.no_ct",
        )
    frame = reference.volume.frame_of_reference
    reference_ct = cts[frame]
    check_regions(labels, reference_ct.volume)
    tasks = [_Task(s, cts[s.volume.frame_of_reference], reference, reference_ct, labels, seed) for s in ordered]
    results = list(map(_one_scan, tasks))
    findings: list[str] = []
    body = resample(
        reference_ct.volume.replace(body_outline(reference_ct.volume).astype(np.float32), "1"), reference.volume
    ).array
    on_grid = labels_on_reference(labels, reference.volume)
    findings += check_labels(on_grid, body > 0.5)
    inside = (body > 0.5) | (on_grid.labels > 0)
    ct = resample(reference_ct.volume, reference.volume, fill=-1000.0)
    own = reference_ct.ct_calibration
    calibration = own or packaged_calibration()
    found = media(ct, inside, calibration)
    rho = found.density
    findings += found.findings
    regions, on_grid = _sized(labels, on_grid, inside, rho, reference.volume)
    for _, registered in results:
        findings += registered.findings
    activities = tuple(a for r in results for a in r[0])
    findings += rising_activity(ordered, activities)
    return CycleImages(
        activities=activities,
        regions=regions,
        labels=on_grid,
        body=inside,
        ct_hu=ct,
        density=rho,
        material=found.material,
        density_from=f"this scanner's own table: {own.source}" if own else calibration.source,
        registered=tuple(r[1] for r in results),
        findings=tuple(dict.fromkeys(findings)),
    )


def labels_on_reference(labels: LabelVolume, onto: Volume) -> LabelVolume:
    """Labels on the reference grid: each voxel goes to the region that fills most of it, if that is at least half.

    A region too small to fill half of any voxel keeps the voxel that it fills most, so that none disappears.
    """
    masks = fractions_on(labels, onto, soften=False)
    best = np.full(onto.array.shape, 0.5, np.float32)
    out = np.zeros(onto.array.shape, np.int16)
    for n, region in enumerate(labels.regions, start=1):
        mask = masks.get(region.name)
        if mask is None:
            continue
        wins = mask.values >= best[mask.box]
        best[mask.box][wins] = mask.values[wins]
        out[mask.box][wins] = n
    for n, region in enumerate(labels.regions, start=1):
        mask = masks.get(region.name)
        if mask is not None and not (out == n).any():
            at = np.unravel_index(int(np.argmax(mask.values)), mask.values.shape)
            out[tuple(s.start + int(i) for s, i in zip(mask.box, at, strict=True))] = n
    return LabelVolume(out, onto.affine, onto.frame_of_reference, labels.regions)


def _sized(
    labels: LabelVolume, on_grid: LabelVolume, inside: BoolArray, rho: Volume, grid: Volume
) -> tuple[tuple[Region, ...], LabelVolume]:
    """Regions with volume, mass and volume sd, `rest` added as last label."""
    label_ml = float(abs(np.linalg.det(labels.affine[:3, :3]))) / 1000.0
    masks = fractions_on(labels, grid, soften=False)
    out = []
    for n, region in enumerate(labels.regions, start=1):
        mask = masks[region.name]
        volume = float((labels.labels == n).sum()) * label_ml
        mean_density = float(np.average(rho.array[mask.box], weights=mask.values))
        out.append(with_volume(region, volume, volume * mean_density, eb.volume_rel_sd(mask, grid.spacing_mm)))
    array = on_grid.labels.copy()
    array[inside & (array == 0)] = len(out) + 1
    remainder = array == len(out) + 1
    volume = float(remainder.sum()) * grid.voxel_ml
    mass = float(rho.array[remainder].sum(dtype=np.float64)) * grid.voxel_ml
    # the remainder's own volume error is that of the body outline, far below the others
    out.append(with_volume(region_named(REST), volume, mass, 0.02))
    regions = tuple(out)
    return regions, replace(on_grid, labels=array, regions=regions)
