"""Laws of the Monte Carlo engine: energy, scaling, symmetry, reproducibility, sampling, statistics, refusals."""

import numpy as np
import pytest
from numba import njit

from tdt_core.dosimetry import MATERIALS, EngineSetting, absorbed_dose, build_engine, engines
from tdt_core.dosimetry.conservation import energy_balance
from tdt_core.dosimetry.engines.mc import decays_for, monte_carlo_dose
from tdt_core.dosimetry.montecarlo import elastic, photons
from tdt_core.dosimetry.montecarlo.composition import media, medium
from tdt_core.dosimetry.montecarlo.electron import fluctuating, moller, multiple_scattering
from tdt_core.dosimetry.montecarlo.geometry import place
from tdt_core.dosimetry.montecarlo.grid import energies_kev
from tdt_core.dosimetry.montecarlo.photon import compton, rayleigh
from tdt_core.dosimetry.montecarlo.random import isotropic, seeded, turned, uniform
from tdt_core.dosimetry.montecarlo.source import alias_table
from tdt_core.dosimetry.montecarlo.tables import CSDA, cut_for, tables
from tdt_core.dosimetry.units import JOULE_PER_MBQ_H_KEV
from tdt_core.errors import GeometryError, InputError, ModelError
from tdt_core.nuclides import emissions, nuclide

RNG = np.random.default_rng(5)
SPACING = (5.0, 4.0, 4.5)
SHAPE = (9, 10, 11)
WATER = MATERIALS.index("water")


def built(name="Lu-177", density=1.0, material=None, spacing=SPACING, shape=SHAPE, **options):
    options.setdefault("decays", 20_000)
    setting = EngineSetting(name, spacing, np.full(shape, density, np.float32), material, options=options)
    return build_engine("mc", setting)


@njit
def repeated(n, state, physics, kind, energy, k):
    """n samples of one kind of event at one energy in medium 3 (water)."""
    out = np.empty(n)
    index, fraction = place(energy)
    for i in range(n):
        if kind == 0:
            out[i] = compton(state, physics, 3, energy)[0]
        elif kind == 1:
            out[i] = rayleigh(state, physics, 3, energy)
        elif kind == 2:
            out[i] = moller(state, energy, k)
        elif kind == 3:
            out[i] = multiple_scattering(state, physics, 3, index, fraction, k, 1.0, 0.0, 0.0)[0]
        elif kind == 4:
            out[i] = fluctuating(state, energy, k, 1e9)
        else:
            out[i] = uniform(state)
    return out


def samples(kind, energy, k=0.0, n=40_000):
    return repeated(n, seeded(np.uint64(7), np.uint64(kind)), tables(20.0), kind, float(energy), float(k))


def _assert_mean(values, expected, sigmas=4.0):
    assert abs(values.mean() - expected) <= sigmas * values.std() / np.sqrt(values.size), (values.mean(), expected)


def test_the_engine_is_found_by_name():
    assert "mc" in engines()


# Energy


@pytest.mark.parametrize("name", ["Lu-177", "I-131", "Y-90", "Ac-225", "Ga-68"])
def test_deposited_and_escaped_energy_is_the_emitted_energy(name):
    found = built(name).scored(RNG.random(SHAPE))
    balance = found.energy_kev.sum() + found.photons_out_kev + found.electrons_out_kev
    assert balance == pytest.approx(found.emitted_kev, rel=1e-9)
    assert found.emitted_kev == pytest.approx(emissions(name).total_kev, rel=0.02)


def test_alphas_stay_in_the_voxel_of_the_decay():
    weights = np.zeros(SHAPE)
    weights[4, 5, 5] = 1.0
    found = built("Ac-225", decays=2000).scored(weights)
    assert emissions("Ac-225").local_kev < found.energy_kev[4, 5, 5] < emissions("Ac-225").total_kev
    assert found.energy_kev[0, 0, 0] < 1.0


