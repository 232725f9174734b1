"""NIfTI label maps as masks on the grid of the image that they were drawn on.

A NIfTI knows neither patient, nor frame of reference, nor what its numbers mean: a sidecar of the same name says so.

    NAME.nii.gz or NAME.nii    whole numbers, 0 outside every region
    NAME.json                  {"schema": 1, "patient_id": ..., "frame_of_reference": UID (or "series": UID),
                                "labels": {"1": {"region": "kidney_left"}, "2": {"code": "64033007", "laterality": "right"},
                                           "3": {"region": "lesion", "tracking_id": "L1"}}}

Voxels are only put in another order (axes swapped or flipped), never resampled: a map on a grid of its own is refused, since
a wrong affine looks the same.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.dicom.parse import safe
from storage.dicom.seg import PLAIN_TRACKING
from storage.masks import Grid, Mask
from storage.nifti import read_nifti
from storage.tables import read_json
from tdt_core.errors import GeometryError, InputError
from tdt_core.imaging.regions import LESION_CODES, lesion_region, region_for, region_named, side
from tdt_core.twin import Region

SCHEMA = 1
GRID_TOLERANCE = 0.05  # voxels at the corners; the affine of a NIfTI is kept in single precision
MAX_LABEL = 32767
_LABEL = re.compile(r"[1-9][0-9]{0,4}")
_REQUIRED = frozenset({"schema", "patient_id", "labels"})
_PLACES = frozenset({"frame_of_reference", "series"})
_ENTRY = frozenset({"region", "code", "laterality", "tracking_id"})
_FORM = '{"schema": 1, "patient_id": ..., "frame_of_reference" or "series": ..., "labels": {"1": {"region": ...}, ...}}'


@dataclass(frozen=True)
class Sidecar:
    """What a sidecar says. `patient_id` and the UID (`place`, of the kind `placed_by`) are original ones."""

    patient_id: str
    placed_by: str
    place: str
    regions: Mapping[int, Region]


def read_sidecar(path: Path) -> Sidecar:
    """The checked sidecar of a label map.

    Raises
    ------
    InputError
        `nifti.sidecar` for another form, `region.unknown`, `region.laterality`, `region.contradiction`, `region.tracking`,
        `file.json`.
    """
    data = read_json(path)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or isinstance(data["schema"], bool):
        raise _form("a sidecar of another form")
    places = sorted(set(data) & _PLACES)
    if len(places) != 1 or set(data) - _PLACES != _REQUIRED:
        absent, unknown = sorted(_REQUIRED - set(data)), len(set(data) - _PLACES - _REQUIRED)
        raise _form(
            f"a sidecar that lacks {absent}, has {unknown} unknown fields and {len(places)} of frame_of_reference and series"
        )
    for name in ("patient_id", *places):
        if not isinstance(data[name], str):
            raise _form(f"a sidecar whose {name} is no text")
    labels = data["labels"]
    if not isinstance(labels, dict) or not labels or not all(_LABEL.fullmatch(k) and int(k) <= MAX_LABEL for k in labels):
        raise _form(f"a sidecar without labels, or with a label that is no whole number from 1 to {MAX_LABEL}")
    regions = {int(k): _region(int(k), v) for k, v in sorted(labels.items(), key=lambda item: int(item[0]))}
    return Sidecar(data["patient_id"].strip(), places[0], data[places[0]].strip(), regions)


def read_label_map(path: Path, sidecar: Sidecar, grids: Sequence[Grid]) -> tuple[list[Mask], Grid]:
    """Masks of one label map and the grid they are on.

    Parameters
    ----------
    path : the NIfTI file.
    grids : grids of the images that were read, any frame of reference.

    Raises
    ------
    InputError
        `nifti.values`, `nifti.label`, `mask.empty`, and those of `read_nifti`.
    GeometryError
        `nifti.reference` when no image has the sidecar's UID, `nifti.grid` when none of those has this grid.
    """
    here = [g for g in grids if sidecar.place == (g.series_uid if sidecar.placed_by == "series" else g.frame_of_reference)]
    if not here:
        raise GeometryError(
            f"a label map whose {sidecar.placed_by} no image of the folder has",
            expected="the FrameOfReferenceUID or SeriesInstanceUID of the CT or scan that it is drawn on",
            remedy="correct the sidecar, or send the images that the labels were drawn on",
            kind="nifti.reference",
        )
    values, affine = read_nifti(path)
    for grid in here:
        turned = on_grid(values, affine, grid)
        if turned is not None:
            return _masks(_whole(turned), sidecar.regions), grid
    raise GeometryError(
        f"a label map of {values.shape} voxels that lies on no image's grid",
        expected="voxels, spacing and position of the CT or scan that it refers to; axes may be swapped or flipped",
        remedy="resample it (nearest) to the images that it was drawn on, and check its affine",
        kind="nifti.grid",
    )


def on_grid(values: npt.NDArray[Any], affine: npt.NDArray[np.float64], grid: Grid) -> npt.NDArray[Any] | None:
    """The same voxels in the order of a grid, (z, y, x); None when they are not the grid's voxels."""
    steps = np.linalg.inv(grid.affine) @ affine
    whole = np.rint(steps[:3, :3])
    if not ((np.abs(whole).sum(axis=0) == 1).all() and (np.abs(whole).sum(axis=1) == 1).all()):
        return None
    axes = np.abs(whole).argmax(axis=1)
    turned = values.transpose(axes)
    if turned.shape != grid.shape:
        return None
    exact = np.eye(4)
    exact[:3, :3] = whole
    for a in range(3):
        if whole[a, axes[a]] < 0:
            turned = np.flip(turned, axis=a)
            exact[a, 3] = grid.shape[a] - 1
    corners = np.array([(*c, 1) for c in itertools.product(*((0, n - 1) for n in values.shape))], float)
    return turned if np.abs(corners @ (steps - exact).T).max() < GRID_TOLERANCE else None


