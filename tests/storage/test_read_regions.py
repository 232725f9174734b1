"""Segmentations come back as the voxels that were drawn, from SEG and from contours, and wrong ones do not come back at all."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import inbox_builder as b
import numpy as np
import pytest
from pydicom.dataset import Dataset

from storage.dicom.ct_pt import read_ct
from storage.dicom.parse import open_file
from storage.dicom.rtstruct import read_rtstruct
from storage.dicom.seg import read_seg
from storage.dicom.write_common import save
from storage.masks import Grid, Mask, label_volume, midline_x_mm
from tdt_core.errors import GeometryError, InputError, TwinError
from tdt_core.imaging.regions import region_named
from tdt_core.imaging.volume import LabelVolume

AT = b.THERAPY + timedelta(hours=4)


def token(original: str) -> str:
    return "0123456789abcdef"


def grid_and_slices(tmp_path: Path) -> tuple[Grid, list[Dataset]]:
    slices = b.ct("x", AT)
    ct = read_ct([open_file(save(d, tmp_path / f"ct{k}.dcm"), pixels=True) for k, d in enumerate(slices)])
    z, y, x = ct.array.shape
    return Grid((z, y, x), ct.affine, ct.frame_of_reference, ct.series_uid), slices


def written(d: Dataset, tmp_path: Path, *, pixels: bool = True) -> Dataset:
    return open_file(save(d, tmp_path / "regions.dcm"), pixels=pixels)


def same_regions(found: list[Mask], drawn: LabelVolume) -> None:
    assert {m.region.name for m in found} == {r.name for r in drawn.regions}
    for mask in found:
        np.testing.assert_array_equal(mask.array, drawn.mask(mask.region.name), err_msg=mask.region.name)


def test_a_seg_comes_back_voxel_by_voxel_with_codes_sides_and_tracking_ids(tmp_path):
    grid, slices = grid_and_slices(tmp_path)
    masks, found = read_seg(written(b.segmentation("x", slices), tmp_path), [grid], token)
    assert found is grid
    same_regions(masks, b.labels())
    by_name = {m.region.name: m.region for m in masks}
    assert by_name["kidney_left"].laterality == "left"
    assert by_name["lesion/L1"].tracking_id == "L1"


def test_a_seg_of_one_region_comes_back(tmp_path):
    grid, slices = grid_and_slices(tmp_path)
    drawn = b.labels(("liver",))
    same_regions(read_seg(written(b.segmentation("x", slices, drawn), tmp_path), [grid], token)[0], drawn)


def test_a_seg_finds_its_grid_among_those_of_its_frame_of_reference(tmp_path):
    grid, slices = grid_and_slices(tmp_path)
    coarse = Grid((3, 5, 12), np.diag([2.0, 2, 2, 1]) @ grid.affine, grid.frame_of_reference, "2.25.8")
    shifted = Grid(grid.shape, grid.affine + np.array([[0, 0, 0, 7.0]] * 3 + [[0] * 4]), grid.frame_of_reference, "2.25.9")
    elsewhere = Grid(grid.shape, grid.affine, "2.25.77", grid.series_uid)
    d = written(b.segmentation("x", slices), tmp_path)
    assert read_seg(d, [elsewhere, coarse, shifted, grid], token)[1] is grid
    with pytest.raises(GeometryError) as error:
        read_seg(d, [elsewhere, coarse, shifted], token)
    assert error.value.kind == "seg.grid"


def test_a_tracking_id_that_may_be_a_name_is_replaced_by_a_pseudonym_of_its_uid(tmp_path):
    grid, slices = grid_and_slices(tmp_path)
    d = b.segmentation("x", slices)
    d.SegmentSequence[3].TrackingID = "Doe John left rib"
    names = {m.region.name for m in read_seg(written(d, tmp_path), [grid], token)[0]}
    assert "lesion/u0123456789abcdef" in names


def test_contours_come_back_voxel_by_voxel(tmp_path):
    grid, slices = grid_and_slices(tmp_path)
    masks, _, remarks = read_rtstruct(written(b.structures("x", slices), tmp_path, pixels=False), [grid])
    same_regions(masks, b.labels())
    assert remarks == []


def test_a_hole_comes_back_from_a_keyhole_and_from_an_inner_contour(tmp_path):
    grid, slices = grid_and_slices(tmp_path)
    array = np.zeros(b.SHAPE, np.int16)
    array[2:4, 2:8, 4:12] = 1
    array[2:4, 4:6, 6:9] = 0
    ring = LabelVolume(array, b.AFFINE, "unused", (region_named("liver"),))
    d = b.structures("x", slices, ring)
    same_regions(read_rtstruct(written(d, tmp_path, pixels=False), [grid])[0], ring)
    for item in d.ROIContourSequence[0].ContourSequence:  # outline and hole as contours of their own
        outer = corners(item, 2, 8, 4, 12)
        item.ContourData, item.NumberOfContourPoints = outer, 4
    holes = [copy_with(item, corners(item, 4, 6, 6, 9)) for item in d.ROIContourSequence[0].ContourSequence]
    d.ROIContourSequence[0].ContourSequence.extend(holes)
    same_regions(read_rtstruct(written(d, tmp_path, pixels=False), [grid])[0], ring)


def corners(item: Dataset, j0: int, j1: int, i0: int, i1: int) -> list[str]:
    """A rectangle along voxel edges in the slice of `item`, LPS mm."""
    z = float(item.ContourData[2])
    (x0, x1), (y0, y1) = ((-230 + (n - 0.5) * 20 for n in (i0, i1)), (-90 + (n - 0.5) * 20 for n in (j0, j1)))
    return [f"{v:g}" for point in ((x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)) for v in point]


def copy_with(item: Dataset, data: list[str]) -> Dataset:
    out = Dataset()
    out.ContourGeometricType, out.NumberOfContourPoints, out.ContourData = "CLOSED_PLANAR", len(data) // 3, data
    return out


def disc(radius_mm: float, z_mm: float, n: int = 90) -> Dataset:
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    points = np.column_stack([3.0 + radius_mm * np.cos(t), 2.0 + radius_mm * np.sin(t), np.full(n, z_mm)])
    return copy_with(Dataset(), [f"{v:.4f}" for v in points.ravel()])


def structure(contours: list[Dataset], frame: str) -> Dataset:
    d, roi, contour = Dataset(), Dataset(), Dataset()
    roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = 1, "Lesion 3", frame
    contour.ReferencedROINumber, contour.ContourSequence = 1, contours
    d.StructureSetROISequence, d.ROIContourSequence, d.ReferencedFrameOfReferenceSequence = [roi], [contour], []
    return d


def sphere_grid(dz_mm: float = 2.0) -> Grid:
    affine = np.array([[0, 0, 2.0, -40], [0, 2.0, 0, -40], [dz_mm, 0, 0, -40], [0, 0, 0, 1.0]])
    return Grid((int(80 / dz_mm), 40, 40), affine, "2.25.5", "2.25.6")


@pytest.mark.parametrize(("radius_mm", "within"), [(4.0, 0.2), (6.0, 0.1), (12.0, 0.03)])
def test_a_small_sphere_keeps_its_volume(radius_mm, within):
    """Two to six voxels of radius; a rule that a voxel must lie inside as a whole would keep under half of the smallest."""
    grid = sphere_grid()
    places = [z for z in -40 + 2.0 * np.arange(40) if abs(z) < radius_mm]
    contours = [disc(float(np.sqrt(radius_mm**2 - z**2)), float(z)) for z in places]
    masks, _, _ = read_rtstruct(structure(contours, "2.25.5"), [grid])
    assert masks[0].region.name == "lesion/3"
    assert masks[0].voxels * 8.0 == pytest.approx(4 / 3 * np.pi * radius_mm**3, rel=within)


def test_contours_on_every_second_slice_fill_the_slices_between():
    grid = sphere_grid()
    contours = [disc(10.0, float(z)) for z in np.arange(-16, 17, 4.0)]
    masks, _, remarks = read_rtstruct(structure(contours, "2.25.5"), [grid])
    slices = masks[0].array.any(axis=(1, 2))
    assert np.flatnonzero(slices).size == np.ptp(np.flatnonzero(slices)) + 1
    assert masks[0].voxels * 8.0 == pytest.approx(np.pi * 100 * 36, rel=0.1)
    assert remarks == []


def test_contours_across_the_slices_open_contours_and_unknown_names_are_refused():
    grid = sphere_grid()
    steep = disc(10.0, 0.0)
    steep.ContourData = [f"{v}" for p in ((0, 0, 0), (10, 0, 9), (10, 10, 0)) for v in p]
    point = disc(10.0, 0.0)
    point.ContourGeometricType = "POINT"
    unknown = structure([disc(10.0, 0.0)], "2.25.5")
    unknown.StructureSetROISequence[0].ROIName = "CANARYNAME couch"
    cases = {
        "rtstruct.planes": structure([steep], "2.25.5"),
        "rtstruct.contour_type": structure([point], "2.25.5"),
        "region.unknown": unknown,
        "rtstruct.reference": structure([disc(10.0, 0.0)], "2.25.4"),
        "mask.empty": structure([], "2.25.5"),
    }
    for kind, d in cases.items():
        with pytest.raises(TwinError) as error:
            read_rtstruct(d, [grid])
        assert error.value.kind == kind
        assert "CANARY" not in str(error.value)


def boxes(**places: object) -> tuple[list[Mask], Grid]:
    grid = Grid((10, 40, 60), np.array([[0, 0, 5.0, -150], [0, 5.0, 0, 0], [5.0, 0, 0, 0], [0, 0, 0, 1.0]]), "2.25.1", "2.25.2")
    masks = []
    for name, box in places.items():
        array = np.zeros(grid.shape, bool)
        array[box] = True
        masks.append(Mask.of(region_named(name.replace("lesion_", "lesion/")), array, name))
    return masks, grid


def test_a_lesion_in_an_organ_is_taken_out_of_it_and_said():
    masks, grid = boxes(liver=np.s_[2:8, 10:30, 10:25], lesion_L1=np.s_[3:5, 12:14, 12:14], body=np.s_[:, 5:35, 5:55])
    labels, remarks = label_volume(masks, grid, None)
    total = sum(r.volume_ml for r in labels.regions)
    assert total == pytest.approx(10 * 30 * 50 * 0.125)  # no voxel counts twice, none is lost
    assert labels.mask("lesion/L1").sum() == 8
    assert labels.mask("liver").sum() == 6 * 20 * 15 - 8
    assert remarks == ["lesion/L1 and liver share 8 voxels (100 % of the smaller); they count as lesion/L1"]


def test_the_order_of_segments_does_not_matter():
    masks, grid = boxes(liver=np.s_[2:8, 10:30, 10:25], lesion_L1=np.s_[3:5, 12:14, 12:14], spleen=np.s_[2:8, 10:30, 40:45])
    one, two = label_volume(masks, grid, None)[0], label_volume(masks[::-1], grid, None)[0]
    np.testing.assert_array_equal(one.labels, two.labels)
    assert one.regions == two.regions


def test_a_seam_goes_to_the_smaller_organ_and_a_real_overlap_is_refused():
    masks, grid = boxes(liver=np.s_[2:8, 10:30, 10:25], spleen=np.s_[2:4, 10:30, 24:45])
    labels, remarks = label_volume(masks, grid, None)
    assert labels.mask("spleen").sum() == 2 * 20 * 21
    assert "seam" in remarks[0]
    masks, grid = boxes(liver=np.s_[2:8, 10:30, 10:25], spleen=np.s_[2:8, 10:30, 20:45])
    with pytest.raises(InputError) as error:
        label_volume(masks, grid, None)
    assert error.value.kind == "mask.overlap"


def test_a_single_kidney_is_tested_against_the_midline():
    hu = np.full((10, 40, 60), -1000)
    hu[:, 5:35, 5:55] = 30
    masks, grid = boxes(kidney_left=np.s_[2:8, 10:20, 40:50])
    middle = midline_x_mm(hu, grid.affine)
    assert middle == pytest.approx(-150 + 29.5 * 5)
    label_volume(masks, grid, middle)
    masks, grid = boxes(kidney_left=np.s_[2:8, 10:20, 10:20])
    with pytest.raises(InputError) as error:
        label_volume(masks, grid, middle)
    assert error.value.kind == "mask.laterality"


def test_one_mask_given_as_both_kidneys_is_seen():
    masks, grid = boxes(kidney_left=np.s_[2:8, 10:20, 40:50], kidney_right=np.s_[2:8, 10:20, 40:50])
    with pytest.raises(InputError) as error:
        label_volume(masks, grid, None)
    assert error.value.kind == "mask.one_organ_as_two"
