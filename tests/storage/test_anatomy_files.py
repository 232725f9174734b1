"""Labelled anatomies from tiny files written here: Interfile with its header traps, NIfTI with a sidecar."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from storage.anatomy_files import AIR_HU, HU_OFFSET, ORIGIN_REGIONS, read_anatomy, read_interfile
from tdt_core.errors import GeometryError, InputError

HEADER = """!INTERFILE :=
!imaging modality := nucmed
;
!data offset in bytes := 0
!name of data file := {name}
imagedata byte order := LITTLEENDIAN
exam type := CT
!total number of images := 6
!matrix size [1] := 9
!matrix size [2] := 5
!number format := unsigned integer
!number of bytes per pixel := 2
scaling factor (mm/pixel) [1] := 3.9063
scaling factor (mm/pixel) [2] := 3.5
!number of slices := 6
slice thickness (pixels) := 4.4196
!END OF INTERFILE :=
"""


@pytest.fixture
def interfile(tmp_path):
    attn = np.full((6, 5, 9), 1074, "<u2")
    attn[0, 0, 0], attn[0, 0, 1], attn[5, 0, :] = 6, 2150, 3000
    src = attn.copy()
    for n, code in enumerate(ORIGIN_REGIONS):
        src[2, 3, n] = code
    for part, array in (("attn", attn), ("src", src)):
        (tmp_path / f"p_{part}.i33").write_bytes(array.tobytes())
        (tmp_path / f"p_{part}.h33").write_text(HEADER.format(name=f"p_{part}.i33"))
    return tmp_path


def test_interfile_values_become_hu_by_the_assumed_offset_and_the_couch_becomes_air(interfile):
    anatomy = read_anatomy(interfile)
    assert HU_OFFSET.status == "assumed"
    assert anatomy.hu[3, 2, 4] == 50.0
    assert anatomy.hu[0, 0, 0] == AIR_HU  # 6 - 1024 lies below air
    assert (anatomy.hu[5, 0] == AIR_HU).all()
    assert anatomy.hu[0, 0, 1] == 2150 - 1024
    assert read_anatomy(interfile, hu_offset=1000.0).hu[3, 2, 4] == 74.0


def test_interfile_labels_are_the_codes_and_ct_values_under_them_come_from_the_other_file(interfile):
    anatomy = read_anatomy(interfile)
    for n, (code, name) in enumerate(ORIGIN_REGIONS.items()):
        assert (np.argwhere(anatomy.labels == code) == [[2, 3, n]]).all()
        assert anatomy.names[code] == name
    assert anatomy.hu[2, 3, 0] == 50.0
    assert (anatomy.labels > 0).sum() == len(ORIGIN_REGIONS)


def test_interfile_axes_run_to_the_left_the_front_and_the_feet_in_millimetres(interfile):
    affine = read_anatomy(interfile).affine
    np.testing.assert_allclose(affine[:3, :3] @ [1, 0, 0], [0, 0, -4.4196])  # key says pixels, value is mm
    np.testing.assert_allclose(affine[:3, :3] @ [0, 1, 0], [0, -3.5, 0])
    np.testing.assert_allclose(affine[:3, :3] @ [0, 0, 1], [3.9063, 0, 0])
    np.testing.assert_allclose((affine @ [2.5, 2, 4, 1])[:3], 0, atol=1e-9)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LITTLEENDIAN", "BIGENDIAN"),
        ("unsigned integer", "short float"),
        ("bytes per pixel := 2", "bytes per pixel := 4"),
        ("!number of slices := 6", "!number of slices := 7"),
        ("!matrix size [1] := 9", "!matrix size [1] := nine"),
        ("scaling factor (mm/pixel) [2] := 3.5", "scaling factor (mm/pixel) [2] := -3.5"),
        ("p_attn.i33", "../p_attn.i33"),
        ("!INTERFILE :=", "!SOMETHING"),
    ],
)
def test_interfile_headers_that_say_something_else_are_refused(interfile, old, new):
    header = interfile / "p_attn.h33"
    header.write_text(header.read_text().replace(old, new))
    with pytest.raises(InputError):
        read_interfile(header)


def test_a_truncated_interfile_is_refused(interfile):
    data = interfile / "p_src.i33"
    data.write_bytes(data.read_bytes()[:-2])
    with pytest.raises(InputError, match="bytes"):
        read_anatomy(interfile)


def test_a_region_code_without_a_name_or_a_name_without_a_voxel_is_refused(interfile):
    data = interfile / "p_src.i33"
    src = np.fromfile(data, "<u2")
    data.write_bytes(np.where(src == 18000, 18001, src).astype("<u2").tobytes())
    with pytest.raises(InputError, match=r"\[18001\].*\[18000\]"):
        read_anatomy(interfile)


@pytest.fixture
def nifti(tmp_path):
    hu = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)  # i, j, k
    labels = np.zeros((4, 5, 6), np.int16)
    labels[1, 2, 3], labels[3, 4, 5] = 1, 7
    # RAS: rising i to the patient's right is a negative x in RAS
    affine = np.array([[-2.0, 0, 0, 10], [0, 3.0, 0, 20], [0, 0, 4.0, 30], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(hu, affine), tmp_path / "ct.nii.gz")
    nib.save(nib.Nifti1Image(labels, affine), tmp_path / "labels.nii.gz")
    _sidecar(tmp_path, {"1": "kidney_left", "7": "lesion/A", "sex": "male", "source": "made here"})
    return tmp_path


def _sidecar(folder: Path, data: dict) -> None:
    (folder / "labels.json").write_text(json.dumps(data))


def test_nifti_is_turned_from_ijk_in_ras_to_kji_in_lps(nifti):
    anatomy = read_anatomy(nifti)
    assert anatomy.hu.shape == (6, 5, 4)
    assert anatomy.hu[3, 2, 1] == np.arange(120).reshape(4, 5, 6)[1, 2, 3]
    # RAS of (i, j, k) = (1, 2, 3): (8, 26, 42); LPS turns the first two
    np.testing.assert_allclose((anatomy.affine @ [3, 2, 1, 1])[:3], [-8, -26, 42])
    assert anatomy.names == {1: "kidney_left", 7: "lesion/A"}
    assert (anatomy.labels[3, 2, 1], anatomy.labels[5, 4, 3]) == (1, 7)
    assert (anatomy.sex, anatomy.source) == ("male", "made here")


@pytest.mark.parametrize(
    "side",
    [
        {"1": "kidney_left", "7": "lesion/A"},
        {"1": "kidney_left", "sex": "male"},
        {"1": "kidney_left", "7": "lesion/A", "8": "liver", "sex": "male"},
        {"1": "left kidney", "7": "lesion/A", "sex": "male"},
        {"1": "appendix", "7": "lesion/A", "sex": "male"},
    ],
)
def test_sidecars_without_sex_with_other_labels_or_unknown_names_are_refused(nifti, side):
    _sidecar(nifti, side)
    with pytest.raises(InputError):
        read_anatomy(nifti)


def test_a_label_map_on_another_grid_or_a_truncated_file_is_refused(nifti):
    labels = nib.load(nifti / "labels.nii.gz")
    moved = labels.affine.copy()
    moved[0, 3] += 1
    data = np.asarray(labels.dataobj)
    nib.save(nib.Nifti1Image(data, moved), nifti / "labels.nii.gz")
    with pytest.raises(GeometryError):
        read_anatomy(nifti)
    raw = (nifti / "ct.nii.gz").read_bytes()
    (nifti / "ct.nii.gz").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(InputError):
        read_anatomy(nifti)


def test_a_folder_without_an_anatomy_says_what_was_expected(tmp_path):
    with pytest.raises(InputError, match="attn"):
        read_anatomy(tmp_path)
