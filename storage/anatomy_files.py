"""A real patient's labelled volume from files, for `tdt phantom --anatomy`: an Interfile pair, or NIfTI with a sidecar.

Interfile: `*_attn.h33/.i33` (CT-like values) and `*_src.h33/.i33` (the same with region codes written over it), as the public
repository BenAuer2021/Phantoms-For-Nuclear-Medicine-Imaging-Simulation publishes a patient of Lu-177 DOTATATE therapy (MIT
licence). Traps of its headers: `slice thickness (pixels)` holds millimetres, `exam type := CT` stands in both, and neither
origin nor orientation is given; the directions below are inferred from the anatomy (index x to the left, y to the front, z to
the feet). Kinetics are never read from such files: they hold none.

NIfTI: a CT in HU, a label map on the same grid, and a JSON sidecar `{"1": "kidney_left", ..., "sex": "female", "source": ...}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from storage.nifti import read_nifti
from tdt_core.errors import GeometryError, InputError
from tdt_core.imaging.regions import alias
from tdt_core.parameters import Parameter
from tdt_core.phantom.types import LabelledAnatomy

HU_OFFSET = Parameter(
    name="anatomy.hu_offset",
    value=1024.0,
    unit="[hnsf'U]",
    status="assumed",
    source="not stated by the origin; values look like HU + 1000 to 1024, and 1024 gives the usual 54 HU for the liver",
)
"""What is subtracted from the CT-like values of the Interfile anatomy."""

AIR_HU = -1000.0
COUCH_VALUE = 3000
"""The single value that marks the segmented couch (the origin's material: carbon fibre)."""
FIRST_REGION_CODE = 15000
"""Values of the `src` file from here on are region codes; below it repeats the CT-like value."""
ORIGIN_REGIONS: Mapping[int, str] = {
    15000: "liver",
    16000: "spleen",
    17000: "kidney_left",
    18000: "kidney_right",
    19000: "lesion/T1",
    20000: "lesion/T2",
    21000: "lesion/T3",
}
"""Region codes as the origin's table names them."""

_MAX_VOXELS = 512**3


def read_anatomy(path: Path, *, hu_offset: float = HU_OFFSET.value) -> LabelledAnatomy:
    """The labelled anatomy of a folder.

    Parameters
    ----------
    path : a folder with one `*_attn.h33` and one `*_src.h33` (and their `.i33`), or with `ct.nii.gz`, `labels.nii.gz` and
        `labels.json` (`.nii` also).
    hu_offset : for the Interfile form only.

    Raises
    ------
    InputError when the folder holds neither form, GeometryError when CT and labels do not lie on one grid.
    """
    attn, src = sorted(path.glob("*_attn.h33")), sorted(path.glob("*_src.h33"))
    if len(attn) == 1 and len(src) == 1:
        return read_interfile_anatomy(attn[0], src[0], hu_offset=hu_offset)
    ct = [p for p in (path / "ct.nii.gz", path / "ct.nii") if p.is_file()]
    labels = [p for p in (path / "labels.nii.gz", path / "labels.nii") if p.is_file()]
    if ct and labels and (path / "labels.json").is_file():
        return read_nifti_anatomy(ct[0], labels[0], path / "labels.json")
    raise InputError(
        "a folder without a labelled anatomy",
        expected="one *_attn.h33 and one *_src.h33 with their .i33, or ct.nii.gz, labels.nii.gz and labels.json",
        remedy="point to the folder that holds the files",
        kind="input.anatomy",
    )


def read_interfile_anatomy(
    attn_header: Path,
    src_header: Path,
    *,
    names: Mapping[int, str] = ORIGIN_REGIONS,
    hu_offset: float = HU_OFFSET.value,
    sex: Literal["male", "female"] = "female",
    source: str = "patient-derived CT and regions (BenAuer2021, MIT licence); kinetics are assigned, not measured",
) -> LabelledAnatomy:
    """The anatomy of an Interfile pair. HU = value - `hu_offset`, not below air; the couch becomes air."""
    values, spacing_mm = read_interfile(attn_header)
    coded, coded_spacing_mm = read_interfile(src_header)
    if values.shape != coded.shape or not np.allclose(spacing_mm, coded_spacing_mm):
        raise GeometryError(
            f"an anatomy of {values.shape} voxels with labels of {coded.shape}", expected="one grid", kind="geometry.grid"
        )
    labels = np.where(coded >= FIRST_REGION_CODE, coded, 0).astype(np.int32)
    _check_names(labels, names)
    hu = np.maximum(values.astype(np.float32) - hu_offset, AIR_HU)
    hu[values == COUCH_VALUE] = AIR_HU
    return LabelledAnatomy(hu.astype(np.float32), _inferred_affine(values.shape, spacing_mm), labels, dict(names), sex, source)


def read_interfile(header: Path) -> tuple[npt.NDArray[np.uint16], tuple[float, float, float]]:
    """Array (z, y, x) and spacing (z, y, x) in mm of an Interfile of unsigned 16-bit little-endian integers.

    The key `slice thickness (pixels)` is read as millimetres, as this origin writes it.
    """
    keys = _interfile_keys(header)
    _expect(keys, "imagedata byte order", "LITTLEENDIAN")
    _expect(keys, "number format", "unsigned integer")
    _expect(keys, "number of bytes per pixel", "2")
    shape = (_whole(keys, "number of slices"), _whole(keys, "matrix size [2]"), _whole(keys, "matrix size [1]"))
    spacing_mm = (
        _real(keys, "slice thickness (pixels)"),
        _real(keys, "scaling factor (mm/pixel) [2]"),
        _real(keys, "scaling factor (mm/pixel) [1]"),
    )
    name = keys.get("name of data file", "")
    if not name or Path(name).name != name:
        raise InputError(
            "an Interfile header that names no data file beside it", expected="a plain file name", kind="input.anatomy"
        )
    offset = int(keys.get("data offset in bytes", "0"))
    raw = (header.parent / name).read_bytes()
    if not 0 < np.prod(shape, dtype=np.int64) <= _MAX_VOXELS or len(raw) != offset + 2 * int(np.prod(shape)):
        raise InputError(
            f"an Interfile of {len(raw)} bytes for {shape} voxels of 2 bytes",
            expected="exactly the size that the header states",
            remedy="check that the file was copied whole",
            kind="input.truncated",
        )
    array = np.frombuffer(raw, "<u2", offset=offset).reshape(shape).astype(np.uint16)
    return array, spacing_mm


def read_nifti_anatomy(ct: Path, labels: Path, sidecar: Path) -> LabelledAnatomy:
    """The anatomy of a NIfTI CT (HU) and label map on the same grid, with the sidecar's region names, sex and source."""
    try:
        side = json.loads(sidecar.read_text(encoding="utf-8"))
    except ValueError as e:
        raise InputError(
            "a sidecar that is not JSON", expected='{"1": "kidney_left", ..., "sex": ...}', kind="input.anatomy"
        ) from e
    if side.get("sex") not in ("male", "female"):
        raise InputError("a sidecar without the patient's sex", expected='"sex": "male" or "female"', kind="input.anatomy")
    hu, affine = read_nifti(ct)
    codes, label_affine = read_nifti(labels)
    if hu.shape != codes.shape or not np.allclose(affine, label_affine, atol=1e-3):
        raise GeometryError(
            f"a CT of {hu.shape} voxels with labels of {codes.shape}, or on another grid",
            expected="one grid",
            remedy="resample the label map (nearest) to the CT",
            kind="geometry.grid",
        )
    if not np.isfinite(hu).all() or not np.array_equal(codes, np.rint(codes)):
        raise InputError("a CT with non-finite values, or labels that are not whole numbers", kind="input.values")
    names = {int(k): str(v) for k, v in side.items() if k.lstrip("-").isdigit()}
    whole = np.rint(codes).astype(np.int32)
    _check_names(whole, names)
    source = str(side.get("source", "labelled anatomy from NIfTI files; origin not stated"))
    return LabelledAnatomy(hu.astype(np.float32), affine, whole, names, side["sex"], source)


def _inferred_affine(shape: tuple[int, ...], spacing_mm: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """Direction (+x, -y, -z) in LPS as the anatomy shows it; the origin of world space is put at the centre of the volume."""
    affine = np.eye(4)
    affine[:3, :3] = 0.0
    affine[2, 0], affine[1, 1], affine[0, 2] = -spacing_mm[0], -spacing_mm[1], spacing_mm[2]
    centre = (np.array(shape, float) - 1) / 2
    affine[:3, 3] = -affine[:3, :3] @ centre
    return affine


def _check_names(labels: npt.NDArray[np.int32], names: Mapping[int, str]) -> None:
    """Every named region must be known by its name and have voxels; every label must have a name."""
    present = set(np.unique(labels).tolist()) - {0}
    unnamed, empty = sorted(present - set(names)), sorted(set(names) - present)
    if unnamed or empty:
        raise InputError(
            f"labels without a name {unnamed}, names without a voxel {empty}",
            expected="one name for each label in the map",
            remedy="correct the table of region names",
            kind="input.region",
        )
    for name in names.values():
        if alias(name) != name:
            raise InputError(f"region name {name!r}", expected=f"{alias(name)!r}", kind="input.region")


def _interfile_keys(header: Path) -> dict[str, str]:
    keys: dict[str, str] = {}
    for line in header.read_text(encoding="latin-1").splitlines():
        key, mark, value = line.strip().lstrip("!").partition(":=")
        if mark:
            keys[key.strip().lower()] = value.strip()
    if "interfile" not in keys:
        raise InputError("a header that is not Interfile", expected="the key `!INTERFILE :=`", kind="input.anatomy")
    return keys


def _expect(keys: Mapping[str, str], key: str, value: str) -> None:
    found = keys.get(key)
    if found is None or found.lower() != value.lower():
        raise InputError(f"Interfile key {key!r} is {found!r}", expected=value, kind="input.anatomy")


def _real(keys: Mapping[str, str], key: str) -> float:
    try:
        value = float(keys[key])
    except (KeyError, ValueError):
        value = -1.0
    if not 0 < value < 100:
        raise InputError(f"Interfile key {key!r} is {keys.get(key)!r}", expected="a length in mm above 0", kind="input.anatomy")
    return value


def _whole(keys: Mapping[str, str], key: str) -> int:
    text = keys.get(key, "")
    if not text.isdigit():
        raise InputError(f"Interfile key {key!r} is {text!r}", expected="a whole number", kind="input.anatomy")
    return int(text)
