"""Rigid registration recovers known motions and refuses what does not fit."""

import numpy as np
import pytest
from imaging_bodies import make_scan, rigid

from tdt_core.errors import GeometryError
from tdt_core.imaging.masks import body_outline
from tdt_core.imaging.registration import register
from tdt_core.imaging.resampling import RigidTransform
from tdt_core.imaging.volume import Volume


def at(frame: str, motion: np.ndarray | None = None, seed: int = 0) -> Volume:
    return make_scan(frame, 0.0, motion, seed=seed)[1].volume


FIXED = at("A")
BODY = body_outline(FIXED)


def error_mm(found: RigidTransform, true: np.ndarray) -> float:
    """Mean distance over the body between found and true positions."""
    points = np.c_[np.argwhere(BODY)[::50], np.ones(len(np.argwhere(BODY)[::50]))] @ FIXED.affine.T
    return float(np.linalg.norm((points @ (found.matrix - true).T)[:, :3], axis=1).mean())


@pytest.mark.parametrize(
    ("shift", "angles"),
    [((7.0, -6.0, 5.0), (1.0, -2.0, 3.0)), ((-4.0, 9.0, -8.0), (-3.0, 1.0, -1.5)), ((2.0, 1.0, 20.0), (0.0, 0.0, 0.0))],
)
def test_a_known_motion_is_recovered_within_a_millimetre(
    shift: tuple[float, float, float], angles: tuple[float, float, float]
) -> None:
    true = rigid(shift, angles)
    found = register(FIXED, at("B", true, seed=1))
    assert error_mm(found, true) < 1.0
    assert (found.fixed_frame, found.moving_frame) == ("A", "B")
    assert found.residual_mm >= 0.5


def test_the_same_body_twice_does_not_move() -> None:
    found = register(FIXED, at("B", seed=2))
    assert found.shift_mm < 0.3
    assert found.rotation_deg < 0.2


def test_the_same_pair_gives_the_same_transform_to_the_bit() -> None:
    moving = at("B", rigid((5, 0, -3), (1, 1, 0)), seed=1)
    one, two = register(FIXED, moving), register(FIXED, moving)
    assert np.array_equal(one.matrix, two.matrix)


def test_the_direction_of_the_moving_axes_does_not_matter() -> None:
    true = rigid((5, -3, 4), (1, 2, -1))
    moving = at("B", true, seed=1)
    affine = moving.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (moving.array.shape[0] - 1)
    affine[:3, 0] *= -1
    flipped = Volume(moving.array[::-1].copy(), affine, "HU", "B")
    assert error_mm(register(FIXED, flipped), true) < 1.0


def test_a_ct_of_something_else_is_refused() -> None:
    shape = FIXED.array.shape
    k, j, i = np.indices(shape)
    ball = ((k - 20) ** 2 + (j - 20) ** 2 + (i - 20) ** 2 < 18**2) * 1040.0 - 1000.0
    with pytest.raises(GeometryError) as e:
        register(FIXED, Volume(ball, FIXED.affine, "HU", "B"))
    assert e.value.kind == "registration.failed"


def test_a_ct_of_a_few_slices_is_refused_before_it_is_registered() -> None:
    few = Volume(FIXED.array[:5], FIXED.affine, "HU", "B")
    for fixed, moving in ((FIXED, few), (few, FIXED)):
        with pytest.raises(GeometryError, match="at least 8 along every axis") as caught:
            register(fixed, moving)
        assert caught.value.kind == "geometry.too_few_voxels"