def test_escaping_energy_from_another_stream_closes_the_balance_of_every_region():
    weights = [np.zeros(SHAPE), np.zeros(SHAPE)]
    weights[0][2:5, 2:5, 2:5] = 1 / 27
    weights[1][6, 7, 8] = 1.0
    engine = built("I-131", decays=60_000)
    deposited = np.array([engine.energy(w).sum(dtype=float) for w in weights])
    report = energy_balance([engine], weights, np.ones(2), deposited, np.ones(SHAPE, bool))
    assert report["balance_relative_difference"] < 5e-3


def test_the_balance_of_few_decays_is_allowed_its_statistics_and_scatters_by_less():
    weights, misses = np.ones(SHAPE) / np.prod(SHAPE), []
    for seed in range(8):
        engine = built("I-131", decays=1000, seed=seed)
        deposited = np.array([engine.energy(weights).sum(dtype=float)])
        report = energy_balance([engine], [weights], np.ones(1), deposited, np.ones(SHAPE, bool))
        misses.append(report["balance_relative_difference"])
        sd = engine.balance_sd()
    assert 0.2 * sd < np.sqrt(np.mean(np.square(misses))) < sd
    assert sd == pytest.approx(10 * built("I-131", decays=100_000).balance_sd(), rel=1e-9)


def test_what_goes_into_voxels_that_do_not_absorb_has_escaped():
    engine = built("Y-90")
    engine.energy(np.ones(SHAPE))
    all_voxels, half = np.ones(SHAPE, bool), np.ones(SHAPE, bool)
    half[5:] = False
    whole, part = engine.escaping_fraction(all_voxels), engine.escaping_fraction(half)
    assert part[7].mean() > 0.95
    assert part[1].mean() == pytest.approx(whole[1].mean(), abs=0.02)


def test_uniform_activity_reaches_equilibrium_in_the_middle():
    found = built("Y-90", spacing=(10.0,) * 3, shape=(7, 7, 7), decays=100_000).scored(np.ones((7, 7, 7)))
    middle = found.energy_kev[2:5, 2:5, 2:5].mean() * 343
    assert middle == pytest.approx(nuclide("Y-90").electron_energy_kev, rel=0.015)


# Scaling and symmetry


def test_twice_the_density_in_half_the_length_gives_the_same_energy():
    weights = np.zeros(SHAPE)
    weights[4, 5, 5] = 1.0
    one = built("Lu-177", 1.0, cut_kev=20.0).scored(weights)
    two = built("Lu-177", 2.0, spacing=tuple(s / 2 for s in SPACING), cut_kev=20.0).scored(weights)
    assert two.energy_kev == pytest.approx(one.energy_kev, rel=1e-3, abs=1e-3)


def test_a_scaled_map_gives_exactly_the_scaled_dose():
    tia = RNG.random(SHAPE)
    once, thrice = (absorbed_dose(f * tia, SPACING, "Lu-177", engine="mc", decays=5000) for f in (1.0, 3.0))
    assert thrice == pytest.approx(3 * once, rel=1e-5)


def test_axes_and_mirrors_are_alike():
    weights = np.zeros((9, 9, 9))
    weights[4, 4, 4] = 1.0
    found = built("Y-90", spacing=(4.0,) * 3, shape=(9, 9, 9), decays=60_000).scored(weights)
    faces = [(3, 4, 4), (5, 4, 4), (4, 3, 4), (4, 5, 4), (4, 4, 3), (4, 4, 5)]
    energy, sd = (np.array([a[f] for f in faces]) for a in (found.energy_kev, found.sd_kev))
    assert np.all(np.abs(energy - energy.mean()) <= 4 * sd)


def test_energy_fractions_between_two_media_are_reciprocal():
    """Photons of Compton energies: what bone gives to lung over masses is what lung gives to bone, to a few per cent."""
    material = np.full((3, 3, 3), WATER)
    material[0, 1, 1], material[2, 1, 1] = MATERIALS.index("cortical_bone"), MATERIALS.index("lung")
    density = np.ones(material.shape, np.float32)
    density[0, 1, 1], density[2, 1, 1] = 1.92, 0.26
    setting = EngineSetting("Cs-137", (30.0,) * 3, density, material, options={"decays": 200_000})
    engine = build_engine("mc", setting)
    there, back = np.zeros(material.shape), np.zeros(material.shape)
    there[0, 1, 1], back[2, 1, 1] = 1.0, 1.0
    a, b = engine.scored(there), engine.scored(back)
    to_lung, to_bone = a.energy_kev[2, 1, 1] / 0.26, b.energy_kev[0, 1, 1] / 1.92
    sd = np.hypot(a.sd_kev[2, 1, 1] / 0.26, b.sd_kev[0, 1, 1] / 1.92)
    assert abs(to_lung - to_bone) <= 0.05 * to_bone + 4 * sd


