"""Whether CT and scan show what is measured in them: activity and regions, from geometry alone."""

import numpy as np
import pytest
from imaging_bodies import affine_of, make_scan

from tdt_core.errors import GeometryError, InputError
from tdt_core.imaging.coverage import check_coverage, check_regions
from tdt_core.imaging.regions import region_named
from tdt_core.imaging.volume import LabelVolume, Volume

SHAPE, SPACING = (64, 46, 56), 6.0
SCAN, CT_SCAN = make_scan("A", 0.0)
CT = CT_SCAN.volume


def test_a_ct_that_covers_the_scan_passes_and_one_that_does_not_is_refused():
    check_coverage(CT, SCAN.volume)
    half = Volume(CT.array[: SHAPE[0] // 2], CT.affine, "HU", "A")
    with pytest.raises(GeometryError) as e:
        check_coverage(half, SCAN.volume)
    assert e.value.kind == "geometry.ct_coverage"
    assert "%" in e.value.found
    assert e.value.remedy


def test_a_rim_without_activity_need_not_be_covered():
    empty = SCAN.volume.array.copy()
    empty[: empty.shape[0] // 2] = 0
    lower = affine_of(SHAPE, SPACING).copy()
    start = SHAPE[0] // 2
    lower[:3, 3] += lower[:3, 0] * start
    part = Volume(CT.array[start:], lower, "HU", "A")
    scan = SCAN.volume.replace(empty)
    if scan.array.shape[0] == SHAPE[0]:
        check_coverage(part, scan)
    with pytest.raises(GeometryError):
        check_coverage(part, SCAN.volume)


def field(first: int, last: int, unit: str = "HU") -> Volume:
    """Slices first to last of a stack of 4 mm slices."""
    affine = np.array([[0, 0, 4.0, 0], [0, 4.0, 0, 0], [4.0, 0, 0, 4.0 * first], [0, 0, 0, 1.0]])
    return Volume(np.ones((last - first + 1, 5, 6), np.float32), affine, unit, "A")


def drawn(first: int, last: int) -> LabelVolume:
    """A liver in slices first to last of a hundred."""
    whole = field(0, 99)
    labels = np.zeros(whole.array.shape, np.int16)
    labels[first : last + 1] = 1
    return LabelVolume(labels, whole.affine, "A", (region_named("liver"),))


@pytest.mark.parametrize(("last", "passes"), [(49, True), (48, True), (47, False), (20, False)])
def test_a_ct_may_leave_out_the_stated_share_of_a_region_and_no_more(last, passes):
    labels = drawn(0, 49)  # 2 % of 50 slices is one
    if passes:
        assert check_regions(labels, field(0, last)) is None
        return
    with pytest.raises(GeometryError, match="liver lies outside the CT") as e:
        check_regions(labels, field(0, last))
    assert e.value.kind == "geometry.ct_coverage"
    assert e.value.found.startswith(f"{(49 - last) / 50:.0%}")
    assert e.value.expected
    assert e.value.remedy


def test_a_region_may_reach_beyond_a_scan_but_not_lie_beyond_it():
    labels = drawn(10, 29)
    assert check_regions(labels, field(0, 99), (field(29, 60, "MBq/mL"),)) is None
    with pytest.raises(InputError) as e:
        check_regions(labels, field(0, 99), (field(0, 99, "MBq/mL"), field(30, 60, "MBq/mL")))
    assert e.value.kind == "input.mask"
    assert "liver" in e.value.found
