"""Slices make a volume only when nothing has to be guessed."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from storage.dicom.geometry import Plane, directions, stack
from tdt_core.errors import GeometryError


def planes(n: int = 8, step_mm: float = 2.5, tilt_deg: float = 15.0) -> list[Plane]:
    t = np.deg2rad(tilt_deg)
    row, column = np.array([1.0, 0, 0]), np.array([0, np.cos(t), np.sin(t)])
    normal = np.cross(row, column)
    return [
        Plane(np.array([5.0, -7.0, 3.0]) + k * step_mm * normal, row, column, (0.9, 1.1), (4, 5), "2.25.1") for k in range(n)
    ]


def test_any_order_of_slices_gives_the_same_affine_and_every_voxel_its_place():
    straight = planes()
    order = list(range(len(straight)))
    random.Random(3).shuffle(order)
    sorted_order, affine = stack([straight[n] for n in order])
    assert [order[n] for n in sorted_order] == list(range(len(straight)))
    for k, plane in enumerate(straight):
        place = plane.position + 3 * 0.9 * plane.column + 2 * 1.1 * plane.row
        np.testing.assert_allclose((affine @ np.array([k, 3, 2, 1.0]))[:3], place, atol=1e-9)


def test_jitter_of_a_hundredth_of_the_spacing_is_accepted_and_more_is_not():
    normal = planes()[0].normal
    for jitter_mm, accepted in ((0.01, True), (0.2, False)):
        moved = [replace(p, position=p.position + (k % 2) * jitter_mm * normal) for k, p in enumerate(planes())]
        if accepted:
            stack(moved)
        else:
            with pytest.raises(GeometryError) as error:
                stack(moved)
            assert error.value.kind == "geometry.uneven"


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_lost_slices_are_counted(lost):
    with pytest.raises(GeometryError, match=f"{lost} slices are missing of 8") as error:
        stack([p for k, p in enumerate(planes()) if not 2 <= k < 2 + lost])
    assert error.value.kind == "geometry.missing_slice"


def test_a_shear_of_a_tenth_of_a_degree_over_a_long_stack_is_seen():
    sheared = [replace(p, position=p.position + k * 2.5 * np.tan(np.deg2rad(0.1)) * p.row) for k, p in enumerate(planes(60))]
    with pytest.raises(GeometryError) as error:
        stack(sheared)
    assert error.value.kind == "geometry.shear"


def test_two_slices_at_one_place_are_refused():
    with pytest.raises(GeometryError) as error:
        stack([*planes(), planes()[3]])
    assert error.value.kind == "geometry.repeated_position"


def test_directions_that_are_no_perpendicular_units_are_refused():
    for cosines in ([1, 0, 0, 0.1, 1, 0], [2, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]):
        with pytest.raises(GeometryError):
            directions(cosines)