def test_energy_crosses_a_vacuum_unchanged():
    density = np.ones(SHAPE, np.float32)
    density[:, 3:9] = 0.0
    weights = np.zeros(SHAPE)
    weights[:, 2] = 1.0
    engine = build_engine("mc", EngineSetting("Y-90", SPACING, density, options={"decays": 20_000}))
    found = engine.scored(weights)
    assert found.energy_kev[:, 3:9].max() == 0.0
    assert found.energy_kev[:, 9].sum() > 0.0


# Reproducibility and statistics


def test_the_result_depends_on_the_seed_and_not_on_the_threads():
    tia = RNG.random(SHAPE)
    one, two = (built(threads=t, decays=5000).energy(tia) for t in (1, 2))
    other = built(threads=1, decays=5000, seed=2).energy(tia)
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_the_uncertainty_is_the_scatter_between_seeds():
    tia = np.zeros(SHAPE)
    tia[3:6, 3:6, 3:6] = 1.0
    runs = [monte_carlo_dose(tia, SPACING, "Lu-177", decays=2500, seed=s) for s in range(12)]
    inside = tia > 0
    scatter = np.std([r.dose_gy[inside] for r in runs], axis=0, ddof=1)
    stated = np.sqrt(np.mean([r.sd_gy[inside] ** 2 for r in runs], axis=0))
    assert np.sqrt((scatter**2).mean() / (stated**2).mean()) == pytest.approx(1.0, abs=0.15)


def test_more_decays_make_the_uncertainty_smaller_by_the_root():
    tia = np.ones(SHAPE)
    few, many = (monte_carlo_dose(tia, SPACING, "Y-90", decays=n) for n in (5000, 80_000))
    assert few.sd_gy.mean() / many.sd_gy.mean() == pytest.approx(4.0, rel=0.1)


def test_a_pilot_tells_how_many_decays_a_wanted_uncertainty_needs():
    tia = np.zeros(SHAPE)
    tia[3:6, 3:6, 3:6] = 1.0
    inside = tia > 0
    pilot = monte_carlo_dose(tia, SPACING, "Lu-177", decays=2000)
    wanted = decays_for(pilot, inside, 0.05)
    assert wanted == pytest.approx(4 * decays_for(pilot, inside, 0.1), abs=4)
    found = monte_carlo_dose(tia, SPACING, "Lu-177", decays=wanted, blocks=100, seed=2)
    assert 0.03 < (found.sd_gy[inside] / found.dose_gy[inside]).max() <= 0.05
    with pytest.raises(InputError, match="pilot"):
        decays_for(monte_carlo_dose(tia, SPACING, "Lu-177", decays=200), np.ones(SHAPE, bool), 0.05)
    with pytest.raises(ModelError, match="relative SD"):
        decays_for(pilot, inside, 0.0)


def test_decays_are_spread_as_the_activity():
    """Electrons of Lu-177 hardly leave a voxel of 40 mm."""
    tia = np.array([1.0, 0.0, 2.0, 5.0]).reshape(4, 1, 1)
    found = built(spacing=(40.0,) * 3, shape=(4, 1, 1), decays=40_000).scored(tia).energy_kev.ravel()
    assert found / found.sum() == pytest.approx(tia.ravel() / 8, abs=0.03)


# Sampling


def test_uniform_numbers_are_uniform_and_streams_differ():
    values = samples(9, 0.0)
    _assert_mean(values, 0.5)
    assert np.histogram(values, 20, (0, 1))[0] == pytest.approx(2000, abs=200)
    streams = {float(uniform(seeded(np.uint64(1), np.uint64(b)))) for b in range(200)}
    assert len(streams) == 200


