"""Quantile maps against every draw on its own, their laws, their refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdt_core.dosimetry import Response, absorbed_dose, credible_dose
from tdt_core.dosimetry import voxel_bands as module
from tdt_core.dosimetry.voxel_bands import voxel_bands
from tdt_core.errors import InputError
from tdt_core.radiobiology import bed

SHAPE = (4, 5, 6)
DRAWS, REGIONS = 60, 3
RNG = np.random.default_rng(5)
BASIS = RNG.uniform(0.0, 1e-2, (REGIONS, *SHAPE)).astype(np.float32)
OWNER = RNG.integers(-1, REGIONS, SHAPE).astype(np.int16)
TIA = np.array([300.0, 40.0, 900.0]) * np.exp(RNG.normal(0, 0.3, (DRAWS, REGIONS)))
FACTORS = np.exp(RNG.normal(0, 0.05, (DRAWS, REGIONS)))
RESPONSES = [Response(RNG.uniform(0.02, 0.2, DRAWS), 2.5), None, Response(np.full(DRAWS, 0.1), 10.0)]


def solve(tia=TIA, factors=FACTORS, pattern=None, responses=RESPONSES, basis=BASIS):
    return voxel_bands(basis, OWNER, tia, factors, pattern, responses)


def every_draw(tia=TIA, factors=FACTORS, basis=BASIS):
    """(draws, z, y, x) doses."""
    doses = np.einsum("ds,szyx->dzyx", tia, basis.astype(float))
    for r in range(REGIONS):
        doses[:, r == OWNER] /= factors[:, [r]]
    return doses


def every_bed(doses):
    found = np.full(doses.shape, np.nan)
    for r, response in enumerate(RESPONSES):
        if response is not None:
            inside = r == OWNER
            found[:, inside] = bed(doses[:, inside], response.g[:, None], response.alpha_beta_gy)
    return found


def test_without_pattern_noise_quantiles_are_those_of_every_draw_on_its_own():
    doses, found = every_draw(), solve()
    assert found.dose_gy == pytest.approx(np.quantile(doses, (0.05, 0.5, 0.95), axis=0), rel=1e-5)
    beds = every_bed(doses)
    inside = np.isfinite(beds[0])
    assert found.bed_mean_gy[inside] == pytest.approx(beds.mean(axis=0)[inside], rel=1e-5)
    assert found.bed_sd_gy[inside] == pytest.approx(beds.std(axis=0, ddof=1)[inside], rel=1e-4)
    assert found.bed_gy[:, inside] == pytest.approx(np.quantile(beds, (0.05, 0.5, 0.95), axis=0)[:, inside], rel=1e-5)


def test_quantiles_of_a_whole_calculation_are_those_of_one_dose_calculation_per_draw():
    y = np.arange(8)
    kidney = np.broadcast_to((y > 1) & (y < 5), (8, 8, 8))
    masks = {"kidney_left": kidney, "rest": ~kidney}
    weights = {n: (m / m.sum()).astype(np.float32) for n, m in masks.items()}
    tia, g = np.array([500.0, 800.0]) * np.exp(RNG.normal(0, 0.2, (30, 2))), RNG.uniform(0.05, 0.1, 30)
    options = {"spacing_mm": (4.0, 4.0, 4.0), "nuclide": "Lu-177"}
    found = credible_dose(weights, tia, masks, responses={"kidney_left": Response(g, 2.5)}, **options).bands
    maps = [sum(a * w for a, w in zip(row, weights.values(), strict=True)) for row in tia]
    doses = np.array([absorbed_dose(m, engine="kernel", **options) for m in maps])
    assert found.dose_gy == pytest.approx(np.quantile(doses, (0.05, 0.5, 0.95), axis=0), rel=1e-4)
    beds = np.quantile(bed(doses, g[:, None, None, None], 2.5), (0.05, 0.5, 0.95), axis=0)
    assert found.bed_gy[:, kidney] == pytest.approx(beds[:, kidney], rel=1e-4)
    assert np.isnan(found.bed_gy[:, ~kidney]).all()


@settings(max_examples=25, deadline=None)
@given(factor=st.floats(1e-3, 1e3), noise=st.floats(0.0, 0.5), draws=st.integers(1, DRAWS))
def test_quantiles_are_ordered_scale_with_activity_and_bed_is_never_below_dose(factor, noise, draws):
    pattern = np.full(SHAPE, noise**2, np.float32)
    responses = [None if r is None else Response(r.g[:draws], r.alpha_beta_gy) for r in RESPONSES]
    one = solve(TIA[:draws], FACTORS[:draws], pattern, responses)
    many = solve(factor * TIA[:draws], FACTORS[:draws], pattern, responses)
    assert (np.diff(one.dose_gy, axis=0) >= 0).all()
    assert many.dose_gy == pytest.approx(factor * one.dose_gy, rel=1e-5)
    inside = np.isfinite(one.bed_mean_gy)
    assert (np.diff(one.bed_gy[:, inside], axis=0) >= 0).all()
    assert (one.bed_gy[:, inside] >= one.dose_gy[:, inside]).all()
    mean = every_draw(TIA[:draws], FACTORS[:draws]).mean(axis=0)
    assert (one.bed_mean_gy[inside] >= mean[inside] * (1 - 1e-5)).all()


def test_without_any_spread_every_quantile_is_the_mean():
    found = solve(np.repeat(TIA[:1], 9, axis=0), np.repeat(FACTORS[:1], 9, axis=0), None, [None] * REGIONS)
    for level in found.dose_gy:
        assert level == pytest.approx(every_draw(TIA[:1], FACTORS[:1])[0], rel=1e-6)


def test_pattern_noise_alone_gives_a_log_normal_of_the_same_mean():
    n, rel = 400, 0.25
    pattern = np.full(SHAPE, rel**2, np.float32)
    found = solve(np.repeat(TIA[:1], n, axis=0), np.repeat(FACTORS[:1], n, axis=0), pattern, [None] * REGIONS)
    s, mean = np.sqrt(np.log1p(rel**2)), every_draw(TIA[:1], FACTORS[:1])[0]
    for level, z in zip(found.dose_gy, (-1.6449, 0.0, 1.6449), strict=True):
        assert level == pytest.approx(mean * np.exp(s * z - s**2 / 2), rel=0.01)


def test_pattern_noise_and_draws_together_are_those_of_independent_errors():
    n, rel = 500, 0.2
    rng = np.random.default_rng(8)
    tia = np.repeat(TIA[:1] * 0 + 100.0, n, axis=0) * np.exp(rng.normal(0, 0.15, (n, 1)))
    pattern = np.full(SHAPE, rel**2, np.float32)
    found = solve(tia, np.ones((n, REGIONS)), pattern, [None] * REGIONS)
    s = np.sqrt(np.log1p(rel**2))
    brute = rng.choice(tia[:, 0], 200_000) * np.exp(s * rng.standard_normal(200_000) - s**2 / 2)
    relative = found.dose_gy / BASIS.sum(axis=0)
    for level, expected in zip(relative, np.quantile(brute, (0.05, 0.5, 0.95)), strict=True):
        assert level == pytest.approx(np.full(SHAPE, expected), rel=0.02)


def test_the_mean_of_bed_is_above_the_bed_of_the_mean_dose():
    found, mean = solve(), every_draw().mean(axis=0)
    inside = OWNER == 2
    assert (found.bed_mean_gy[inside] > bed(mean[inside], 0.1, 10.0)).all()


def test_maps_do_not_depend_on_the_size_of_blocks(monkeypatch):
    whole = solve(pattern=np.full(SHAPE, 0.02, np.float32))
    monkeypatch.setattr(module, "BLOCK_VALUES", 7 * 2 * DRAWS)
    parts = solve(pattern=np.full(SHAPE, 0.02, np.float32))
    for name in ("dose_gy", "bed_mean_gy", "bed_sd_gy", "bed_gy"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-6, nan_ok=True)


def test_bed_is_nan_where_no_response_is_known_and_dose_zero_where_none_falls():
    basis = BASIS.copy()
    basis[:, 0, 0, 0] = 0.0
    found = solve(basis=basis)
    assert (found.dose_gy[:, 0, 0, 0] == 0).all()
    unknown = (OWNER == 1) | (OWNER == -1)
    assert np.isnan(found.bed_mean_gy[unknown]).all()
    assert np.isfinite(found.bed_mean_gy[~unknown]).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"g": np.full(3, np.nan)},
        {"g": np.full((2, 2), 0.1)},
        {"g": np.full(3, -0.1)},
        {"alpha_beta_gy": 0.0},
        {"alpha_per_gy": -1.0},
        {"eud_a": 0.0},
    ],
)
def test_responses_without_meaning_are_refused(wrong):
    with pytest.raises(InputError):
        Response(**{"g": np.full(3, 0.1), "alpha_beta_gy": 2.5, **wrong})


def test_factors_that_do_not_pair_with_the_draws_are_refused():
    with pytest.raises(InputError, match="Lea-Catcheside"):
        solve(responses=[Response(np.full(DRAWS + 1, 0.1), 2.5), None, None])
