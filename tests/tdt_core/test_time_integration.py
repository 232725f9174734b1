"""Time integration per voxel: laws of every method, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdt_core.dosimetry.time_integration import (
    IntegrationSetting,
    RegionalCurve,
    build_integrator,
    integrators,
    register_integrator,
    time_integrated_activity,
)
from tdt_core.dosimetry.time_integration.curves import measured_curve
from tdt_core.errors import GeometryError, InputError, ModelError, TimeError, TwinError
from tdt_core.nuclides import nuclide

TIMES = np.array([4.0, 24.0, 72.0, 168.0])
LAM = math.log(2) / nuclide("Lu-177").half_life_h
SERIES = ("trapezoid", "regional_shape")  # methods for two scans and more that need nothing but images


def mono(k: float = 0.0139, times: npt.NDArray[Any] = TIMES, seed: int = 1) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Amplitudes (4, 5, 6) at time zero, and images (scans, 4, 5, 6) that decline at one rate."""
    a = np.random.default_rng(seed).uniform(0.1, 2.0, (4, 5, 6))
    return a, a * np.exp(-k * times)[:, None, None, None]


def rough(seed: int = 2) -> npt.NDArray[Any]:
    """Images (scans, 4, 5, 6) of no particular shape in time."""
    _, y = mono(seed=seed)
    return y * np.random.default_rng(seed).uniform(0.5, 1.5, y.shape)


def labelled() -> npt.NDArray[np.int16]:
    labels = np.zeros((4, 5, 6), np.int16)
    labels[1:3, 1:4, 1:5] = 1
    labels[3] = 2
    return labels


@pytest.mark.parametrize("method", SERIES)
@pytest.mark.parametrize("half_life_h", [10.0, 49.9, 159.0])
def test_one_exponential_is_integrated_exactly(method: str, half_life_h: float) -> None:
    k = math.log(2) / half_life_h
    a, y = mono(k)
    tia = time_integrated_activity(y, TIMES, "Lu-177", method=method, before_first="exponential").tia_mbq_h
    assert tia == pytest.approx(a / k, rel=2e-6)


@pytest.mark.parametrize("method", SERIES)
def test_all_of_one_exponential_after_the_first_scan_is_exact_and_the_rest_is_what_was_assumed(method: str) -> None:
    k = 0.0139
    a, y = mono(k)
    late = a * math.exp(-k * TIMES[0]) / k
    constant = time_integrated_activity(y, TIMES, "Lu-177", method=method, before_first="constant").tia_mbq_h
    linear = time_integrated_activity(y, TIMES, "Lu-177", method=method, before_first="linear").tia_mbq_h
    assert constant == pytest.approx(late + TIMES[0] * y[0], rel=2e-6)
    assert linear == pytest.approx(late + 0.5 * TIMES[0] * y[0], rel=2e-6)


@pytest.mark.parametrize("method", SERIES)
@given(factor=st.floats(1e-3, 1e3))
@settings(max_examples=10, deadline=None)
def test_activity_scales_through(method: str, factor: float) -> None:
    y = rough()
    one = time_integrated_activity(y, TIMES, "Lu-177", method=method, labels=labelled()).tia_mbq_h
    many = time_integrated_activity(factor * y, TIMES, "Lu-177", method=method, labels=labelled()).tia_mbq_h
    assert many == pytest.approx(factor * one, rel=1e-5)


def test_plain_trapezoids_add_up_over_images() -> None:
    one, two, both = (
        time_integrated_activity(y, TIMES, "Lu-177", method="trapezoid", between="linear", tail="physical").tia_mbq_h
        for y in (rough(2), rough(3), rough(2) + rough(3))
    )
    assert both == pytest.approx(one + two, rel=1e-5)


@pytest.mark.parametrize("method", SERIES)
@given(scale=st.floats(0.01, 100.0))
@settings(max_examples=10, deadline=None)
def test_time_in_another_unit_gives_the_integral_in_that_unit(method: str, scale: float) -> None:
    y = np.float32(rough())
    hours = build_integrator(method, IntegrationSetting(TIMES, LAM, labelled())).integrate(y).tia_mbq_h
    other = build_integrator(method, IntegrationSetting(TIMES * scale, LAM / scale, labelled())).integrate(y).tia_mbq_h
    assert other == pytest.approx(scale * hours, rel=1e-5)


@pytest.mark.parametrize("method", SERIES)
def test_voxels_may_come_in_any_order(method: str) -> None:
    y, labels = np.float32(rough()), labelled()
    order = np.random.default_rng(5).permutation(labels.size)
    shuffled = y.reshape(4, -1)[:, order].reshape(y.shape)
    one = time_integrated_activity(y, TIMES, "Lu-177", method=method, labels=labels).tia_mbq_h
    two = time_integrated_activity(
        shuffled, TIMES, "Lu-177", method=method, labels=labels.ravel()[order].reshape(labels.shape)
    ).tia_mbq_h
    assert two.ravel() == pytest.approx(one.ravel()[order], rel=1e-5)


