"""Laws of moving volumes and labels between grids."""

from typing import Literal

import numpy as np
import pytest
from imaging_bodies import affine_of, labels_of, rigid
from scipy import ndimage

from tdt_core.errors import GeometryError
from tdt_core.imaging.resampling import RigidTransform, fractions_on, identity_transform, labels_onto, resample, soft_edge
from tdt_core.imaging.volume import Volume

SHAPE = (40, 44, 48)


def blob(shape: tuple[int, int, int] = SHAPE, spacing: float = 4.0, frame: str = "A") -> Volume:
    rng = np.random.default_rng(1)
    inner = ndimage.gaussian_filter(rng.random([n - 20 for n in shape]), 2.0)
    return Volume(np.pad(inner, 10).astype(np.float32), affine_of(shape, spacing), "MBq/mL", frame)


def total(v: Volume) -> float:
    return float(v.array.sum(dtype=np.float64)) * v.voxel_ml


def test_the_identity_is_exact() -> None:
    v = blob()
    assert np.array_equal(resample(v, v).array, v.array)
    moved = resample(v, blob(frame="B"), identity_transform("B", "A"))
    assert np.array_equal(moved.array, v.array)


def test_a_shift_by_whole_voxels_is_exact() -> None:
    v = blob()
    moved = resample(v, blob(frame="B"), RigidTransform(rigid((8.0, 0.0, -4.0)), "B", "A"))
    assert np.allclose(moved.array[1:, :, :-2], v.array[:-1, :, 2:], atol=1e-6)


@pytest.mark.parametrize("how", ["linear", "spline"])
@pytest.mark.parametrize("angles", [(0, 0, 0), (5, -8, 12)])
@pytest.mark.parametrize("spacing", [2.7, 4.0, 9.5])
def test_activity_is_kept_on_any_grid(
    how: Literal["linear", "spline"], angles: tuple[float, float, float], spacing: float
) -> None:
    v = blob()
    shape = tuple(int(np.ceil(n * 4.0 / spacing)) + 6 for n in SHAPE)
    grid = Volume(np.zeros(shape, np.float32), affine_of(shape, spacing), "MBq/mL", "B")  # type: ignore[arg-type]
    moved = resample(v, grid, RigidTransform(rigid((1.3, -2.1, 0.7), angles), "B", "A"), how)
    assert total(moved) == pytest.approx(total(v), rel=0.01)
    assert moved.array.min() >= 0


def test_a_spline_keeps_the_width_of_a_small_source_and_makes_no_activity_negative() -> None:
    def spot(centre: float) -> Volume:
        z, y, x = np.meshgrid(*[np.arange(24.0)] * 3, indexing="ij")
        r2 = (z - 11.0) ** 2 + (y - 11.0) ** 2 + (x - centre) ** 2
        return Volume(np.exp(-0.5 * r2 / 0.7**2).astype(np.float32), affine_of((24, 24, 24), 8.0), "MBq/mL", "A")

    def variance(v: Volume) -> float:
        at, x = v.array.sum(axis=(0, 1), dtype=float), np.arange(24.0)
        mean = (at * x).sum() / at.sum()
        return float((at * (x - mean) ** 2).sum() / at.sum())

    # half a voxel along x, where linear interpolation adds a quarter of a squared voxel
    half = RigidTransform(rigid((4.0, 0.0, 0.0)), "B", "A")
    grid = Volume(np.zeros((24, 24, 24), np.float32), affine_of((24, 24, 24), 8.0), "MBq/mL", "B")
    linear, spline = (resample(spot(12.0), grid, half, how) for how in ("linear", "spline"))  # type: ignore[arg-type]
    assert variance(linear) == pytest.approx(variance(spot(12.0)) + 0.25, abs=0.01)
    assert variance(spline) == pytest.approx(variance(spot(12.0)), abs=0.06)
    assert spline.array.min() >= 0
    assert resample(spot(12.0).replace(-spot(12.0).array, "MBq/mL"), grid, half, "spline").array.min() < -0.5
    at_edge = resample(spot(12.0).replace(np.ones((24, 24, 24)), "1"), grid, half, "spline", 1.0)
    assert np.allclose(at_edge.array, 1.0, atol=1e-5)


