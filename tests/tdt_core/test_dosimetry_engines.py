"""Laws of the dose engines: energy, linearity, equilibrium, exactness of the two grids, air."""

import numpy as np
import pytest

from tdt_core.dosimetry import EngineSetting, absorbed_dose, build_engine, engines, register_engine, voxel_s_values
from tdt_core.dosimetry.density import AIR_BELOW_G_CM3, FLOOR_G_CM3, MATERIALS, mass_kg
from tdt_core.dosimetry.engines.kernel import Convolution, coarse_shape, coarsened, prolonged
from tdt_core.dosimetry.units import JOULE_PER_MBQ_H_KEV
from tdt_core.errors import GeometryError, InputError, ModelError
from tdt_core.nuclides import emissions, nuclide

RNG = np.random.default_rng(3)
SPACING = (5.0, 4.0, 4.5)


def engine(name, shape, nuclide_name="Lu-177", **options):
    return build_engine(name, EngineSetting(nuclide_name, SPACING, np.ones(shape, np.float32), options=options))


def test_both_engines_are_found_without_being_named():
    assert {"kernel", "local"} <= set(engines())


def test_an_engine_is_added_by_registering_it():
    class Nothing:
        name = "nothing"
        emitted_kev = 1.0

        def __init__(self, setting):
            self.shape = setting.shape

        def energy(self, tia_mbq_h):
            return np.zeros(self.shape, np.float32)

        def escaping_fraction(self, absorbing):
            return np.ones(self.shape, np.float32)

    register_engine("nothing", Nothing)
    assert absorbed_dose(np.ones((2, 2, 2)), SPACING, "Lu-177", engine="nothing").sum() == 0
    with pytest.raises(ModelError, match="twice"):
        register_engine("nothing", dict)


def test_local_deposition_is_the_electron_dose_constant():
    dose = absorbed_dose(np.full((2, 3, 4), 1.0), (10.0, 10.0, 10.0), "Lu-177")
    assert dose == pytest.approx(0.085320, rel=1e-4)


@pytest.mark.parametrize("exact", [True, False])
def test_a_point_source_gives_the_voxel_s_values(exact):
    shape = (11, 11, 11)
    tia = np.zeros(shape)
    tia[5, 5, 5] = 1.0 / 3600.0  # 1 MBq s
    dose = absorbed_dose(tia, SPACING, "I-131", engine="kernel", exact=exact) * 1000
    assert dose == pytest.approx(voxel_s_values("I-131", SPACING, 5), rel=2e-4 if exact else 0.05)
    assert dose[5, 5, 5] == pytest.approx(voxel_s_values("I-131", SPACING, 0)[0, 0, 0], rel=1e-4)


def test_deposited_and_escaping_energy_are_the_emitted_energy():
    shape = (20, 17, 23)
    tia = RNG.random(shape)
    for name in ("local", "kernel"):
        built = engine(name, shape, "I-131")
        deposited = built.energy(tia).sum(dtype=float)
        escaping = (tia * built.escaping_fraction(np.ones(shape, bool))).sum() * built.emitted_kev * JOULE_PER_MBQ_H_KEV
        assert deposited + escaping == pytest.approx(tia.sum() * emissions("I-131").total_kev * JOULE_PER_MBQ_H_KEV, rel=2e-3)


def test_dose_is_linear_in_activity():
    a, b = RNG.random((2, 12, 13, 14))
    built = engine("kernel", a.shape)
    both = built.energy(2 * a + 3 * b)
    assert both == pytest.approx(2 * built.energy(a) + 3 * built.energy(b), rel=1e-5)