def test_directions_are_unit_vectors_at_the_angle_asked_for():
    state = seeded(np.uint64(1), np.uint64(2))
    for _ in range(200):
        u, v, w = isotropic(state)
        a, b, c = turned(state, u, v, w, -0.3)
        assert a * a + b * b + c * c == pytest.approx(1.0, abs=1e-12)
        assert a * u + b * v + c * w == pytest.approx(-0.3, abs=1e-12)


def test_the_alias_table_returns_the_weights():
    weights = RNG.random(40) ** 3
    keep, alias = alias_table(weights)
    back = keep / 40
    np.add.at(back, alias, (1 - keep) / 40)
    assert back == pytest.approx(weights / weights.sum())


@pytest.mark.parametrize("energy", [5.0, 100.0, 1500.0])
@pytest.mark.parametrize("k", [1e-3, 0.02, 0.3, 0.9])
def test_multiple_scattering_has_the_exact_mean_cosine(energy, k):
    _assert_mean(samples(3, energy, k), np.exp(-k))


@pytest.mark.parametrize("k", [0.05, 0.3])
def test_multiple_scattering_has_the_exact_second_moment(k):
    """Goudsmit and Saunderson: every Legendre moment falls exponentially with the path."""
    water = medium("water")
    eta = float(elastic.screening(water, np.array([200.0]))[0])
    moments = elastic.single_moments(eta, 3)
    mu = samples(3, 200.0, k)
    second = np.exp(-k * (1 - moments[2]) / (1 - moments[1]))
    assert ((3 * mu**2 - 1) / 2).mean() == pytest.approx(second, abs=0.01)


def test_moments_of_one_collision_are_those_of_the_screened_rutherford_law():
    nodes, weights = np.polynomial.legendre.leggauss(200)
    eta = 0.02
    density = 2 * eta * (1 + eta) / (1 - nodes + 2 * eta) ** 2
    direct = [(weights * density * np.polynomial.legendre.legval(nodes, [0] * n + [1])).sum() for n in range(6)]
    assert elastic.single_moments(eta, 6) == pytest.approx(direct, rel=1e-6)
    assert 1 - direct[1] == pytest.approx(float(elastic.first_moment(np.array([eta]))[0]), rel=1e-9)


@pytest.mark.parametrize("energy", [200.0, 1000.0])
def test_compton_scattering_leaves_the_mean_energy_of_klein_and_nishina(energy):
    nodes, weights = np.polynomial.legendre.leggauss(64)
    ratio = 1 / (1 + energy / 510.99895 * (1 - nodes))
    section = weights * ratio**2 * (ratio + 1 / ratio - 1 + nodes**2)
    assert samples(0, energy).mean() == pytest.approx((section * ratio).sum() / section.sum(), abs=0.006)


def test_coherent_scattering_goes_forward_at_high_energy_and_is_dipole_at_low():
    assert samples(1, 300.0).mean() > 0.95
    assert samples(1, 1.0).mean() == pytest.approx(0.0, abs=0.1)


def test_freed_electrons_lie_between_the_cut_and_half_the_energy():
    freed = samples(2, 500.0, 20.0)
    assert freed.min() >= 20.0
    assert freed.max() <= 250.0
    assert np.median(freed) == pytest.approx(37.5, rel=0.1)  # 1/W^2 alone: 1 / median is the mean of 1/20 and 1/250


@pytest.mark.parametrize(("mean", "variance"), [(10.0, 1.0), (10.0, 20.0), (1.0, 4.0)])
def test_energy_losses_have_the_mean_and_variance_asked_for(mean, variance):
    loss = samples(4, mean, variance)
    _assert_mean(loss, mean)
    assert loss.var() == pytest.approx(variance, rel=0.05)
    assert loss.min() >= 0.0


# Tables


def test_mass_fractions_of_every_medium_sum_to_one():
    for m in media():
        assert m.fractions.sum() == pytest.approx(1.0, abs=1e-6)
    assert tuple(m.name for m in media()) == MATERIALS