def test_there_and_back_returns_the_image_up_to_smoothing() -> None:
    v = blob()
    t = RigidTransform(rigid((3.0, 1.0, -2.0), (4, 2, -3)), "B", "A")
    back = resample(resample(v, blob(frame="B"), t), v, t.inverse)
    assert np.corrcoef(back.array.ravel(), v.array.ravel())[0, 1] > 0.99
    assert np.allclose(t.matrix @ t.inverse.matrix, np.eye(4), atol=1e-12)


def test_the_direction_of_the_axes_does_not_matter() -> None:
    v = blob()
    flipped = v.affine.copy()
    flipped[:3, 3] += flipped[:3, 0] * (SHAPE[0] - 1)
    flipped[:3, 0] *= -1
    same = Volume(v.array[::-1].copy(), flipped, "MBq/mL", "A")
    assert np.array_equal(resample(same, v).array, v.array)


def test_volumes_of_different_frames_need_a_transform() -> None:
    with pytest.raises(GeometryError) as e:
        resample(blob(), blob(frame="B"))
    assert e.value.kind == "geometry.frame"
    with pytest.raises(GeometryError):
        resample(blob(), blob(frame="B"), identity_transform("C", "A"))


def test_only_a_rigid_matrix_is_a_transform() -> None:
    for bad in (np.eye(4) * 2, np.diag([1.0, 1.0, -1.0, 1.0]), np.full((4, 4), np.nan)):
        with pytest.raises(GeometryError):
            RigidTransform(bad, "A", "B")


def test_labels_move_without_new_codes() -> None:
    labels = labels_of(SHAPE, affine_of(SHAPE, 8.0), "A")
    grid = Volume(np.zeros((60, 60, 60), np.float32), affine_of((60, 60, 60), 6.0), "1", "B")
    moved = labels_onto(labels, grid, RigidTransform(rigid((2, 3, 4), (3, 0, 5)), "B", "A"))
    assert set(np.unique(moved.labels)) <= set(np.unique(labels.labels))
    a, b = (labels.labels == 2).sum() * 8.0**3, (moved.labels == 2).sum() * 6.0**3
    assert b == pytest.approx(a, rel=0.03)


def test_fractions_keep_the_volume_on_a_coarser_and_on_a_turned_grid() -> None:
    labels = labels_of((80, 80, 80), affine_of((80, 80, 80), 4.0), "A")
    for shape, spacing, angles in (((40, 40, 40), 8.0, (0, 0, 0)), ((64, 64, 64), 6.0, (7, 3, -5))):
        grid = Volume(np.zeros(shape, np.float32), affine_of(shape, spacing), "1", "B")  # type: ignore[arg-type]
        masks = fractions_on(labels, grid, RigidTransform(rigid((1, 2, 3), angles), "B", "A"))  # type: ignore[arg-type]
        for n, region in enumerate(labels.regions, start=1):
            true = (labels.labels == n).sum() * 4.0**3
            assert masks[region.name].voxels * spacing**3 == pytest.approx(true, rel=0.02)
            assert masks[region.name].values.min() >= 0
            assert masks[region.name].values.max() <= 1 + 1e-6


def test_fractions_on_the_own_grid_are_the_labels_unless_softened() -> None:
    labels = labels_of(SHAPE, affine_of(SHAPE, 8.0), "A")
    grid = Volume(np.zeros(SHAPE, np.float32), labels.affine, "1", "A")
    hard = fractions_on(labels, grid, soften=False)["kidney_left"].full(SHAPE)
    assert np.array_equal(hard, labels.mask("kidney_left").astype(np.float32))
    soft = fractions_on(labels, grid)["kidney_left"]
    assert soft.voxels == pytest.approx(hard.sum(), rel=1e-5)
    assert soft.values.max() <= 1
    assert ((soft.values > 0) & (soft.values < 1)).any()


def test_a_softened_edge_keeps_sum_and_interior() -> None:
    cube = np.pad(np.ones((6, 6, 6)), 3)
    soft = soft_edge(cube)
    assert soft.sum() == pytest.approx(cube.sum(), rel=1e-6)
    assert np.allclose(soft[5:7, 5:7, 5:7], 1.0)