def test_uniform_activity_reaches_equilibrium_in_the_middle():
    """Electrons everywhere; photons of soft X rays and gammas as far as the grid reaches."""
    shape = (40, 40, 40)
    dose = absorbed_dose(np.ones(shape), (10.0, 10.0, 10.0), "Y-90", engine="kernel")
    assert dose[20, 20, 20] == pytest.approx(nuclide("Y-90").electron_energy_kev * JOULE_PER_MBQ_H_KEV * 1000, rel=2e-3)
    lu = absorbed_dose(np.ones(shape), (10.0, 10.0, 10.0), "Lu-177", engine="kernel")
    electrons = nuclide("Lu-177").electron_energy_kev * JOULE_PER_MBQ_H_KEV * 1000
    photons = lu[20, 20, 20] - electrons
    within_20_cm = 23.9 * JOULE_PER_MBQ_H_KEV * 1000  # published absorbed energy inside a sphere of 20 cm
    assert within_20_cm * 0.98 < photons < within_20_cm * 1.15


@pytest.mark.parametrize("name", ["Lu-177", "Y-90"])
def test_at_the_surface_of_thick_activity_electrons_give_half_of_the_dose_inside(name):
    """Two halves make a whole: what a half-space gives at equal depth inside and outside adds up to the equilibrium."""
    half = np.zeros((28, 24, 24))
    half[:14] = 1.0
    dose = absorbed_dose(half, (2.0,) * 3, name, engine="kernel")[:, 12, 12]
    inside = nuclide(name).electron_energy_kev * JOULE_PER_MBQ_H_KEV * 1000 / 0.008  # MBq h in a voxel of 8 mm3
    surface = 0.5 * (dose[13] + dose[14])
    assert surface / dose[4] == pytest.approx(0.5, abs=0.02)
    assert dose[4] == pytest.approx(inside, rel=0.06)  # and some photons
    assert dose[13] > surface > dose[14]


@pytest.mark.parametrize("name", ["Lu-177", "F-18"])
def test_the_coarse_photon_grid_agrees_with_the_full_one(name):
    shape = (30, 33, 27)
    tia = np.zeros(shape)
    tia[14:19, 14:19, 12:16] = 1.0
    tia[5, 25, 20] = 30.0
    split, exact = (absorbed_dose(tia, (4.8,) * 3, name, engine="kernel", exact=e) for e in (False, True))
    assert split[tia > 0] == pytest.approx(exact[tia > 0], rel=2e-3)
    assert split == pytest.approx(exact, rel=0.015, abs=1e-6 * float(exact.max()))
    assert split.sum() == pytest.approx(exact.sum(), rel=1e-3)


def test_turning_the_axes_turns_the_dose():
    tia = RNG.random((8, 9, 10))
    dose = absorbed_dose(tia, SPACING, "Lu-177", engine="kernel", exact=True)
    turned = absorbed_dose(tia.transpose(2, 0, 1), (SPACING[2], SPACING[0], SPACING[1]), "Lu-177", engine="kernel", exact=True)
    assert turned == pytest.approx(dose.transpose(2, 0, 1), rel=1e-4)
    flipped = absorbed_dose(tia[::-1], SPACING, "Lu-177", engine="kernel", exact=True)
    assert flipped == pytest.approx(dose[::-1], rel=1e-4)


def test_float32_agrees_with_a_direct_double_sum():
    tia = RNG.random((6, 7, 5))
    kernel = RNG.random((6, 7, 5))
    found = Convolution(kernel, tia.shape)(tia.astype(np.float32))
    direct = np.zeros(tia.shape)
    for source in np.ndindex(*tia.shape):
        away = np.ix_(*(np.abs(np.arange(n) - s) for n, s in zip(tia.shape, source, strict=True)))
        direct += tia[source] * kernel[away]
    assert found == pytest.approx(direct, rel=1e-5)


@pytest.mark.parametrize("shape", [(4, 6, 8), (5, 7, 3), (1, 2, 9)])
def test_the_way_to_the_coarse_grid_and_back_keeps_sums_and_constants(shape):
    array = RNG.random(shape).astype(np.float32)
    blocks = coarsened(array)
    assert blocks.shape == coarse_shape(shape)
    assert blocks.sum(dtype=float) == pytest.approx(array.sum(dtype=float), rel=1e-6)
    assert prolonged(np.full(blocks.shape, 8.0, np.float32), shape) == pytest.approx(np.ones(shape))