@pytest.mark.parametrize("method", SERIES)
def test_the_tail_never_holds_more_than_physical_decay_leaves(method: str) -> None:
    a, _ = mono()
    y = a * np.exp(-0.3 * LAM * TIMES)[:, None, None, None]  # slower than decay: not possible, but noise makes it
    tia = time_integrated_activity(y, TIMES, "Lu-177", method=method, before_first="constant").tia_mbq_h
    between = measured_curve(np.exp(-0.3 * LAM * TIMES), TIMES, LAM, 1, 2)
    most = a * (TIMES[0] * math.exp(-0.3 * LAM * TIMES[0]) + between.between[0] + math.exp(-0.3 * LAM * TIMES[-1]) / LAM)
    assert (tia <= most * (1 + 1e-5)).all()
    assert tia == pytest.approx(most, rel=1e-5)


def test_a_tail_after_a_rise_is_physical_decay_and_says_so() -> None:
    a, _ = mono()
    y = a * np.array([0.2, 0.5, 0.8, 1.0])[:, None, None, None]
    out = time_integrated_activity(y, TIMES, "Lu-177", method="trapezoid", before_first="linear")
    between = 0.5 * np.diff(TIMES) @ np.array([0.7, 1.3, 1.8])
    assert out.tia_mbq_h == pytest.approx(a * (0.2 * 2.0 + between + 1.0 / LAM), rel=1e-5)
    assert any("physical decay" in f for f in out.findings)


def draws(n: int = 50, k: float = 0.0139) -> RegionalCurve:
    """Draws of an uptake-and-clearance curve, about 100 MBq."""
    rng = np.random.default_rng(7)
    a, k2 = 100 * np.exp(0.1 * rng.standard_normal(n)), k * np.exp(0.1 * rng.standard_normal(n))
    up = 0.5

    def between(t0: float, t1: float) -> npt.NDArray[Any]:
        return a * ((np.exp(-k2 * t0) - np.exp(-k2 * t1)) / k2 - (np.exp(-up * t0) - np.exp(-up * t1)) / up)

    at = a[:, None] * (np.exp(-k2[:, None] * TIMES) - np.exp(-up * TIMES))
    return RegionalCurve(at, between(0.0, TIMES[0]), between(TIMES[0], TIMES[-1]), between(TIMES[-1], np.inf))


def test_voxels_of_a_region_sum_to_the_regional_curve() -> None:
    curve, labels = draws(), labelled()
    out = time_integrated_activity(rough(), TIMES, "Lu-177", labels=labels, curves={1: curve})
    assert out.tia_mbq_h[labels == 1].sum() == pytest.approx(curve.integral.mean(), rel=1e-5)
    own = measured_curve(rough()[:, labels == 2].sum(axis=1), TIMES, LAM, 1, 2)
    assert out.tia_mbq_h[labels == 2].sum() == pytest.approx(own.integral[0], rel=1e-5)


def test_the_regional_curve_carries_its_draws_into_every_voxel() -> None:
    curve, labels = draws(), labelled()
    out = time_integrated_activity(rough(), TIMES, "Lu-177", labels=labels, curves={1: curve})
    assert out.sd_mbq_h is not None
    rel = out.sd_mbq_h[labels == 1] / out.tia_mbq_h[labels == 1]
    assert rel == pytest.approx(curve.integral.std(ddof=1) / curve.integral.mean(), rel=1e-4)


def test_amplitude_noise_is_what_redrawn_images_show() -> None:
    rng = np.random.default_rng(3)
    _, y = mono()
    sd = 0.05 * np.sqrt(y)
    curve = measured_curve(y.sum(axis=(1, 2, 3)), TIMES, LAM, 1, 2)
    runs = [
        time_integrated_activity(np.maximum(y + sd * rng.standard_normal(y.shape), 0), TIMES, "Lu-177", curves={1: curve})
        for _ in range(400)
    ]
    told = time_integrated_activity(y, TIMES, "Lu-177", curves={1: curve}, sd_mbq=sd).sd_mbq_h
    assert told is not None
    found = np.std([r.tia_mbq_h for r in runs], axis=0)
    assert float(np.mean(found / told)) == pytest.approx(1.0, abs=0.03)


