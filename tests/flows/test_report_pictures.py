"""Dose pictures: the patient is never shown the wrong way round, and lines lie where the dose has their value."""

from __future__ import annotations

import base64
import itertools
import re
import struct
import zlib

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from state_builder import build_dose, build_state

from flows.report import figures, pictures, style, volumes
from flows.report.render import dose_pictures
from flows.report.svg import Frame, log_ticks, nice_ticks, tick_label
from tdt_core.errors import GeometryError

SHAPE = (12, 10, 8)
SPACING = (5.0, 4.0, 3.0)


def dataset(values: npt.NDArray[np.float64], affine: npt.NDArray[np.float64]) -> xr.Dataset:
    dims = ("z", "y", "x")
    return xr.Dataset(
        {
            "dose_mean_gy": (dims, values.astype(np.float32), {"units": "Gy"}),
            "dose_sd_gy": (dims, (0.1 * values).astype(np.float32), {"units": "Gy"}),
            "ct_hu": (dims, np.zeros(values.shape, np.int16), {"units": "HU"}),
            "label": (dims, (values > 5).astype(np.int16), {"units": "1"}),
        },
        attrs={"affine": affine.ravel().tolist(), "regions": '["liver"]'},
    )


def standard() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Axes head, posterior, left, every voxel with a value of its own."""
    values = np.arange(np.prod(SHAPE), dtype=float).reshape(SHAPE) / 100
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, SPACING[2]], [0, SPACING[1], 0], [SPACING[0], 0, 0]]
    return values, affine


TURNS = [(p, f) for p in itertools.permutations(range(3)) for f in itertools.product((False, True), repeat=3)]


@pytest.mark.parametrize(("order", "flips"), TURNS)
def test_however_a_grid_is_stored_the_patient_is_seen_the_same_way_round(
    order: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    values, affine = standard()
    turned = np.flip(values.transpose(order), [n for n, f in enumerate(flips) if f])
    matrix = affine[:3, :3][:, order] * np.where(flips, -1, 1)
    origin = affine[:3, 3] - sum((matrix[:, n] * (turned.shape[n] - 1) for n, f in enumerate(flips) if f), start=np.zeros(3))
    other = np.eye(4)
    other[:3, :3], other[:3, 3] = matrix, origin
    seen, expected = volumes.view_of(dataset(turned, other)), volumes.view_of(dataset(values, affine))
    np.testing.assert_array_equal(seen.dose, expected.dose)
    assert seen.spacing_mm == pytest.approx(SPACING)
    assert seen.oblique_deg == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("view", "corner"), [("coronal", (-1, 0)), ("sagittal", (-1, 0)), ("axial", (0, 0))])
def test_head_or_front_is_up_and_the_right_side_or_front_is_left(view: str, corner: tuple[int, int]) -> None:
    values, _ = standard()
    axis = volumes.AXES[view]
    plane = volumes.plane_of(values, view, 3)
    stored = np.take(values, 3, axis=axis)
    assert plane[0, 0] == stored[corner]
    assert volumes.LETTERS[view][:2] == (("A", "P") if view == "sagittal" else ("R", "L"))
    assert volumes.LETTERS[view][2:] == (("A", "P") if view == "axial" else ("H", "F"))


def test_an_oblique_grid_says_by_how_much() -> None:
    values, affine = standard()
    angle = np.deg2rad(7.0)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine[:3, :3] = turn @ affine[:3, :3]
    assert volumes.view_of(dataset(values, affine)).oblique_deg == pytest.approx(7.0)


def test_a_grid_whose_axes_follow_one_patient_axis_is_refused() -> None:
    values, affine = standard()
    affine[:3, :3] = [[0, 0, 3.0], [0.1, 0.2, 0], [5.0, 4.0, 0.1]]
    with pytest.raises(GeometryError, match="same patient axis"):
        volumes.view_of(dataset(values, affine))


def test_the_view_is_cropped_to_the_body_and_drops_no_region() -> None:
    state = build_state(1)
    whole = build_dose(state, (60, 40, 60), 11.5)
    view = volumes.view_of(whole)
    assert view.dose.size < whole["dose_mean_gy"].size
    assert set(np.unique(view.label)) == set(np.unique(whole["label"].values))


def test_an_isodose_line_lies_where_the_dose_has_its_value() -> None:
    rows, columns = np.mgrid[0:81, 0:61]
    spacing = (2.0, 3.0)
    y, x = (rows + 0.5) * spacing[0], (columns + 0.5) * spacing[1]
    distance = np.hypot(y - 80, x - 90)
    (line,) = volumes.contours(100 - distance, 60.0, spacing)
    radius = np.hypot(line[:, 1] - 80, line[:, 0] - 90)
    assert radius == pytest.approx(40.0, abs=0.15)


def test_a_line_at_the_edge_of_the_picture_is_closed() -> None:
    (line,) = volumes.contours(np.ones((6, 6)), 0.5, (1.0, 1.0))
    assert line[0] == pytest.approx(line[-1])


@pytest.mark.parametrize("top", [0.37, 2.0, 14.9, 118.0])
def test_isodose_levels_are_round_rise_and_stay_below_the_highest_dose(top: float) -> None:
    levels = volumes.isodose_levels(top, 0.05 * top)
    assert levels == sorted(set(levels))
    assert 0.05 * top <= levels[0] < levels[-1] <= top
    assert all(f"{level:e}"[0] in "125" for level in levels)
    assert 3 <= len(levels) <= 8


def test_no_dose_has_no_levels() -> None:
    assert volumes.isodose_levels(0.0, 0.0) == []


def test_levels_reach_down_to_an_organ_that_lesions_outshine() -> None:
    state = build_state(1)
    view = volumes.view_of(build_dose(state, (60, 28, 36), 11.5))
    levels = volumes.levels_for(view, state.summary)
    kidney = next(r["dose_gy"]["mean"] for r in state.summary["doses"] if r["region"] == "kidneys")
    assert sum(level < kidney for level in levels) >= 2


def luminance(colour: str) -> float:
    parts = np.array([int(colour[n : n + 2], 16) for n in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_higher_isodose_lines_are_lighter_so_that_colour_blind_readers_can_order_them() -> None:
    steps = np.diff([luminance(c) for c in volumes.level_colours(6)])
    assert (steps > 0.03).all()


def test_pictures_come_back_from_their_png_as_they_went_in() -> None:
    rgb = np.random.default_rng(3).integers(0, 256, (7, 5, 3)).astype(np.uint8)
    raw = base64.b64decode(pictures.png_uri(rgb).split(",")[1])
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(raw):
        size, kind = struct.unpack(">I4s", raw[at : at + 8])
        data = raw[at + 8 : at + 8 + size]
        assert struct.unpack(">I", raw[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + data)
        chunks[kind] = data
        at += 12 + size
    assert struct.unpack(">II", chunks[b"IHDR"][:8]) == (5, 7)
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(7, 16)
    np.testing.assert_array_equal(lines[:, 1:].reshape(7, 5, 3), rgb)


def test_the_ends_of_the_interval_are_shown_where_a_state_has_them_and_left_out_where_not() -> None:
    state = build_state()
    dose = build_dose(state)
    whole = dose_pictures(state.summary, dose)
    assert [len(row) for row in whole["quantiles"]] == [3, 3]
    view = volumes.view_of(dose)
    assert (view.bands["dose_q05"] <= view.bands["dose_q95"]).all()
    assert np.isfinite(view.bands["bed_q50"]).all()
    assert "5 % quantile of BED" in whole["quantiles"][1][0]
    older = dose.drop_vars([name for name in dose.data_vars if "_q" in str(name)])
    assert dose_pictures(state.summary, older)["quantiles"] == []


def test_the_uncertainty_map_shows_only_where_there_is_dose() -> None:
    values, affine = standard()
    view = volumes.view_of(dataset(values, affine))
    hidden = volumes.uncertainty_picture(view, "axial", 2, 1e9, 0.2)
    assert np.ptp(hidden, axis=-1).max() == pytest.approx(0.0), "grey only"
    shown = volumes.uncertainty_picture(view, "axial", 2, 0.0, 0.2)
    assert np.ptp(shown, axis=-1).max() > 0.2


def test_ticks_are_round_and_inside_the_axis() -> None:
    assert nice_ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert nice_ticks(-3, 101, 4) == pytest.approx([0, 50, 100])
    assert log_ticks(0.5, 300) == [1, 10, 100]
    assert tick_label(0.25) == "0.25"
    assert tick_label(12000) == "12\u202f000"


def test_a_band_lies_between_its_edges() -> None:
    frame = Frame((0, 10), (0, 100))
    points = frame.band([0, 10], [10, 20], [30, 40], "#000000").split('"')[1].split()
    ys = [float(p.split(",")[1]) for p in points]
    assert ys == pytest.approx([frame.y(30), frame.y(40), frame.y(20), frame.y(10)], abs=0.06)
    assert frame.y(40) < frame.y(20), "more is up"


def test_labels_beside_curves_never_overlap() -> None:
    ends = [(100.0, "a", "#000000"), (101.0, "b", "#000000"), (99.0, "c", "#000000"), (148.0, "d", "#000000")]
    drawn = "".join(figures._end_labels(ends, 10, (20.0, 150.0)))
    ys = sorted(float(y) for y in re.findall(r' y="([\d.]+)"', drawn))
    assert len(ys) == len(ends)
    assert min(np.diff(ys)) >= 12.9
    assert max(ys) <= 158


@pytest.mark.parametrize(
    ("value", "digits", "words"),
    [
        (3.0249, 3, "3.02"), (0.16149, 3, "0.161"), (1545.2, 3, "1\u202f550"), (0, 3, "0"), (None, 3, "–"),
        (float("nan"), 3, "–"), (-4.56, 2, "−4.6"), (1e-7, 2, "1.0e−07"), (99.96, 3, "100"),
    ],
)  # fmt: skip
def test_numbers_are_rounded_to_significant_digits(value: float | None, digits: int, words: str) -> None:
    assert style.number(value, digits) == words


def test_a_prescribed_activity_is_never_rounded_to_significant_digits() -> None:
    assert style.activity(6947.0) == "6\u202f947"


def test_both_kidneys_have_one_colour_and_names_in_words() -> None:
    assert style.colour_of("kidney_left") == style.colour_of("kidney_right") == style.colour_of("kidneys")
    assert style.name_of("kidney_left") == "Left kidney"
    assert style.name_of("lesion/L7") == "Lesion L7"
    assert style.name_of("egfr") == "eGFR"
