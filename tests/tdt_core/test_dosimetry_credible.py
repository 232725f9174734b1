"""Credible dose against brute force over draws, its laws, its refusals."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tdt_core.dosimetry import absorbed_dose, credible_dose, dvh, dvh_bands, equivalent_uniform_dose
from tdt_core.dosimetry import credible as credible_module
from tdt_core.errors import ConservationError, GeometryError, InputError
from tdt_core.nuclides import decays_per_parent_decay, emissions

SHAPE, SPACING = (14, 15, 16), (4.8, 4.8, 4.8)
RNG = np.random.default_rng(11)
DRAWS = 40


def case():
    z, y, x = np.ogrid[:14, :15, :16]
    kidney = (z - 4) ** 2 + (y - 5) ** 2 + (x - 5) ** 2 < 9
    lesion = (z - 10) ** 2 + (y - 9) ** 2 + (x - 11) ** 2 < 4
    masks = {"kidney_left": kidney, "lesion/L1": lesion, "rest": ~kidney & ~lesion}
    weights = {}
    for name, mask in masks.items():
        raw = np.where(mask, 0.5 + RNG.random(SHAPE), 0.0)
        weights[name] = (raw / raw.sum()).astype(np.float32)
    tia = np.array([2000.0, 150.0, 9000.0]) * np.exp(RNG.normal(0, [0.15, 0.3, 0.1], (DRAWS, 3)))
    factors = np.exp(RNG.normal(0, [0.06, 0.1, 0.01], (DRAWS, 3)))
    density = np.where(y + 0 * z + 0 * x < 2, 0.001, 1.04)
    return masks, weights, tia, factors, density


MASKS, WEIGHTS, TIA, FACTORS, DENSITY = case()


def solve(**change):
    settings = {"spacing_mm": SPACING, "nuclide": "Lu-177", "density_g_cm3": DENSITY, "mass_factors": FACTORS, **change}
    return credible_dose(settings.pop("weights", WEIGHTS), settings.pop("tia", TIA), settings.pop("masks", MASKS), **settings)


RESULT = solve()


def brute_force():
    """Every draw through the whole pipeline on its own."""
    maps = []
    for d in range(DRAWS):
        tia = sum(TIA[d, i] * w for i, w in enumerate(WEIGHTS.values()))
        dose = absorbed_dose(tia, SPACING, "Lu-177", DENSITY, engine="kernel").astype(float)
        for i, mask in enumerate(MASKS.values()):
            dose[mask] /= FACTORS[d, i]
        maps.append(dose)
    return np.array(maps)


def test_mean_sd_and_region_draws_equal_one_dose_calculation_per_draw():
    maps = brute_force()
    assert RESULT.mean_gy == pytest.approx(maps.mean(axis=0), rel=1e-4)
    assert RESULT.sd_gy == pytest.approx(maps.std(axis=0, ddof=1), rel=1e-3, abs=1e-6)
    for i, mask in enumerate(MASKS.values()):
        assert RESULT.region_dose_gy[:, i] == pytest.approx(maps[:, mask].mean(axis=1), rel=1e-4)


def test_region_means_agree_with_the_map_to_rounding():
    for i, mask in enumerate(MASKS.values()):
        assert RESULT.region_dose_gy[:, i].mean() == pytest.approx(RESULT.mean_gy[mask].mean(dtype=float), rel=1e-5)


def test_the_dose_matrix_explains_the_region_doses_and_is_dominated_by_self_dose():
    assert RESULT.region_dose_gy == pytest.approx((TIA @ RESULT.dose_matrix_gy_per_mbq_h.T) / FACTORS)
    matrix = RESULT.dose_matrix_gy_per_mbq_h
    assert (np.diag(matrix)[:2] > 20 * matrix[:2, 2]).all()
    cross = matrix[0, 1] / matrix[1, 0]
    assert cross == pytest.approx(1.0, rel=0.05)  # reciprocity between regions of equal density


def test_energy_balances_and_is_reported():
    figures = RESULT.conservation
    assert figures["emitted_j"] == pytest.approx(TIA.mean(axis=0).sum() * 183.02 * 3.6e9 * 1.602176634e-16, rel=1e-3)
    assert 0 < figures["escaped_fraction"] < 0.3
    assert figures["deposited_j"] == pytest.approx(figures["emitted_j"] * (1 - figures["escaped_fraction"]))
    assert figures["balance_relative_difference"] < 0.005


def test_a_kernel_that_makes_energy_is_found_at_run_time(monkeypatch):
    class Leaky:
        name, emitted_kev = "leaky", 183.02

        def __init__(self, engine):
            self.engine = engine

        def energy(self, tia_mbq_h):
            return self.engine.energy(tia_mbq_h) * np.float32(1.02)

        def escaping_fraction(self, absorbing):
            return self.engine.escaping_fraction(absorbing)

    real = credible_module.build_engine
    monkeypatch.setattr(credible_module, "build_engine", lambda name, setting: Leaky(real(name, setting)))
    with pytest.raises(ConservationError) as caught:
        solve()
    assert caught.value.kind == "conservation.energy"


def test_weights_that_lose_activity_are_found_at_run_time():
    with pytest.raises(ConservationError) as caught:
        solve(weights={n: w * 0.98 for n, w in WEIGHTS.items()})
    assert caught.value.kind == "conservation.activity"


def test_doses_scale_with_activity_and_bands_widen_with_spread():
    double = solve(tia=2 * TIA)
    assert double.mean_gy == pytest.approx(2 * RESULT.mean_gy, rel=1e-5)
    still = solve(tia=np.repeat(TIA.mean(axis=0, keepdims=True), 5, axis=0), mass_factors=None)
    assert still.sd_gy.max() < 1e-4 * still.mean_gy.max()


def test_pattern_noise_adds_its_own_variance():
    best = np.sum(list(WEIGHTS.values()), axis=0)
    noise = best * RNG.lognormal(0, 0.1, (12, *SHAPE))
    for mask in MASKS.values():
        noise[:, mask] /= noise[:, mask].sum(axis=1, keepdims=True)
    with_noise = solve(noise_draws=noise)
    assert with_noise.mean_gy == pytest.approx(RESULT.mean_gy)
    assert (with_noise.sd_gy >= RESULT.sd_gy * (1 - 1e-5)).all()
    inside = MASKS["kidney_left"]
    added = np.sqrt(np.maximum(with_noise.sd_gy**2 - RESULT.sd_gy**2, 0))[inside] / RESULT.mean_gy[inside]
    assert 0.05 < np.median(added) < 0.12


def test_a_parallel_map_gives_the_same_bytes():
    with ThreadPoolExecutor(2) as pool:
        other = solve(map=pool.map)
    assert (other.mean_gy == RESULT.mean_gy).all()
    assert (other.sd_gy == RESULT.sd_gy).all()
    assert other.dvh == RESULT.dvh


def test_dvh_bands_follow_the_draws():
    kidney = next(row for row in RESULT.dvh if row["region"] == "kidney_left")
    low, mid, high = (np.array(kidney[k]) for k in ("q05", "q50", "q95"))
    assert (low <= mid).all()
    assert (mid <= high).all()
    assert (np.diff(mid) <= 0).all()
    assert mid[0] == 1.0
    maps = brute_force()[:, MASKS["kidney_left"]]
    d90 = np.quantile(maps, 0.1, axis=1)
    assert kidney["metrics"]["d90"]["mean"] == pytest.approx(d90.mean(), rel=1e-4)
    assert kidney["metrics"]["d90"]["q95"] == pytest.approx(np.quantile(d90, 0.95), rel=1e-4)


def test_thinning_a_large_region_keeps_its_histogram(monkeypatch):
    monkeypatch.setattr(dvh_bands, "DVH_VOXELS", 300)
    thin = solve()
    for a, b in zip(thin.dvh, RESULT.dvh, strict=True):
        for key in ("d95", "d50", "d2"):
            assert a["metrics"][key]["mean"] == pytest.approx(b["metrics"][key]["mean"], rel=0.02)


def test_maps_masks_and_draws_without_meaning_are_refused():
    overlap = {**MASKS, "lesion/L1": MASKS["kidney_left"]}
    empty = {**MASKS, "lesion/L1": np.zeros(SHAPE, bool)}
    missing = {k: v for k, v in MASKS.items() if k != "rest"}
    for masks, words in ((overlap, "overlap"), (empty, "no voxel"), (missing, "no mask")):
        with pytest.raises(GeometryError, match=words):
            solve(masks=masks)
    with pytest.raises(GeometryError, match="grid"):
        solve(masks={k: v[1:] for k, v in MASKS.items()})
    with pytest.raises(InputError, match="shape"):
        solve(tia=TIA[:, :2])
    with pytest.raises(InputError, match="non-finite"):
        solve(tia=np.full_like(TIA, np.nan))
    with pytest.raises(InputError, match="positive"):
        solve(mass_factors=np.zeros_like(TIA))
    with pytest.raises(InputError, match="noise"):
        solve(noise_draws=np.ones((1, *SHAPE)))
    with pytest.raises(GeometryError, match="noise"):
        solve(noise_draws=np.ones((2, 3, 3, 3)))


def test_a_histogram_of_known_doses():
    dose = np.arange(101.0).reshape(1, 1, 101)
    found = dvh(dose, np.ones_like(dose, bool))
    assert found.metrics == pytest.approx({"d98": 2.0, "d95": 5.0, "d90": 10.0, "d50": 50.0, "d2": 98.0, "v20": 81 / 101})
    assert found.mean_gy == pytest.approx(50.0)
    assert found.volume_fraction[0] == 1.0
    assert found.volume_fraction[-1] == 0.0


def test_eud_lies_between_least_and_largest_dose_and_is_the_mean_for_one():
    dose, mask = RNG.uniform(1, 30, (3, 4, 5)), np.ones((3, 4, 5), bool)
    assert equivalent_uniform_dose(dose, mask, 1.0) == pytest.approx(dose.mean())
    assert (
        dose.min()
        < equivalent_uniform_dose(dose, mask, -20.0)
        < dose.mean()
        < equivalent_uniform_dose(dose, mask, 20.0)
        < dose.max()
    )


def test_histograms_without_voxels_are_refused():
    with pytest.raises(GeometryError, match="no voxel"):
        dvh(np.ones((2, 2, 2)), np.zeros((2, 2, 2), bool))
    with pytest.raises(GeometryError, match="grid"):
        dvh(np.ones((2, 2, 2)), np.ones((2, 2, 3), bool))
    with pytest.raises(InputError):
        dvh(np.full((2, 2, 2), np.nan), np.ones((2, 2, 2), bool))


def test_statistics_of_monte_carlo_are_in_the_sd_and_the_quantiles_of_voxels():
    """One draw has no other uncertainty, so the SD is that of the engine; runs of other seeds scatter by it."""
    one = {"tia": TIA[:1], "mass_factors": FACTORS[:1], "engine": "mc"}
    runs = [solve(**one, engine_options={"decays": 4000, "seed": seed}) for seed in range(6)]
    inside = MASKS["kidney_left"]
    scatter = np.std([r.mean_gy[inside] for r in runs], axis=0, ddof=1)
    stated = np.mean([r.sd_gy[inside] ** 2 for r in runs], axis=0)
    assert np.sqrt((scatter**2).mean() / stated.mean()) == pytest.approx(1.0, abs=0.2)
    kernel = solve(tia=TIA[:1], mass_factors=FACTORS[:1])
    assert kernel.sd_gy.max() == 0.0
    assert np.mean([r.mean_gy[inside].mean() for r in runs]) == pytest.approx(kernel.mean_gy[inside].mean(), rel=0.02)
    assert runs[0].region_dose_gy[0, 0] == pytest.approx(runs[0].mean_gy[inside].mean(), rel=1e-5)
    again = solve(**one, engine_options={"decays": 4000, "seed": 0})
    assert np.array_equal(again.mean_gy, runs[0].mean_gy)


def test_redrawn_patterns_of_monte_carlo_add_what_those_of_the_kernel_add():
    redrawn = [np.sum(list(WEIGHTS.values()), axis=0) * f for f in (0.9, 1.0, 1.1)]
    one = {"tia": TIA[:1], "mass_factors": FACTORS[:1]}
    with_patterns, without = (
        solve(**one, engine="mc", engine_options={"decays": 2000}, noise_draws=draws) for draws in (redrawn, None)
    )
    kernel = solve(**one, noise_draws=redrawn)
    assert with_patterns.sd_gy**2 - without.sd_gy**2 == pytest.approx(kernel.sd_gy**2, rel=1e-3, abs=1e-4)


# --- daughters that leave


KEV = 1.602176634e-16 * 3.6e9
"""J per MBq h and keV."""
ALPHA_TIA = TIA / 1000.0
MADE = decays_per_parent_decay("Ac-225")["Bi-213"] * ALPHA_TIA


def alpha(shift, **change):
    """Ac-225 in the three regions, with what of Bi-213 moves."""
    return solve(tia=np.concatenate([ALPHA_TIA, shift], axis=1), nuclide="Ac-225", daughters=("Bi-213",), **change)


def test_daughters_that_stay_give_the_dose_of_a_chain_in_place():
    in_place, still = solve(tia=ALPHA_TIA, nuclide="Ac-225"), alpha(0.0 * MADE)
    assert still.mean_gy == pytest.approx(in_place.mean_gy, rel=1e-6)
    assert still.region_dose_gy == pytest.approx(in_place.region_dose_gy, rel=1e-12)
    assert still.sd_gy == pytest.approx(in_place.sd_gy, rel=1e-5)
    worst = still.conservation["balance_relative_difference"]  # of both emitters
    assert still.conservation == {**in_place.conservation, "balance_relative_difference": worst, "carried_out_j": 0.0}
    assert (still.dose_matrix_gy_per_mbq_h[:, :3] == in_place.dose_matrix_gy_per_mbq_h).all()


def test_daughters_that_move_take_their_energy_along_from_region_to_region():
    """All Bi-213 of the lesion goes to the kidney: the head of the chain stays, the kidney gains by energy over mass."""
    shift = np.zeros_like(MADE)
    shift[:, 1], shift[:, 0] = -MADE[:, 1], MADE[:, 1]
    before, after = alpha(0.0 * shift, mass_factors=None), alpha(shift, mass_factors=None)
    below, whole = emissions("Bi-213", "all"), emissions("Ac-225")
    kept = 1.0 - MADE[0, 0] / ALPHA_TIA[0, 0] * below.charged_kev / whole.charged_kev
    assert kept == pytest.approx(0.681, abs=0.002)
    own = after.dose_matrix_gy_per_mbq_h[1, 1] * ALPHA_TIA[:, 1] + after.dose_matrix_gy_per_mbq_h[1, 4] * shift[:, 1]
    assert own / (before.dose_matrix_gy_per_mbq_h[1, 1] * ALPHA_TIA[:, 1]) == pytest.approx(kept, rel=0.005)
    gained = (after.region_dose_gy - before.region_dose_gy)[:, 0]
    kidney_kg = MASKS["kidney_left"].sum() * 4.8**3 * 1.04e-6
    assert gained == pytest.approx(MADE[:, 1] * below.charged_kev * KEV / kidney_kg, rel=0.02)
    figures = after.conservation
    assert figures["emitted_j"] == before.conservation["emitted_j"]
    assert figures["carried_out_j"] == pytest.approx(0.0, abs=1e-6 * figures["emitted_j"])
    assert figures["deposited_j"] == pytest.approx(before.conservation["deposited_j"], rel=0.01)


def test_energy_that_daughters_carry_out_is_emitted_and_not_deposited():
    """A third of all Bi-213 leaves the body: emitted = deposited + escaped + carried out, each by its own way."""
    shift = -MADE / 3.0
    before, after = alpha(0.0 * shift), alpha(shift)
    out = MADE.mean(axis=0).sum() / 3.0 * emissions("Bi-213", "all").total_kev * KEV
    figures = after.conservation
    assert figures["emitted_j"] == pytest.approx(ALPHA_TIA.mean(axis=0).sum() * emissions("Ac-225").total_kev * KEV, rel=1e-4)
    assert figures["carried_out_j"] == pytest.approx(out, rel=1e-4)
    photons = figures["emitted_j"] - figures["carried_out_j"] - figures["deposited_j"]
    before_photons = before.conservation["emitted_j"] - before.conservation["deposited_j"]
    assert 0.4 * before_photons < photons < before_photons
    assert figures["balance_relative_difference"] < 0.005


def test_draws_with_daughters_equal_one_dose_calculation_per_draw_and_their_map():
    rng = np.random.default_rng(2)
    shift = MADE * rng.uniform(-1.0, 2.0, MADE.shape)
    noise = np.sum(list(WEIGHTS.values()), axis=0) * rng.lognormal(0, 0.1, (3, *SHAPE))
    found = alpha(shift, noise_draws=noise)
    for i, mask in enumerate(MASKS.values()):
        assert found.region_dose_gy[:, i].mean() == pytest.approx(found.mean_gy[mask].mean(dtype=float), rel=1e-5)
    moved = sum(shift[7, i] * w for i, w in enumerate(WEIGHTS.values()))
    parts = (
        (sum(ALPHA_TIA[7, i] * w for i, w in enumerate(WEIGHTS.values())), "Ac-225", "equilibrium", 1.0),
        (np.maximum(moved, 0.0), "Bi-213", "all", 1.0),
        (np.maximum(-moved, 0.0), "Bi-213", "all", -1.0),
    )
    dose = sum(
        sign * absorbed_dose(tia, SPACING, name, DENSITY, engine="kernel", progeny=chain).astype(float)
        for tia, name, chain, sign in parts
    )
    for i, mask in enumerate(MASKS.values()):
        assert found.region_dose_gy[7, i] == pytest.approx(dose[mask].mean() / FACTORS[7, i], rel=1e-4)
    assert (found.sd_gy >= alpha(shift).sd_gy * (1 - 1e-5)).all()


def test_no_more_of_a_daughter_leaves_than_there_is():
    assert alpha(-MADE).mean_gy.min() >= 0.0
    for wrong in (-1.001 * MADE, np.where(MADE > 0, np.nan, 0.0)):
        with pytest.raises(InputError, match="more Bi-213 leaves"):
            alpha(wrong)
    with pytest.raises(InputError, match="shape"):
        solve(tia=ALPHA_TIA, nuclide="Ac-225", daughters=("Bi-213",))