def test_a_curve_from_its_integral_keeps_it() -> None:
    curve = draws()
    again = RegionalCurve.from_integral(curve.at_scans, curve.integral, TIMES, LAM)
    assert again.integral == pytest.approx(curve.integral, rel=1e-12)
    small = RegionalCurve.from_integral(curve.at_scans, 0.1 * curve.integral, TIMES, LAM)
    assert small.integral == pytest.approx(0.1 * curve.integral, rel=1e-12)


def test_the_remainder_is_a_region_unless_it_is_left_out() -> None:
    labels = labelled()
    whole = time_integrated_activity(rough(), TIMES, "Lu-177", labels=labels).tia_mbq_h
    inner = time_integrated_activity(rough(), TIMES, "Lu-177", labels=labels, outside="zero").tia_mbq_h
    assert (whole[labels == 0] > 0).all()
    assert (inner[labels == 0] == 0).all()
    assert inner[labels > 0] == pytest.approx(whole[labels > 0], rel=1e-6)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"times_h": np.array([])}, "time_integration.no_scan"),
        ({"times_h": np.array([4.0, 72.0, 24.0, 168.0])}, "time_integration.times"),
        ({"times_h": np.array([4.0, 24.0, 24.0, 168.0])}, "time_integration.times"),
        ({"times_h": np.array([4.0, 24.0, np.nan, 168.0])}, "time_integration.times"),
        ({"times_h": np.array([-1.0, 24.0, 72.0, 168.0])}, "time_integration.before_injection"),
        ({"times_h": np.array([0.0, 24.0, 72.0, 168.0])}, "time_integration.before_injection"),
        ({"frame_h": np.array([0.5, 0.5, 0.0, 0.5])}, "time_integration.frame"),
        ({"frame_h": np.array([0.5, 60.0, 60.0, 60.0])}, "time_integration.frame"),
        ({"frame_h": np.array([9.0, 0.5, 0.5, 0.5])}, "time_integration.frame"),
        ({"times_h": TIMES[:3]}, "time_integration.grid"),
        ({"labels": np.ones((4, 5, 7), int)}, "geometry.grid"),
        ({"labels": np.full((4, 5, 6), -1)}, "input.mask"),
        ({"sd_mbq": np.zeros((4, 1, 1, 1))}, "time_integration.noise"),
        ({"sd_mbq": np.ones((3, 4, 5, 6))}, "time_integration.grid"),
        ({"method": "unheard"}, "model.name"),
        ({"between": "cubic"}, "model.option"),
        ({"before_first": "curve"}, "time_integration.curve"),
        ({"before_first": "later"}, "model.name"),
        ({"nuclide": "Xx-1"}, None),
    ],
)
def test_what_cannot_be_meant_is_refused(change: dict[str, Any], kind: str | None) -> None:
    call = {"scans_mbq": rough(), "times_h": TIMES, "nuclide": "Lu-177", "method": "trapezoid", **change}
    with pytest.raises(TwinError) as caught:
        time_integrated_activity(**call)
    assert kind is None or caught.value.kind == kind
    assert caught.value.expected


@pytest.mark.parametrize(
    ("value", "kind"), [(np.nan, "imaging.nonfinite"), (np.inf, "imaging.nonfinite"), (-0.1, "imaging.negative")]
)
def test_negative_and_non_finite_activity_is_refused(value: float, kind: str) -> None:
    y = rough()
    y[2, 1, 1, 1] = value
    with pytest.raises(InputError) as caught:
        time_integrated_activity(y, TIMES, "Lu-177")
    assert caught.value.kind == kind


def test_a_curve_that_outlives_physical_decay_is_refused_unless_it_rises() -> None:
    slow = np.exp(-0.5 * LAM * TIMES)
    tail = slow[-1] / (0.5 * LAM)
    with pytest.raises(InputError, match="physical decay"):
        time_integrated_activity(
            rough(), TIMES, "Lu-177", curves={1: RegionalCurve(slow[None], np.ones(1), np.ones(1), np.full(1, tail))}
        )
    rising = RegionalCurve(slow[None, ::-1], np.ones(1), np.ones(1), np.full(1, 1.1 * slow[0] / LAM))
    assert time_integrated_activity(rough(), TIMES, "Lu-177", curves={1: rising}).tia_mbq_h.sum() > 0


def test_a_method_is_registered_once_and_has_a_name() -> None:
    assert set(SERIES) <= set(integrators())
    with pytest.raises(ModelError, match="twice"):
        register_integrator("trapezoid", lambda setting: None)  # type: ignore[arg-type,return-value]


def test_times_and_grids_raise_errors_of_their_own_class() -> None:
    with pytest.raises(TimeError):
        time_integrated_activity(rough(), TIMES[::-1], "Lu-177")
    with pytest.raises(GeometryError):
        time_integrated_activity(rough()[:, 0], TIMES, "Lu-177")
