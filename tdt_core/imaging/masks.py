"""Body outline from CT, sizes and surfaces of regions, and the checks that a segmentation must pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tdt_core.errors import GeometryError, InputError
from tdt_core.imaging.resampling import FractionMask
from tdt_core.imaging.volume import LabelVolume, Volume
from tdt_core.parameters import packaged_table

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


def axial_axis(affine: FloatArray) -> int:
    """The array axis that runs most along the body (LPS z)."""
    columns = np.abs(affine[2, :3]) / np.linalg.norm(affine[:3, :3], axis=0)
    return int(np.argmax(columns))


def body_outline(ct: Volume) -> BoolArray:
    """(z, y, x) mask of the body: largest connected part above the threshold, opened against the couch, holes filled.

    Holes are filled slice by slice across the body, so that lungs open to the airway count as body.

    Raises
    ------
    UnitError is for the reader; GeometryError (`geometry.body`) when no body of plausible size is found.
    """
    if ct.unit != "HU":
        raise GeometryError(f"a body outline needs a CT in HU, found {ct.unit}", kind="geometry.body")
    p = packaged_table("imaging_parameters.csv")
    above = ct.array > p.value("body.threshold")
    radius = [max(round(p.value("body.opening") / s), 0) for s in ct.spacing_mm]
    opened = ndimage.binary_opening(above, _ball(radius)) if any(radius) else above
    if not opened.any():
        opened = above
    parts, count = ndimage.label(opened)
    if count == 0:
        raise GeometryError("no voxel of the CT lies above the threshold", remedy="check the CT's HU", kind="geometry.body")
    largest = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    # the opening took thin parts (ears, nose): give back what touches the body within the opening's reach
    if any(radius):
        largest = above & ndimage.binary_dilation(largest, _ball(radius))
    axis = axial_axis(ct.affine)
    body: BoolArray = np.empty_like(largest)
    for k in range(largest.shape[axis]):
        index = tuple(k if a == axis else slice(None) for a in range(3))
        body[index] = ndimage.binary_fill_holes(largest[index])
    volume_ml = float(body.sum()) * ct.voxel_ml
    if volume_ml < p.value("body.smallest"):
        raise GeometryError(
            f"the body outline holds {volume_ml:.0f} mL",
            expected=f"at least {p.value('body.smallest'):.0f} mL",
            remedy="check the CT's HU and its field of view",
            kind="geometry.body",
        )
    return body


def _ball(radius: list[int]) -> BoolArray:
    """Ellipsoid structuring element."""
    axes = np.meshgrid(*[np.arange(-r, r + 1) / max(r, 1) for r in radius], indexing="ij")
    return np.asarray(sum(a**2 for a in axes) <= 1.0 + 1e-9)


def surface_cm2(mask: FractionMask, spacing_mm: tuple[float, float, float]) -> float:
    """Surface of a region, cm2: total gradient of the lightly smoothed mask, never less than a sphere of the same volume."""
    padded = np.pad(mask.values, 4)
    smooth = ndimage.gaussian_filter(padded, 1.0, mode="constant")
    gradient = np.gradient(smooth.astype(np.float64))
    magnitude = np.sqrt(sum((g / s) ** 2 for g, s in zip(gradient, spacing_mm, strict=True)))
    voxel_mm3 = float(np.prod(spacing_mm))
    sphere = (36 * np.pi) ** (1 / 3) * (mask.voxels * voxel_mm3) ** (2 / 3)
    return max(float(magnitude.sum()) * voxel_mm3, float(sphere)) / 100.0


@dataclass(frozen=True)
class RegionSize:
    """What a check of one region found. Centroid in LPS mm, box in voxels (start, stop) per axis."""

    name: str
    voxels: int
    volume_ml: float
    centroid_mm: tuple[float, float, float]
    box: tuple[tuple[int, int], ...]


def region_sizes(labels: LabelVolume) -> dict[str, RegionSize]:
    """Size and place of each region. Raises InputError (`input.mask`) for a region without a voxel."""
    voxel_ml = float(abs(np.linalg.det(labels.affine[:3, :3]))) / 1000.0
    boxes = ndimage.find_objects(labels.labels, max_label=len(labels.regions))
    out = {}
    for n, (region, box) in enumerate(zip(labels.regions, boxes, strict=True), start=1):
        if box is None:
            raise InputError(
                f"region {region.name} has no voxel",
                expected="at least one voxel",
                remedy="draw the region, or leave it out of the segmentation",
                kind="input.mask",
            )
        inside = np.argwhere(labels.labels[box] == n)
        centre = inside.mean(axis=0) + [s.start for s in box]
        x, y, z = (labels.affine @ np.append(centre, 1.0))[:3]
        out[region.name] = RegionSize(
            region.name,
            len(inside),
            len(inside) * voxel_ml,
            (float(x), float(y), float(z)),
            tuple((int(s.start), int(s.stop)) for s in box),
        )
    return out


def label_volume(masks: dict[str, BoolArray], like: LabelVolume) -> LabelVolume:
    """Label volume from one mask per region of `like.regions`, in that order.

    Raises InputError (`input.overlap`) with the overlap in mL where two masks share voxels.
    """
    out = np.zeros(like.labels.shape, np.int16)
    voxel_ml = float(abs(np.linalg.det(like.affine[:3, :3]))) / 1000.0
    for n, region in enumerate(like.regions, start=1):
        mask = masks[region.name]
        shared = np.bincount(out[mask], minlength=1)
        hit = [(like.regions[m - 1].name, int(v)) for m, v in enumerate(shared) if m > 0 and v > 0]
        if hit:
            raise InputError(
                "; ".join(f"{region.name} and {name} overlap in {v * voxel_ml:.2f} mL" for name, v in hit),
                expected="regions that share no voxel",
                remedy="decide to which region the voxels belong",
                kind="input.overlap",
            )
        out[mask] = n
    return LabelVolume(out, like.affine, like.frame_of_reference, like.regions)


def check_labels(labels: LabelVolume, body: BoolArray | None = None) -> tuple[str, ...]:
    """Findings about a segmentation, in words; what cannot be meant is refused.

    Parameters
    ----------
    labels : regions.
    body : mask of the body on the same grid, if known.

    Raises
    ------
    InputError
        `input.mask` empty region; `input.region` a name twice; `input.laterality` left and right exchanged, or two paired
        organs on one side of the body.
    """
    names = [r.name for r in labels.regions]
    if len(set(names)) != len(names):
        raise InputError(f"a region stands twice in {sorted(names)}", expected="each name once", kind="input.region")
    sizes = region_sizes(labels)
    findings = list(_laterality(labels, sizes, body))
    p = packaged_table("imaging_parameters.csv")
    small = p.value("region.small_volume")
    for name, size in sizes.items():
        if size.volume_ml < small:
            findings.append(f"{name} holds {size.volume_ml:.2f} mL: below {small:g} mL its activity is very uncertain")
    if body is not None:
        for n, region in enumerate(labels.regions, start=1):
            inside = labels.labels == n
            outside = float((inside & ~body).sum()) / float(inside.sum())
            if outside > p.value("region.outside_body"):
                findings.append(f"{region.name} lies {outside:.0%} outside the body outline")
    sides = [n for n in ("kidney_left", "kidney_right") if n in sizes]
    if len(sides) == 1:
        findings.append(f"only one kidney is segmented ({sides[0]}): dose to kidneys is that of one kidney")
    return tuple(findings)


def _laterality(labels: LabelVolume, sizes: dict[str, RegionSize], body: BoolArray | None) -> tuple[str, ...]:
    """LPS x rises to the patient's left: a left organ must lie at higher x than its partner and than the body's middle."""
    middle = None
    if body is not None and body.any():
        centre = np.array([np.average(np.arange(n), weights=body.sum(axis=tuple(set(range(3)) - {a}))) for a, n in
                           enumerate(body.shape)])  # fmt: skip
        middle = float((labels.affine @ np.append(centre, 1.0))[0])
    findings = []
    pairs = {r.name.rsplit("_", 1)[0] for r in labels.regions if r.laterality != "none"}
    for pair in sorted(pairs):
        left, right = sizes.get(f"{pair}_left"), sizes.get(f"{pair}_right")
        if left and right and left.centroid_mm[0] <= right.centroid_mm[0]:
            raise InputError(
                f"{pair}_left lies to the right of {pair}_right",
                expected="the left organ at higher x (LPS)",
                remedy="exchange the two names, or correct the orientation of the segmentation",
                kind="input.laterality",
            )
        if middle is None:
            continue
        for size, sign in ((left, 1.0), (right, -1.0)):
            off = 0.0 if size is None else sign * (size.centroid_mm[0] - middle)
            if size is not None and off < -packaged_table("imaging_parameters.csv").value("region.wrong_side"):
                if left and right:
                    raise InputError(
                        f"{size.name} lies {-off:.0f} mm beyond the body's middle on the other side",
                        expected="each of two paired organs on its own side",
                        remedy="check that one organ was not declared as two, and the laterality of both",
                        kind="input.laterality",
                    )
                findings.append(f"{size.name} lies {-off:.0f} mm beyond the body's middle on the other side")
    return tuple(findings)