def test_a_single_voxel_and_a_thin_slab_work():
    for shape in ((1, 1, 1), (1, 30, 2)):
        dose = absorbed_dose(np.ones(shape), SPACING, "Lu-177", engine="kernel")
        assert dose.shape == shape
        assert (dose > 0).all()


def test_energy_is_divided_by_each_voxels_own_mass():
    tia = RNG.random((9, 9, 9)).astype(np.float32)
    density = RNG.uniform(0.5, 1.9, tia.shape)
    plain, dense = (absorbed_dose(tia, SPACING, "Lu-177", d, engine="kernel") for d in (None, density))
    assert dense * density == pytest.approx(plain, rel=1e-5)


def test_air_takes_no_dose_and_thin_lung_is_floored():
    tia = np.ones((4, 4, 4))
    density = np.full(tia.shape, 1.0)
    density[0], density[1] = 0.0012, 0.1
    dose = absorbed_dose(tia, SPACING, "Lu-177", density)
    assert (dose[0] == 0).all()
    assert dose[1] == pytest.approx(dose[2] / FLOOR_G_CM3, rel=1e-5)
    mass = mass_kg(density.astype(np.float32), SPACING)
    assert ((mass == 0) == (density < AIR_BELOW_G_CM3)).all()


def test_materials_give_their_density():
    material = np.full((2, 2, 2), MATERIALS.index("cortical_bone"))
    bone, water = (absorbed_dose(np.ones((2, 2, 2)), SPACING, "Lu-177", material=m) for m in (material, None))
    assert bone * 1.92 == pytest.approx(water, rel=1e-5)


def test_progeny_are_included_unless_asked_otherwise():
    tia = np.ones((1, 1, 1))
    with_all, alone = (absorbed_dose(tia, SPACING, "Ac-225", progeny=p)[0, 0, 0] for p in ("equilibrium", "none"))
    assert with_all / alone == pytest.approx((27996 + 689.6) / (5892.0 + 24.76), rel=1e-3)


def test_a_cache_is_filled_once_and_gives_the_same_dose():
    cache = {}
    tia = RNG.random((10, 10, 10))
    first = absorbed_dose(tia, SPACING, "Lu-177", engine="kernel", cache=cache)
    held = {k: id(v) for k, v in cache.items()}
    second = absorbed_dose(tia, SPACING, "Lu-177", engine="kernel", cache=cache)
    assert held
    assert held == {k: id(v) for k, v in cache.items()}
    assert (first == second).all()


def good():
    return {"tia_mbq_h": np.ones((3, 3, 3)), "spacing_mm": SPACING, "nuclide": "Lu-177"}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"tia_mbq_h": np.full((3, 3, 3), np.nan)}, InputError, "non-finite"),
        ({"tia_mbq_h": -np.ones((3, 3, 3))}, InputError, "negative"),
        ({"tia_mbq_h": np.ones((3, 3))}, GeometryError, "three"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, GeometryError, "spacing"),
        ({"spacing_mm": (1.0, np.nan, 1.0)}, GeometryError, "spacing"),
        ({"nuclide": "Hf-177"}, InputError, "Hf-177"),
        ({"density_g_cm3": np.zeros((3, 3, 3))}, InputError, "density"),
        ({"density_g_cm3": np.ones((3, 3, 4))}, GeometryError, "grid"),
        ({"material": np.full((3, 3, 3), 99)}, InputError, "material"),
        ({"engine": "magic"}, ModelError, "magic"),
        ({"engine": "kernel", "wrong": 1}, ModelError, "wrong"),
    ],
)
def test_input_without_meaning_is_refused(change, error, words):
    with pytest.raises(error, match=words):
        absorbed_dose(**{**good(), **change})