def test_range_grows_with_energy_and_equals_that_of_estar():
    """CSDA range in water, NIST ESTAR, g/cm2; ours starts at 1 keV with a straight line."""
    rows = tables(20.0).rows[WATER]
    assert np.all(np.diff(rows[:, CSDA]) > 0)
    for energy, expected in ((50.0, 0.00432), (100.0, 0.01431), (500.0, 0.1766), (1000.0, 0.4367), (2000.0, 0.9785)):
        assert np.interp(energy, energies_kev(), rows[:, CSDA]) == pytest.approx(expected, rel=4e-3)


def test_attenuation_of_water_is_that_of_xcom():
    """NIST XCOM with coherent scattering, cm2/g."""
    table = photons.photon_table("water")
    total = table.photo + table.incoherent + table.coherent + table.pair
    xcom = {10: 5.330, 50: 0.2269, 100: 0.1707, 500: 0.09687, 1000: 0.07072, 2000: 0.04942, 3000: 0.03969}
    found = [np.interp(e, energies_kev(), total) for e in xcom]
    assert found == pytest.approx(list(xcom.values()), rel=4e-3)


def test_the_cut_follows_the_voxel():
    assert cut_for((0.1, 1.0, 1.0)) < cut_for((1.0, 1.0, 1.0)) <= cut_for((5.0, 5.0, 5.0))


# Refusals


def test_bad_input_is_refused():
    tia = np.ones(SHAPE)
    with pytest.raises(InputError, match="density"):
        absorbed_dose(tia, SPACING, "Lu-177", np.zeros(SHAPE), engine="mc")
    with pytest.raises(InputError, match="material"):
        absorbed_dose(tia, SPACING, "Lu-177", 1.0, np.full(SHAPE, 99), engine="mc")
    with pytest.raises(GeometryError, match="material"):
        absorbed_dose(tia, SPACING, "Lu-177", 1.0, np.full((2, 2, 2), WATER), engine="mc")
    with pytest.raises(GeometryError, match="spacing"):
        absorbed_dose(tia, (0.0, 1.0, 1.0), "Lu-177", engine="mc")
    with pytest.raises(InputError, match="negative"):
        absorbed_dose(-tia, SPACING, "Lu-177", engine="mc")
    with pytest.raises(InputError, match="Xx-1"):
        absorbed_dose(tia, SPACING, "Xx-1", engine="mc")
    with pytest.raises(ModelError, match="option"):
        absorbed_dose(tia, SPACING, "Lu-177", engine="mc", histories=5)
    with pytest.raises(ModelError, match="decays"):
        absorbed_dose(tia, SPACING, "Lu-177", engine="mc", decays=3)
    with pytest.raises(ModelError, match="threads"):
        absorbed_dose(tia, SPACING, "Lu-177", engine="mc", decays=300, threads=0)


def test_no_activity_gives_no_dose_and_runs_nothing():
    assert absorbed_dose(np.zeros(SHAPE), SPACING, "Lu-177", engine="mc").max() == 0.0
    assert monte_carlo_dose(np.zeros(SHAPE), SPACING, "Lu-177").decays == 0


def test_air_takes_no_dose_and_dose_is_energy_over_the_voxels_own_mass():
    density = np.ones(SHAPE, np.float32)
    density[:3], density[6:] = 0.001, 2.0
    found = monte_carlo_dose(np.ones(SHAPE), SPACING, "Lu-177", density, decays=20_000)
    assert found.dose_gy[:3].max() == 0.0
    assert found.sd_gy[:3].max() == 0.0
    energy = built(density=density, decays=20_000).energy(np.ones(SHAPE))
    kg = 2.0 * np.prod(SPACING) / 1e6
    assert found.dose_gy[7] == pytest.approx(energy[7] / kg, rel=1e-5)
    local = emissions("Lu-177").electrons.total_kev * JOULE_PER_MBQ_H_KEV / kg
    assert found.dose_gy[7].mean() == pytest.approx(local, rel=0.05)
