"""Laws of the engine of several media: what it shares with the kernel, energy, linearity, reciprocity, density."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdt_core.dosimetry import (
    MATERIALS,
    EngineSetting,
    absorbed_dose,
    build_engine,
    credible_dose,
    engines,
    voxel_s_values,
)
from tdt_core.dosimetry.density import FLOOR_G_CM3
from tdt_core.dosimetry.engines.multimedium import media
from tdt_core.dosimetry.rays import bundle, depth_table
from tdt_core.dosimetry.s_values import point_kernels
from tdt_core.dosimetry.scaled_photons import hats, nodes, surroundings
from tdt_core.dosimetry.units import JOULE_PER_MBQ_H_KEV
from tdt_core.errors import GeometryError, InputError, ModelError

RNG = np.random.default_rng(8)
SPACING = (5.0, 4.0, 4.5)
LUNG, WATER, BONE = (MATERIALS.index(m) for m in ("lung", "water", "cortical_bone"))


def engine(nuclide, density, spacing=SPACING, **more):
    options = {k: more.pop(k) for k in ("rays", "tolerance", "workers") if k in more}
    return build_engine(
        "multimedium", EngineSetting(nuclide, spacing, np.asarray(density, np.float32), options=options, **more)
    )


def body(shape=(14, 13, 12)):
    """Water with a lung, a bone and air on one side."""
    density = np.ones(shape, np.float32)
    density[:5, 3:9, :] = 0.26
    density[8:10, 4:7, 4:7] = 1.92
    density[:, :, -2:] = 0.0012
    return density


def test_the_engine_is_found_by_name():
    assert "multimedium" in engines()


@pytest.mark.parametrize("name", ["Lu-177", "Y-90", "I-131", "Ac-225"])
def test_in_water_it_is_the_kernel_to_rounding(name):
    tia = RNG.random((13, 12, 14))
    both = [absorbed_dose(tia, SPACING, name, engine=e) for e in ("multimedium", "kernel")]
    assert both[0] == pytest.approx(both[1], rel=2e-5, abs=1e-6 * float(both[1].max()))


@settings(max_examples=8, deadline=None)
@given(density=st.floats(0.2, 2.0), name=st.sampled_from(["Lu-177", "Y-90", "I-131"]))
def test_a_uniform_medium_has_the_dose_of_stretched_voxels_times_density_squared(density, name):
    tia = np.zeros((9, 9, 9))
    tia[4, 4, 4] = 1.0
    dense = absorbed_dose(tia, SPACING, name, density, engine="multimedium")
    stretched = absorbed_dose(tia, tuple(s * density for s in SPACING), name, engine="multimedium")
    assert dense[3:6, 3:6, 3:6] == pytest.approx(density**2 * stretched[3:6, 3:6, 3:6], rel=0.01)


@pytest.mark.parametrize("medium", ["lung", "cortical_bone", "adipose", "soft_tissue"])
def test_a_uniform_medium_has_the_voxel_s_values_of_that_medium(medium):
    tia = np.zeros((9, 9, 9))
    tia[4, 4, 4] = 1.0 / 3600.0
    material = np.full(tia.shape, MATERIALS.index(medium))
    dose = absorbed_dose(tia, SPACING, "Y-90", material=material, engine="multimedium") * 1000
    expected = voxel_s_values("Y-90", SPACING, 4, medium=medium)
    seen = expected > 1e-4 * expected.max()
    assert dose[seen] == pytest.approx(expected[seen], rel=1e-3)


@pytest.mark.parametrize("name", ["Lu-177", "Y-90"])
def test_dose_is_linear_in_activity_in_mixed_media(name):
    a, b = RNG.random((2, 14, 13, 12))
    built = engine(name, body(), rays=256)
    both = built.energy(2 * a + 3 * b)
    assert both == pytest.approx(2 * built.energy(a) + 3 * built.energy(b), rel=1e-4, abs=1e-6 * float(both.max()))


@pytest.mark.parametrize("name", ["Lu-177", "Y-90", "I-131", "Ra-223"])
def test_deposited_and_escaping_energy_are_the_emitted_energy(name):
    density = body()
    built = engine(name, density, rays=256)
    absorbing = density >= 0.05
    tia = np.where(absorbing, RNG.random(density.shape), 0.0)
    deposited = built.energy(tia)[absorbing].sum(dtype=float)
    escaping = (tia * built.escaping_fraction(absorbing)).sum(dtype=float) * built.emitted_kev * JOULE_PER_MBQ_H_KEV
    assert deposited + escaping == pytest.approx(tia.sum() * built.emitted_kev * JOULE_PER_MBQ_H_KEV, rel=2e-3)


def test_electrons_lose_no_energy_where_media_meet():
    """Far from the rim everything that Y-90 emits but bremsstrahlung stays, whatever lies in the way."""
    shape = (41, 41, 41)
    density = RNG.choice([0.26, 0.95, 1.0, 1.92], shape).astype(np.float32)
    tia = np.zeros(shape)
    tia[20, 20, 20] = 1.0
    electrons, photons = (getattr(point_kernels("Y-90"), name).total_kev for name in ("electrons", "photons"))
    energy = engine("Y-90", density, (4.0,) * 3).energy(tia).sum(dtype=float) / JOULE_PER_MBQ_H_KEV
    assert electrons * 0.998 < energy < electrons * 1.002 + photons


@pytest.mark.parametrize(("name", "rel"), [("Lu-177", 0.05), ("Y-90", 0.03)])
def test_energy_is_exchanged_in_proportion_to_density(name, rel):
    """Reciprocity across an interface: dose from water to lung is dose from lung to water (one k)."""
    density = np.ones((14, 9, 9), np.float32)
    density[:7] = 0.26
    doses = []
    for source, target in ((6, 7), (7, 6)):
        tia = np.zeros(density.shape)
        tia[source, 4, 4] = 1.0
        doses.append(absorbed_dose(tia, (4.0,) * 3, name, density, engine="multimedium", rays=16384)[target, 4, 4])
    assert doses[0] == pytest.approx(doses[1], rel=rel)


def test_far_from_other_media_each_half_has_its_own_kernel():
    density = np.ones((40, 9, 9), np.float32)
    density[:20] = 0.5
    tia = np.zeros(density.shape)
    tia[5, 4, 4] = tia[34, 4, 4] = 1.0 / 3600.0
    dose = absorbed_dose(tia, (4.0,) * 3, "Y-90", density, engine="multimedium") * 1000
    for z, rho in ((5, 0.5), (34, 1.0)):
        assert dose[z, 3:6, 3:6] == pytest.approx(voxel_s_values("Y-90", (4.0,) * 3, 1, density_g_cm3=rho)[1], rel=1e-3)


def test_more_rays_change_little_and_threads_change_nothing():
    density = body((40, 8, 7))
    tia = RNG.random(density.shape)
    few, many, threads = (
        absorbed_dose(tia, SPACING, "Y-90", density, engine="multimedium", **o) for o in ({}, {"rays": 4096}, {"workers": 3})
    )
    assert (few == threads).all()
    assert few == pytest.approx(many, rel=0.04)
    assert np.median(np.abs(few / np.where(many > 0, many, 1) - 1)[many > 0]) < 0.005


def test_turning_the_axes_turns_the_dose_but_for_the_rays():
    density = body((11, 8, 7))
    tia = RNG.random(density.shape)
    dose = absorbed_dose(tia, SPACING, "Y-90", density, engine="multimedium", rays=4096)
    turned = absorbed_dose(
        tia.transpose(2, 0, 1), (SPACING[2], SPACING[0], SPACING[1]), "Y-90", density.transpose(2, 0, 1), engine="multimedium",
        rays=4096,
    )  # fmt: skip
    assert turned == pytest.approx(dose.transpose(2, 0, 1), rel=0.02)
    flipped = absorbed_dose(tia[::-1], SPACING, "Y-90", density[::-1], engine="multimedium")
    assert flipped == pytest.approx(absorbed_dose(tia, SPACING, "Y-90", density, engine="multimedium")[::-1], rel=1e-3)


def test_small_differences_of_density_do_not_start_rays_and_large_ones_do():
    quiet = 1.0 + 0.02 * RNG.standard_normal((12, 12, 12)).clip(-2, 2)
    assert engine("Lu-177", quiet)._walk is None
    quiet[4] = 0.3
    mixed = engine("Lu-177", quiet)._mixed
    assert mixed[4].all()
    assert not mixed[10].any()


def test_common_values_stand_for_their_neighbours():
    areal = np.concatenate([np.full(90, 1.03), np.linspace(0.98, 1.09, 9), [0.26, 1.9]]).reshape(1, 1, -1)
    found = media(areal.astype(np.float32), 0.08)
    assert found[0][0] == pytest.approx(1.03, abs=0.01)
    assert sum(m.sum() for _, m in found) == areal.size
    for a, voxels in found:
        assert (np.abs(areal[voxels] / a - 1) < 0.09).all()


def test_activity_in_air_gives_no_dose_there_and_no_error():
    density = body()
    tia = np.zeros(density.shape)
    tia[7, 6, -1] = 1.0
    dose = absorbed_dose(tia, SPACING, "Y-90", density, engine="multimedium")
    assert (dose[density < 0.05] == 0).all()
    assert (dose >= 0).all()


def test_thin_lung_is_taken_at_the_floor_on_both_sides_of_the_division():
    thin, floor = np.full((7, 7, 7), 0.08), np.full((7, 7, 7), FLOOR_G_CM3)
    tia = RNG.random(thin.shape)
    both = [absorbed_dose(tia, SPACING, "Y-90", d, engine="multimedium") for d in (thin, floor)]
    electrons = voxel_s_values("Y-90", SPACING, 0, density_g_cm3=FLOOR_G_CM3)
    assert electrons > 0
    assert both[0] == pytest.approx(both[1], rel=0.01)


def test_rays_cross_what_they_should():
    edges = (0.5, 0.4, 0.3)
    rays = bundle(edges, 2.0, 8000)
    assert rays.rays == 8192
    lengths = np.add.reduceat(rays.length_cm, rays.first[:-1])
    assert lengths == pytest.approx(2.0, rel=1e-4)
    assert (rays.step[rays.first[:-1]] == 0).all()  # they start in their own voxel
    jumps = np.abs(np.diff(rays.step.astype(int), axis=0)).sum(axis=1)
    inside = np.ones(jumps.size, bool)
    inside[rays.first[1:-1] - 1] = False
    assert (jumps[inside] <= 3).all()
    own = rays.length_cm[rays.first[:-1]].mean()
    assert own == pytest.approx(mean_chord_from_inside(edges), rel=0.02)


def mean_chord_from_inside(edges):
    """Mean distance to the surface from random points in random directions: the slow twin."""
    rng = np.random.default_rng(0)
    start = rng.random((200_000, 3)) * edges
    heading = rng.standard_normal((200_000, 3))
    heading /= np.linalg.norm(heading, axis=1)[:, None]
    to_face = np.where(heading > 0, np.array(edges) - start, start) / np.abs(heading)
    return to_face.min(axis=1).mean()


def test_the_depth_table_is_the_kernel():
    kernel = point_kernels("Y-90").electrons
    table = depth_table(kernel)
    depth = table.end_g_cm2 * np.linspace(0, 1, table.cumulative_kev.size) ** 2
    middle = (depth[1:] + depth[:-1]) / 2
    found = np.interp(middle, depth, table.cumulative_kev) + kernel.local_kev
    assert found == pytest.approx(kernel.within(middle), abs=1e-4 * kernel.total_kev)


def test_densities_around_a_voxel_leave_air_out_and_hats_sum_to_one():
    density = body()
    around = surroundings(density, 0.05, (0.5, 0.4, 0.45))
    solid = density[density > 0.05]
    assert solid.min() <= around.min() <= around.max() <= solid.max()
    node = nodes(around)
    assert sum(hats(around, node)) == pytest.approx(np.ones(density.shape), rel=1e-5)
    assert nodes(np.ones((2, 2, 2), np.float32)) == pytest.approx([1.0])


def good():
    return {"tia_mbq_h": np.ones((3, 3, 3)), "spacing_mm": SPACING, "nuclide": "Lu-177", "engine": "multimedium"}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"material": np.full((3, 3, 3), 99)}, InputError, "material"),
        ({"material": np.full((3, 3, 3), 99), "density_g_cm3": 1.0}, InputError, "material"),
        ({"material": np.full((3, 3, 4), WATER), "density_g_cm3": 1.0}, GeometryError, "grid"),
        ({"rays": 1}, ModelError, "rays"),
        ({"tolerance": -0.1}, ModelError, "tolerance"),
        ({"wrong": 1}, ModelError, "wrong"),
    ],
)
def test_input_without_meaning_is_refused(change, error, words):
    with pytest.raises(error, match=words):
        absorbed_dose(**{**good(), **change})


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 30, 2), (3, 1, 1)])
@pytest.mark.parametrize("name", ["Lu-177", "Y-90", "Fe-55", "Ac-225"])
def test_single_voxels_thin_slabs_and_soft_emitters_work(shape, name):
    density = np.linspace(0.2, 1.9, int(np.prod(shape))).reshape(shape)
    dose = absorbed_dose(np.ones(shape), SPACING, name, density, engine="multimedium", progeny="none")
    assert dose.shape == shape
    assert np.isfinite(dose).all()
    assert (dose > 0).all()


def test_a_body_of_nothing_but_air_takes_no_dose():
    dose = absorbed_dose(np.ones((4, 4, 4)), SPACING, "Y-90", 0.001, engine="multimedium")
    assert (dose == 0).all()


def test_credible_doses_balance_their_energy_in_several_media():
    density = body((20, 13, 12))
    masks = {"organ": np.zeros(density.shape, bool), "rest": np.zeros(density.shape, bool)}
    masks["organ"][4:8, 4:8, 2:6] = True
    masks["rest"] = (density > 0.05) & ~masks["organ"]
    weights = {name: m / m.sum() for name, m in masks.items()}
    tia = np.random.default_rng(0).lognormal(0.0, 0.2, (10, 2)) * (100.0, 50.0)
    found = credible_dose(weights, tia, masks, spacing_mm=SPACING, nuclide="Y-90", density_g_cm3=density, engine="multimedium")
    assert found.conservation["balance_relative_difference"] < 5e-3
    assert found.region_dose_gy[:, 0].mean() == pytest.approx(found.mean_gy[masks["organ"]].mean(), rel=1e-4)
