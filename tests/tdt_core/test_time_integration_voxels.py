"""Voxel-wise fits: their limits, and what shrinkage gains on regions whose voxels are known."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tdt_core.dosimetry.time_integration import RegionalCurve, TimeIntegrated, time_integrated_activity
from tdt_core.errors import InputError, ModelError
from tdt_core.nuclides import nuclide

TIMES = np.array([4.0, 24.0, 72.0, 168.0])
LAM = math.log(2) / nuclide("Lu-177").half_life_h
RATE = math.log(2) / 50.0
Floats = npt.NDArray[Any]


def region(n: int = 2000, rate_sd: float = 0.2, noise: float = 0.15, seed: int = 1) -> tuple[Floats, Floats, Floats]:
    """Images (4, 1, 1, n) with noise, its SD, and the true integral with constant activity before the first scan."""
    rng = np.random.default_rng(seed)
    a = np.exp(0.3 * rng.standard_normal(n))
    k = np.maximum(RATE * np.exp(rate_sd * rng.standard_normal(n)), LAM)
    y = a * np.exp(-k * TIMES[:, None])
    sd = noise * np.sqrt(y * y.mean(axis=1, keepdims=True)) + 0.01
    seen = np.maximum(y + sd * rng.standard_normal(y.shape), 0.0)
    true = y[0] * (TIMES[0] + 1.0 / k)
    return seen.reshape(4, 1, 1, n), sd.reshape(4, 1, 1, n), true


def run(seen: Floats, sd: Floats | None, method: str = "hierarchical", **options: Any) -> TimeIntegrated:
    return time_integrated_activity(seen, TIMES, "Lu-177", method=method, sd_mbq=sd, **options)


def test_a_plain_fit_of_one_exponential_is_exact_for_every_rate_between_its_bounds() -> None:
    a = np.linspace(0.1, 3.0, 60)
    k = np.geomspace(1.01 * LAM, 10 * RATE, 60)
    y = (a * np.exp(-k * TIMES[:, None])).reshape(4, 3, 4, 5)
    out = run(y, np.maximum(1e-3 * y, 1e-9), "voxel_fit", before_first="exponential")
    assert out.tia_mbq_h.ravel() == pytest.approx(a / k, rel=1e-4)


def test_without_noise_shrinkage_leaves_the_plain_fit() -> None:
    seen, sd, _ = region()
    for shape in ("curve", "exponential"):
        plain, shrunk = run(seen, 1e-4 * sd, "voxel_fit", shape=shape), run(seen, 1e-4 * sd, shape=shape)
        assert shrunk.tia_mbq_h == pytest.approx(plain.tia_mbq_h, rel=2e-3)
    loose = run(seen, sd).tia_mbq_h
    assert np.abs(loose / plain.tia_mbq_h - 1).max() > 0.1  # the images are the same; the noise stated is not


def test_voxels_may_be_held_to_the_total_of_their_region_which_rests_on_all_counts() -> None:
    seen, sd, true = region(noise=1.5)  # so few counts that noise is cut at zero in a quarter of the voxels
    known = region(noise=0.0)[0].sum(axis=(1, 2, 3), keepdims=True)  # the activity of the region, as a calibrated scan has it
    scale = known / seen.sum(axis=(1, 2, 3), keepdims=True)
    free, held = (run(seen * scale, sd * scale, total=t) for t in ("voxels", "region"))
    assert float(held.tia_mbq_h.sum()) == pytest.approx(
        float(run(seen * scale, sd, "regional_shape").tia_mbq_h.sum()), rel=1e-5
    )
    assert float(free.tia_mbq_h.sum()) < 0.9 * true.sum()
    assert float(held.tia_mbq_h.sum()) == pytest.approx(true.sum(), rel=0.01)
    assert held.sd_mbq_h is not None
    assert free.sd_mbq_h is not None
    assert held.sd_mbq_h / held.tia_mbq_h == pytest.approx(free.sd_mbq_h / free.tia_mbq_h, rel=1e-5)
    with pytest.raises(ModelError, match="organ"):
        run(seen, sd, total="organ")


def test_without_spread_of_rates_and_with_free_amplitudes_it_is_the_regional_shape() -> None:
    rng = np.random.default_rng(4)
    a = rng.uniform(0.5, 2.0, 500)
    y = (a * np.array([1.0, 0.9, 0.4, 0.1])[:, None] * (1 + 0.01 * rng.standard_normal((4, 500)))).reshape(4, 5, 10, 10)
    sd = 0.01 * y.mean(axis=(1, 2, 3), keepdims=True)
    curve = RegionalCurve(y.sum(axis=(1, 2, 3))[None], np.full(1, 1e3), np.full(1, 4e4), np.full(1, 3e3))
    shape = run(y, sd, "regional_shape", curves={1: curve}).tia_mbq_h
    assert run(y, sd, curves={1: curve}, between=(None, 0.0)).tia_mbq_h == pytest.approx(shape, rel=1e-3)


@pytest.mark.parametrize(("rate_sd", "noise"), [(0.0, 0.15), (0.1, 0.15), (0.2, 0.1), (0.2, 0.3), (0.4, 0.15)])
def test_shrinkage_errs_less_than_the_plain_fit_and_than_the_regional_shape_and_says_by_how_much(
    rate_sd: float, noise: float
) -> None:
    seen, sd, true = region(rate_sd=rate_sd, noise=noise)
    rmse = {
        m: float(np.sqrt(np.mean((run(seen, sd, m).tia_mbq_h.ravel() - true) ** 2)))
        for m in ("hierarchical", "voxel_fit", "regional_shape", "trapezoid")
    }
    assert rmse["hierarchical"] < 0.99 * min(rmse[m] for m in rmse if m != "hierarchical")
    low, high = run(seen, sd).interval(0.9)
    covered = float(np.mean((low.ravel() <= true) & (true <= high.ravel())))
    assert 0.85 <= covered <= 0.95


def test_the_spread_between_voxels_is_found() -> None:
    for rate_sd in (0.1, 0.2, 0.4):
        seen, sd, _ = region(rate_sd=rate_sd, noise=0.1, seed=3)
        found = run(seen, sd, shape="exponential").regions[1]
        assert found["rate_log_sd"] == pytest.approx(rate_sd, rel=0.15)
        assert found["half_life_h"] == pytest.approx(50.0, rel=0.05)


@pytest.mark.parametrize("method", ["hierarchical", "voxel_fit"])
def test_activity_scales_through_and_voxels_may_come_in_any_order(method: str) -> None:
    seen, sd, _ = region(n=300)
    one = run(seen, sd, method)
    assert run(50 * seen, 50 * sd, method).tia_mbq_h == pytest.approx(50 * one.tia_mbq_h, rel=2e-3)
    order = np.random.default_rng(2).permutation(300)
    two = run(seen[..., order], sd[..., order], method)
    assert two.tia_mbq_h == pytest.approx(one.tia_mbq_h[..., order], rel=1e-4)


def test_no_voxel_outlives_physical_decay() -> None:
    seen, sd, _ = region(noise=0.5)
    plain = run(seen, sd, "voxel_fit", before_first="constant")
    a = (seen / sd**2 * np.exp(-LAM * TIMES)[:, None, None, None]).sum(axis=0)
    a /= (np.exp(-LAM * TIMES)[:, None, None, None] ** 2 / sd**2).sum(axis=0)
    slowest = a * math.exp(-LAM * TIMES[0]) * (TIMES[0] + 1 / LAM)  # the fit with physical decay alone
    held = np.isclose(plain.tia_mbq_h, slowest, rtol=1e-3)
    assert held.sum() > 10
    assert (plain.tia_mbq_h[held] <= slowest[held] * 1.001).all()


def test_the_number_of_threads_changes_nothing() -> None:
    seen, sd, _ = region(n=70_000)
    one, three = run(seen, sd, workers=1), run(seen, sd, workers=3)
    assert np.array_equal(one.tia_mbq_h, three.tia_mbq_h)
    assert np.array_equal(one.sd_mbq_h, three.sd_mbq_h)


def test_voxels_and_regions_without_activity_stay_empty_or_near_it() -> None:
    seen, sd, _ = region(n=400)
    seen[..., :20] = 0.0
    labels = np.ones((1, 1, 400), int)
    labels[..., :10] = 2
    assert (run(seen, sd, "voxel_fit", labels=labels).tia_mbq_h[..., :20] == 0).all()
    out = run(seen, sd, labels=labels)
    assert (out.tia_mbq_h[..., :10] == 0).all()
    assert np.isfinite(out.tia_mbq_h).all()
    assert out.tia_mbq_h[..., 10:20].max() < 0.5 * out.tia_mbq_h[..., 20:].mean()


def test_small_regions_are_named() -> None:
    seen, sd, _ = region(n=12)
    assert any("12 voxels" in f for f in run(seen, sd).findings)


def test_noise_must_be_known_and_options_must_mean_something() -> None:
    seen, sd, _ = region(n=50)
    with pytest.raises(InputError) as caught:
        run(seen, None)
    assert caught.value.kind == "time_integration.noise"
    with pytest.raises(InputError) as few:
        time_integrated_activity(seen[:1], TIMES[:1], "Lu-177", method="hierarchical", sd_mbq=sd[:1])
    assert few.value.kind == "time_integration.scans"
    with pytest.raises(ModelError):
        run(seen, sd, between=(0.3, -1.0))


@pytest.mark.long
def test_a_patient_of_128_cubed_takes_less_than_four_seconds_on_two_cores() -> None:
    rng = np.random.default_rng(1)
    y = np.exp(0.3 * rng.standard_normal((128, 128, 128), dtype=np.float32))
    k = np.maximum(RATE * np.exp(0.2 * rng.standard_normal(y.shape, dtype=np.float32)), LAM)
    scans = y * np.exp(-k * TIMES[:, None, None, None]).astype(np.float32)
    sd = 0.15 * scans + np.float32(0.01)
    seen = np.maximum(scans + sd * rng.standard_normal(scans.shape, dtype=np.float32), 0)
    labels = np.zeros(y.shape, np.int16)
    for i in range(1, 25):
        at = rng.integers(0, 108, 3)
        labels[at[0] : at[0] + 20, at[1] : at[1] + 20, at[2] : at[2] + 20] = i
    run(seen[:, :8], sd[:, :8], labels=labels[:8])  # compiled
    start = time.process_time()  # of all threads: what two idle cores would share
    run(seen, sd, labels=labels)
    assert time.process_time() - start < 8.0
