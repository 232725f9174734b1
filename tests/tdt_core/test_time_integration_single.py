"""Single-time-point methods: closed forms, published constants, windows; curves of kinetic models."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdt_core.assimilation import population_prior
from tdt_core.dosimetry.time_integration import TimeIntegrated, time_integrated_activity
from tdt_core.dosimetry.time_integration.from_model import model_curves
from tdt_core.dosimetry.time_integration.single_time import (
    exponential_factor,
    hanscheid_2017_dose,
    hanscheid_2018_factor,
    population_half_life,
)
from tdt_core.errors import InputError, ModelError
from tdt_core.imaging.regions import region_named, with_volume
from tdt_core.kinetics import rung_for
from tdt_core.nuclides import nuclide
from tdt_core.twin import Administration

PHYSICAL = nuclide("Lu-177").half_life_h
Floats = npt.NDArray[Any]


def image(seed: int = 1) -> Floats:
    return np.random.default_rng(seed).uniform(0.1, 2.0, (2, 3, 4))


def run(method: str, time_h: float, half_life_h: float, **options: Any) -> TimeIntegrated:
    """One scan of voxels that decline as one exponential from `image()` at time zero."""
    y = image() * 2.0 ** (-time_h / half_life_h)
    return time_integrated_activity(
        y[None], np.array([time_h]), "Lu-177", method=method, **{"half_life_h": half_life_h, **options}
    )


@pytest.mark.parametrize(
    ("x", "ratio"), [(1, 1), (2, 1), (1 / math.log(2), 1.0615), (0.75, 0.892), (2.5, 0.884), (0.5, 0.707), (3, 0.75)]
)
def test_the_form_of_2018_errs_as_known_for_one_exponential(x: float, ratio: float) -> None:
    assert hanscheid_2018_factor(50 * x) / exponential_factor(50 * x, 50) == pytest.approx(ratio, abs=6e-4)
    out = run("hanscheid_2018", 50 * x, 50, outside_window="report")
    assert out.tia_mbq_h == pytest.approx(image() * 50 / math.log(2) * ratio, rel=1e-3)
    assert bool(out.findings) == (not 0.75 <= x <= 2.5)


@pytest.mark.parametrize("method", ["hanscheid_2017", "madsen"])
@given(half_life_h=st.floats(30.0, 150.0))
def test_one_exponential_with_its_own_half_life_is_exact(method: str, half_life_h: float) -> None:
    out = run(method, 48.0, half_life_h)
    assert out.tia_mbq_h == pytest.approx(image() * half_life_h / math.log(2), rel=1e-5)


def test_the_dose_constant_of_2017_is_the_electron_dose_of_lutetium_plus_photons() -> None:
    electrons = nuclide("Lu-177").electron_energy_kev * 1.602176634e-16 * 1e6 * 3600 * 1e3  # Gy g/(MBq h)
    constant = hanscheid_2017_dose(1.0, 48.0, 48.0) / (2 * 48.0)
    assert electrons == pytest.approx(0.08532, rel=1e-4)
    assert 1.0 < constant / (electrons / math.log(2)) < 1.03
    tia = exponential_factor(72.0, 51.0)
    assert hanscheid_2017_dose(2.0, 72.0, 51.0) == pytest.approx(2.0 * tia * constant * math.log(2), rel=1e-12)


@pytest.mark.parametrize(
    ("method", "time_h", "half_life_h"),
    [
        ("hanscheid_2018", 24.0, 50.0),
        ("hanscheid_2018", 150.0, 50.0),
        ("hanscheid_2017", 20.0, 50.0),
        ("hanscheid_2017", 96.0, 50.0),
        ("madsen", 2.0, 50.0),
        ("madsen", 240.0, 50.0),
    ],
)
def test_a_scan_outside_the_window_is_refused_or_reported(method: str, time_h: float, half_life_h: float) -> None:
    options = {"half_life_log_sd": 0.35} if method == "madsen" else {}
    with pytest.raises(InputError) as caught:
        run(method, time_h, half_life_h, **options)
    assert caught.value.kind == "time_integration.window"
    assert run(method, time_h, half_life_h, outside_window="report", **options).findings


def test_the_window_of_the_late_dose_is_one_to_three_days() -> None:
    assert hanscheid_2017_dose(1.0, 72.0, 50.0) > 0
    for hours in (23.0, 73.0):
        with pytest.raises(InputError) as caught:
            hanscheid_2017_dose(1.0, hours, 50.0)
        assert caught.value.kind == "time_integration.window"


@pytest.mark.parametrize("method", ["hanscheid_2018", "hanscheid_2017", "madsen"])
def test_the_sd_is_what_patients_with_other_half_lives_show(method: str) -> None:
    lives = np.minimum(50.0 * np.exp(0.2 * np.random.default_rng(1).standard_normal(4000)), PHYSICAL)
    true = lives / math.log(2) * 2.0 ** (48.0 / lives)  # of one MBq at the scan
    out = time_integrated_activity(
        np.ones((1, 1, 1, 1)), np.array([48.0]), "Lu-177", method=method, half_life_h=50.0, half_life_log_sd=0.2
    )
    assert out.sd_mbq_h is not None
    assert float(out.sd_mbq_h[0, 0, 0]) == pytest.approx(np.sqrt(np.mean((true - out.tia_mbq_h[0, 0, 0]) ** 2)), rel=0.06)


def test_noise_of_the_scan_is_carried() -> None:
    out = time_integrated_activity(
        np.ones((1, 1, 1, 1)), np.array([48.0]), "Lu-177", method="madsen", half_life_h=50.0, half_life_log_sd=0.0, sd_mbq=0.1
    )
    assert out.sd_mbq_h == pytest.approx(0.1 * out.tia_mbq_h, rel=1e-5)


def test_what_comes_before_the_scan_may_be_assumed_otherwise() -> None:
    late = 2.0 ** (-48.0 / 50.0) * 50 / math.log(2)
    constant = run("madsen", 48.0, 50.0, before_first="constant").tia_mbq_h
    assert constant == pytest.approx(image() * (late + 48.0 * 2.0 ** (-48.0 / 50.0)), rel=1e-5)
    linear = run("madsen", 48.0, 50.0, before_first="linear").tia_mbq_h
    assert linear == pytest.approx(image() * (late + 24.0 * 2.0 ** (-48.0 / 50.0)), rel=1e-5)
    with pytest.raises(ModelError):
        run("hanscheid_2018", 48.0, 50.0, before_first="linear")


@pytest.mark.parametrize("half_life_h", [200.0, 0.0, -1.0, math.nan])
def test_an_effective_half_life_is_positive_and_not_above_the_physical_one(half_life_h: float) -> None:
    with pytest.raises(InputError) as caught:
        time_integrated_activity(image()[None], np.array([48.0]), "Lu-177", method="madsen", half_life_h=half_life_h)
    assert caught.value.kind == "time_integration.physical_decay"


def test_a_half_life_must_be_known_for_every_region_and_there_is_one_scan() -> None:
    with pytest.raises(InputError) as caught:
        time_integrated_activity(image()[None], np.array([48.0]), "Lu-177", method="madsen", half_life_h={2: 50.0})
    assert caught.value.kind == "time_integration.half_life"
    with pytest.raises(InputError) as many:
        time_integrated_activity(np.stack([image()] * 2), np.array([24.0, 48.0]), "Lu-177", method="madsen", half_life_h=50.0)
    assert many.value.kind == "time_integration.scans"


def test_half_lives_of_a_population_include_physical_decay() -> None:
    kidneys, spread = population_half_life("PSMA-617", "kidneys", "Lu-177")
    assert kidneys == pytest.approx(1 / (1 / 70 + 1 / PHYSICAL), rel=1e-9)
    assert spread == pytest.approx(0.35 * kidneys / 70, rel=1e-9)
    with pytest.raises(ModelError):
        population_half_life("nothing", "kidneys", "Lu-177")


def model(time_h: float, n: int = 200, scale: float = 1.0) -> tuple[Any, Any, Floats, Any]:
    """Curves of a population of kidneys and livers, and the model itself."""
    regions = tuple(with_volume(region_named(name), 150.0, 150.0, 0.05) for name in ("kidney_left", "liver"))
    rung = rung_for("sum_of_exponentials", "PSMA-617", regions)
    prior = population_prior(rung)
    rng = np.random.default_rng(2)
    theta = prior.mean + scale * rng.standard_normal((n, len(prior.mean))) @ np.linalg.cholesky(prior.covariance).T
    given = Administration(0.0, "p", "PSMA-617", "Lu-177", 7400.0)
    times = np.atleast_1d(time_h).astype(float)
    return rung, given, theta, model_curves(rung, theta, given, times, {1: "kidney_left", 2: "liver"})


def test_curves_of_a_kinetic_model_keep_its_total_and_its_parts() -> None:
    times = np.array([4.0, 24.0, 72.0])
    rung, given, theta, curves = model(times, n=5)
    fine = np.concatenate([np.geomspace(1e-4, 4.0, 4001), np.linspace(4.0, 72.0, 8001)[1:]])
    at = rung.activity(theta, given, fine)
    for label, i in ((1, 0), (2, 1)):
        curve = curves[label]
        assert curve.integral == pytest.approx(rung.time_integrated_activity(theta, given)[:, i], rel=1e-9)
        early = np.trapezoid(at[:, i, :4001], fine[:4001], axis=1)
        assert curve.before_first == pytest.approx(early, rel=2e-4)
        assert curve.between == pytest.approx(np.trapezoid(at[:, i, 4000:], fine[4000:], axis=1), rel=2e-4)


@pytest.mark.parametrize("method", ["population_shape", "twin_shape"])
def test_a_curve_turns_one_scan_into_its_own_integral(method: str) -> None:
    rung, given, theta, curves = model(72.0, n=1, scale=0.0)
    share = image() / image().sum()
    labels = np.ones(share.shape, int)
    y = share * curves[1].at_scans[0, 0]
    out = time_integrated_activity(y[None], np.array([72.0]), "Lu-177", method=method, labels=labels, curves=curves)
    total = float(rung.time_integrated_activity(theta, given)[0, 0])
    assert out.tia_mbq_h == pytest.approx(share * total, rel=1e-5)


def test_a_shape_is_refused_where_its_draws_leave_the_factor_open_and_late_scans_leave_less() -> None:
    y, labels = image()[None], np.ones(image().shape, int)
    with pytest.raises(InputError) as caught:
        time_integrated_activity(y, np.array([2.0]), "Lu-177", method="population_shape", labels=labels, curves=model(2.0)[3])
    assert caught.value.kind == "time_integration.window"
    rel = []
    for hours in (2.0, 24.0, 72.0):
        out = time_integrated_activity(
            y,
            np.array([hours]),
            "Lu-177",
            method="population_shape",
            labels=labels,
            curves=model(hours)[3],
            outside_window="report",
        )
        rel.append(out.regions[1]["factor_rel_sd"])
    assert rel[0] > rel[1] > rel[2] > 0


def test_every_region_needs_a_curve() -> None:
    with pytest.raises(InputError) as caught:
        time_integrated_activity(image()[None], np.array([72.0]), "Lu-177", method="twin_shape")
    assert caught.value.kind == "time_integration.curve"
    rung, given, theta, _ = model(72.0, n=2)
    with pytest.raises(ModelError):
        model_curves(rung, theta, given, np.array([72.0]), {1: "spleen"})


def test_one_draw_that_has_all_but_gone_does_not_rule_the_factor() -> None:
    y, labels, times = image()[None], np.ones(image().shape, int), np.array([72.0])
    curves = model(72.0)[3]
    told = []
    for gone in (1.0, 1e-12):
        curve = curves[1]
        at = curve.at_scans.copy()
        at[0] *= gone
        out = time_integrated_activity(
            y, times, "Lu-177", method="population_shape", labels=labels,
            curves={1: dataclasses.replace(curve, at_scans=at)}, outside_window="report",
        )  # fmt: skip
        told.append(float(out.tia_mbq_h.sum()))
    assert told[1] < 2.0 * told[0]
