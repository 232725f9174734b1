"""Noise, registration and calibration in draws; dose rates integrated against dose of the integral."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from tdt_core.dosimetry import absorbed_dose
from tdt_core.dosimetry.dose_rate import absorbed_dose_by_rates
from tdt_core.dosimetry.time_integration import IntegrationSetting, RegionalCurve, time_integrated_activity
from tdt_core.dosimetry.time_integration.redraw import integrated_draws, noise_sd, posterior_draws, with_drawn_sd
from tdt_core.errors import InputError, ModelError
from tdt_core.nuclides import nuclide

TIMES = np.array([4.0, 24.0, 72.0])
LAM = math.log(2) / nuclide("Lu-177").half_life_h
SPACING = (4.0, 4.0, 4.0)
Floats = npt.NDArray[Any]


def series(n: int = 12, rough: bool = False) -> Floats:
    """Images (3, n, n, n) of a warm block that declines, smooth at its edge unless rough."""
    a = np.zeros((n, n, n))
    a[3:-3, 3:-3, 3:-3] = 1.0
    a = a if rough else ndimage.gaussian_filter(a, 1.0) + 0.05
    return np.float32(a * np.exp(-0.015 * TIMES)[:, None, None, None])


def setting(y: Floats, **change: Any) -> IntegrationSetting:
    return IntegrationSetting(TIMES, LAM, np.ones(y.shape[1:], int), **change)


def draws(y: Floats, s: IntegrationSetting, method: str = "trapezoid", n: int = 60, **more: Any) -> Floats:
    return np.array(list(integrated_draws(y, s, method, n, 3, spacing_mm=SPACING, **more)))


def test_a_draw_depends_on_its_seed_and_number_only() -> None:
    y = series()
    s = setting(y, sd_mbq=np.full(y.shape, 0.01, np.float32))
    few, many = draws(y, s, n=2, shift_sd_mm=2.0), draws(y, s, n=4, shift_sd_mm=2.0)
    assert np.array_equal(few, many[:2])
    assert not np.array_equal(many[2], many[3])


def test_calibration_moves_all_voxels_together() -> None:
    out = draws(series(), setting(series()), n=400, calibration_rel_sd=0.05)
    ratio = out / out[0]
    assert np.ptp(ratio, axis=(1, 2, 3)).max() < 1e-5
    assert np.log(out[:, 6, 6, 6]).std(ddof=1) == pytest.approx(0.05, rel=0.1)


def test_noise_is_carried_as_the_regional_shape_says_in_closed_form() -> None:
    y = series()
    sd = np.float32(0.05 * np.sqrt(y * y.mean(axis=(1, 2, 3), keepdims=True)))
    total = y.sum(axis=(1, 2, 3))[None].astype(float)
    curve = RegionalCurve(total, np.full(1, 1e3), np.full(1, 1e4), np.full(1, 5e3))
    s = setting(y, sd_mbq=sd, curves={1: curve})
    told = time_integrated_activity(y, TIMES, "Lu-177", curves={1: curve}, sd_mbq=sd)
    found = with_drawn_sd(told, iter(draws(y, s, "regional_shape", n=300)))
    assert told.sd_mbq_h is not None
    assert found.sd_mbq_h is not None
    assert float(np.mean(found.sd_mbq_h / told.sd_mbq_h)) == pytest.approx(1.0, abs=0.02)


def test_correlated_noise_leaves_voxels_alone_and_widens_their_sum() -> None:
    y = series()
    s = setting(y, sd_mbq=np.full(y.shape, 0.02, np.float32))
    white, smooth = draws(y, s, n=200), draws(y, s, n=200, correlation_fwhm_mm=10.0)
    assert smooth.std(axis=0).mean() == pytest.approx(white.std(axis=0).mean(), rel=0.1)
    assert smooth.sum(axis=(1, 2, 3)).std() < 0.5 * white.std(axis=0).sum()
    middle = (slice(None), slice(4, 8), slice(4, 8), slice(4, 8))
    assert smooth[middle].sum(axis=(1, 2, 3)).std() > 3 * white[middle].sum(axis=(1, 2, 3)).std()


def test_registration_blurs_the_edge_and_not_the_middle() -> None:
    y = series(n=20)
    out = draws(y, setting(y), n=30, shift_sd_mm=2.0).std(axis=0)
    assert out[10, 10, 2:4].max() > 20 * out[10, 10, 10]


def test_draws_of_the_curve_are_taken_through() -> None:
    y, rng = series(), np.random.default_rng(1)
    level = np.exp(0.1 * rng.standard_normal(200))[:, None]
    total = y.sum(axis=(1, 2, 3))[None] * level
    curve = RegionalCurve(total, 1e3 * level[:, 0], 1e4 * level[:, 0], 5e3 * level[:, 0])
    out = draws(y, setting(y, curves={1: curve}), "regional_shape", n=300)
    assert np.log(out.sum(axis=(1, 2, 3))).std() == pytest.approx(np.log(level).std(), rel=0.15)


def test_posterior_draws_have_the_mean_and_sd_of_the_result() -> None:
    y = series()
    result = time_integrated_activity(y, TIMES, "Lu-177", method="hierarchical", sd_mbq=np.float32(0.05 * y + 1e-3))
    drawn = np.array(list(posterior_draws(result, 400, 2, spacing_mm=SPACING, correlation_fwhm_mm=8.0)))
    assert result.sd_mbq_h is not None
    assert float(np.mean(drawn.mean(axis=0) / result.tia_mbq_h)) == pytest.approx(1.0, abs=0.01)
    assert float(np.mean(drawn.std(axis=0) / result.sd_mbq_h)) == pytest.approx(1.0, abs=0.08)
    plain = time_integrated_activity(y, TIMES, "Lu-177", method="trapezoid")
    with pytest.raises(ModelError):
        next(posterior_draws(plain, 2, 1, spacing_mm=SPACING))
    with pytest.raises(ModelError):
        with_drawn_sd(plain, iter([plain.tia_mbq_h]))


def test_noise_follows_the_counts() -> None:
    y = series()
    one, four = noise_sd(y, SPACING, [100.0] * 3, 10.0), noise_sd(y, SPACING, [400.0] * 3, 10.0)
    assert one == pytest.approx(2 * four, rel=1e-5)
    flat = np.full((1, 6, 6, 6), 0.02, np.float32)
    told = noise_sd(flat, SPACING, [1e4], 10.0)[0, 3, 3, 3] / 0.02
    counts_per_ml = 0.02 * 1e4 / 0.064
    assert told == pytest.approx(math.sqrt(60.0 / counts_per_ml), rel=1e-5)  # q = 60 of imaging_parameters.csv
    with pytest.raises(InputError):
        noise_sd(y, SPACING, [0.0] * 3, 10.0)


@pytest.mark.parametrize("engine", ["local", "kernel"])
def test_dose_of_the_integral_is_the_integral_of_the_dose_rate_for_linear_methods(engine: str) -> None:
    y = series() * np.random.default_rng(1).uniform(0.5, 1.5, series().shape).astype(np.float32)
    how = {"method": "trapezoid", "between": "linear", "tail": "physical", "before_first": "linear"}
    tia = time_integrated_activity(y, TIMES, "Lu-177", **how).tia_mbq_h
    dose = absorbed_dose(tia, SPACING, "Lu-177", engine=engine)
    by_rates = absorbed_dose_by_rates(y, TIMES, SPACING, "Lu-177", engine=engine, **how)
    assert by_rates.dose_gy == pytest.approx(dose, rel=2e-5)
    assert by_rates.rates_gy_h.shape == y.shape


def test_for_a_common_decline_both_ways_agree_with_fitted_tails_too() -> None:
    y = series(rough=True)
    tia = time_integrated_activity(y, TIMES, "Lu-177", method="trapezoid").tia_mbq_h
    dose = absorbed_dose(tia, SPACING, "Lu-177", engine="kernel")
    assert absorbed_dose_by_rates(y, TIMES, SPACING, "Lu-177").dose_gy == pytest.approx(dose, rel=1e-4)