def _whole(values: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    """Labels as integers; a file may hold whole numbers as floats, never fractions."""
    good = bool(np.isfinite(values).all()) and values.min() >= 0 and values.max() <= MAX_LABEL
    labels = values.astype(np.int16) if good else np.zeros(0, np.int16)
    if not good or not np.array_equal(labels, values):
        raise InputError(
            "a label map with values that are no labels",
            expected=f"whole numbers from 0 to {MAX_LABEL}",
            remedy="export labels, not probabilities or an image, and resample with nearest neighbour",
            kind="nifti.values",
        )
    return labels


def _masks(labels: npt.NDArray[np.int16], regions: Mapping[int, Region]) -> list[Mask]:
    present = np.flatnonzero(np.bincount(labels.ravel()))
    unnamed = [int(n) for n in present if n and int(n) not in regions]
    if unnamed:
        raise InputError(
            f"labels {unnamed[:10]} of the map are not in its sidecar",
            expected="a region for every label",
            remedy="name them in the sidecar, or set them to 0",
            kind="nifti.label",
        )
    return [Mask.of(region, labels == n, f"label {n}") for n, region in regions.items()]


def _region(n: int, entry: Any) -> Region:
    """Region of a label by code or by name; where both stand they must agree."""
    if not isinstance(entry, dict) or set(entry) - _ENTRY or not set(entry) & {"region", "code"}:
        raise _form(f"label {n} without region and code, or with unknown fields")
    if not all(isinstance(v, str) for v in entry.values()):
        raise _form(f"label {n} with a value that is no text")
    said = {k: v.strip() for k, v in entry.items()}
    found = []
    if "code" in said:
        found.append(_coded(n, said))
    if "region" in said:
        found.append(_named(n, said))
    region = found[0]
    wanted = _side(n, said) if "laterality" in said else region.laterality
    if found[-1] != region or wanted != region.laterality or said.get("tracking_id", region.tracking_id) != region.tracking_id:
        raise InputError(
            f"label {n} is {region.name}, and its other fields say something else",
            expected="region, code, laterality and tracking id that agree",
            remedy="correct the entry of the label in the sidecar",
            kind="region.contradiction",
        )
    return region


def _coded(n: int, said: Mapping[str, str]) -> Region:
    if said["code"] in LESION_CODES:
        return _lesion(n, said.get("tracking_id", ""))
    where = _side(n, said)
    try:
        return region_for(said["code"], where)
    except InputError as e:
        if e.kind == "input.laterality":
            raise _laterality(n) from None
        raise _unknown(n, f"code {safe(said['code'])}") from None


def _named(n: int, said: Mapping[str, str]) -> Region:
    name = said["region"]
    if name == "lesion":
        return _lesion(n, said.get("tracking_id", ""))
    if name.startswith("lesion/"):
        return _lesion(n, name.removeprefix("lesion/"))
    try:
        return region_named(name)
    except InputError:
        raise _unknown(n, "a name") from None


def _side(n: int, said: Mapping[str, str]) -> str:
    try:
        return side(said.get("laterality"))
    except InputError:
        raise _laterality(n) from None


def _lesion(n: int, tracking: str) -> Region:
    if not PLAIN_TRACKING.fullmatch(tracking):
        raise InputError(
            f"label {n} is a lesion without a plain tracking id",
            expected="tracking_id, a number or short code such as L3, the same in every cycle",
            remedy="give the lesion a tracking id that it keeps over the cycles",
            kind="region.tracking",
        )
    return lesion_region(tracking)


def _laterality(n: int) -> InputError:
    return InputError(
        f"label {n} has no side, or a side that does not fit",
        expected="left (7771000) or right (24028007) on a paired organ, none on others",
        remedy="set the laterality of the label in the sidecar",
        kind="region.laterality",
    )


def _unknown(n: int, what: str) -> InputError:
    return InputError(
        f"label {n} has {what} that is not in the table of regions",
        expected="a name or code of the region table (kidney_left, 64033007 with its side, lesion with a tracking id, ...)",
        remedy="correct the sidecar, or set the label to 0 and leave it out",
        kind="region.unknown",
    )


def _form(found: str) -> InputError:
    return InputError(found, expected=_FORM, remedy="correct the sidecar of the label map", kind="nifti.sidecar")
