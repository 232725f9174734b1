"""Laws of kernels and S values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdt_core.dosimetry import sphere_s_value, voxel_s_values
from tdt_core.dosimetry.boxes import mirrored, octant_kev
from tdt_core.dosimetry.density import medium_density_g_cm3, medium_electron_k
from tdt_core.dosimetry.radial import RadialKernel, electron_kernel
from tdt_core.dosimetry.s_values import media_kernels, point_kernels, sphere_absorbed_kev
from tdt_core.errors import GeometryError, InputError
from tdt_core.nuclides import Spectrum, emissions
from tdt_core.nuclides.spectra import join

KEV_KG_TO_MGY = 1.602176634e-7
NAMES = ("Lu-177", "Tb-161", "Y-90", "I-131", "Sm-153", "Ho-166", "Cu-64", "F-18", "In-111", "Tc-99m", "Ra-223", "Ac-225")
NAMES += ("Pb-212",)

edges = st.floats(1.0, 8.0)


@pytest.mark.parametrize("name", NAMES)
def test_the_point_kernel_of_a_chain_deposits_what_is_emitted(name):
    """Within 100 cm; hard gamma rays (Tl-208 of Pb-212) leave 0.4 % beyond."""
    kernels = point_kernels(name)
    deposited = kernels.electrons.total_kev + kernels.photons.total_kev
    assert deposited <= kernels.emitted_kev * (1 + 1e-6)
    assert deposited == pytest.approx(kernels.emitted_kev, rel=0.005)


def test_voxels_together_take_the_whole_energy():
    edges_cm = (0.3, 0.2, 0.25)
    electrons = point_kernels("Y-90").electrons
    energy = mirrored(octant_kev(electrons, edges_cm, (9, 9, 9)))
    assert energy.sum() == pytest.approx(electrons.total_kev, rel=1e-3)


def test_a_full_range_photon_kernel_takes_the_whole_photon_energy():
    photons = point_kernels("Lu-177").photons
    edge = 2.5
    energy = mirrored(octant_kev(photons, (edge, edge, edge), (41, 41, 41)))
    assert energy.sum() == pytest.approx(photons.total_kev, rel=5e-3)


def test_the_self_term_never_exceeds_what_is_emitted():
    for name in NAMES:
        s = voxel_s_values(name, (3.0, 3.0, 3.0), 1)
        assert (s.sum() * 27e-6) / KEV_KG_TO_MGY < emissions(name).total_kev


@settings(max_examples=15, deadline=None)
@given(a=edges, b=edges, c=edges, density=st.floats(0.3, 2.0))
def test_density_scales_with_its_square_and_the_stretched_voxel(a, b, c, density):
    dense = voxel_s_values("Lu-177", (a, b, c), 2, density_g_cm3=density)
    stretched = voxel_s_values("Lu-177", (a * density, b * density, c * density), 2)
    assert dense == pytest.approx(density**2 * stretched, rel=2e-3)


MEDIA = st.sampled_from(["water", "soft_tissue", "lung", "cortical_bone", "red_marrow", "adipose"])


@settings(max_examples=20, deadline=None)
@given(a=edges, b=edges, c=edges, medium=MEDIA, factor=st.floats(0.5, 2.0), name=st.sampled_from(["Lu-177", "Y-90", "I-131"]))
def test_in_every_medium_density_scales_with_its_square_and_the_stretched_voxel(a, b, c, medium, factor, name):
    rho = medium_density_g_cm3(medium)
    dense = voxel_s_values(name, (a, b, c), 1, medium=medium, density_g_cm3=rho * factor)
    stretched = voxel_s_values(name, (a * factor, b * factor, c * factor), 1, medium=medium)
    assert dense == pytest.approx(factor**2 * stretched, rel=3e-3)


@settings(max_examples=15, deadline=None)
@given(a=edges, b=edges, c=edges, medium=MEDIA)
def test_electrons_of_a_medium_are_those_of_water_at_density_times_k(a, b, c, medium):
    """F_medium(t) = F_water(k t), t the areal depth: the same energy as in water stretched by k and density."""
    scale = medium_density_g_cm3(medium) * medium_electron_k(medium)
    electrons, _, _ = media_kernels("Y-90", "equilibrium", medium, None)
    found = octant_kev(electrons, (a / 10, b / 10, c / 10), (2, 2, 2))
    water = octant_kev(point_kernels("Y-90").electrons, (a * scale / 10, b * scale / 10, c * scale / 10), (2, 2, 2))
    assert found == pytest.approx(water, rel=3e-3, abs=1e-6 * float(water.max()))


@settings(max_examples=15, deadline=None)
@given(a=edges, b=edges, c=edges, medium=MEDIA)
def test_in_every_medium_equal_voxels_exchange_equally_and_axes_permute(a, b, c, medium):
    s = voxel_s_values("I-131", (a, b, c), 2, medium=medium)
    assert s == pytest.approx(s[::-1, ::-1, ::-1], rel=1e-12)
    assert s == pytest.approx(voxel_s_values("I-131", (c, a, b), 2, medium=medium).transpose(1, 2, 0), rel=1e-9)
    assert s.argmax() == s.size // 2


@settings(max_examples=10, deadline=None)
@given(p=st.floats(0.05, 0.95), a=edges, medium=MEDIA)
def test_values_are_linear_in_the_emissions(p, a, medium):
    """Half the decays give half the energy: kernels of a mixture of two spectra are the mixture of their kernels."""
    lines = [Spectrum(np.array([e]), np.array([y])) for e, y in ((150.0, p), (900.0, 1 - p))]
    scale = medium_density_g_cm3(medium) * medium_electron_k(medium)
    box = ((a / 10,) * 3, (2, 2, 2))
    mixed = octant_kev(electron_kernel(join(lines))[0].stretched(scale), *box)
    apart = sum(octant_kev(electron_kernel(line)[0].stretched(scale), *box) for line in lines)
    assert mixed == pytest.approx(apart, rel=5e-3, abs=1e-3 * float(mixed.max()))


@settings(max_examples=15, deadline=None)
@given(a=edges, b=edges, c=edges)
def test_permuting_the_edges_permutes_the_values(a, b, c):
    assert voxel_s_values("I-131", (a, b, c), 2) == pytest.approx(
        voxel_s_values("I-131", (c, a, b), 2).transpose(1, 2, 0), rel=1e-9
    )


def test_equal_voxels_exchange_equally():
    s = voxel_s_values("Y-90", (4.0, 3.0, 2.0), 3)
    assert s == pytest.approx(s[::-1, ::-1, ::-1], rel=1e-12)


@pytest.mark.parametrize(("axis", "offset"), [(0, (1, 0, 0)), (1, (0, 1, 1)), (2, (1, 1, 2))])
def test_the_cell_moments_agree_with_sampled_point_pairs(axis, offset):
    """The slow, obvious twin: random pairs of points in the two boxes."""
    kernel = RadialKernel(np.linspace(0, 4, 4001), 100 * (1 - np.exp(-np.linspace(0, 4, 4001))))
    edges_cm = (0.5, 0.4, 0.3)
    found = octant_kev(kernel, edges_cm, (3, 3, 3))[offset]
    rng = np.random.default_rng(axis)
    pairs = rng.random((400_000, 3)) - rng.random((400_000, 3)) + offset
    r = np.linalg.norm(pairs * edges_cm, axis=1)
    density = 100 * np.exp(-r) / (4 * np.pi * r**2) * np.prod(edges_cm)
    assert found == pytest.approx(density.mean(), abs=4 * density.std() / np.sqrt(len(r)))


def test_the_far_value_meets_the_exact_one_where_they_change_over():
    photons = point_kernels("Lu-177").photons
    exact = octant_kev(photons, (0.4, 0.3, 0.3), (8, 8, 8))
    wide = octant_kev(photons, (0.4, 0.3, 0.3), (40, 40, 40))
    assert wide[:9, :9, :9][8, 0, 0] == pytest.approx(exact[8, 0, 0], rel=2e-3)
    profile = wide[0, 0, 1:]
    assert (np.diff(profile) < 0).all()


def test_small_voxels_approach_the_point_kernel_and_large_ones_keep_everything():
    kernels = point_kernels("Lu-177")
    large = octant_kev(kernels.electrons, (20.0, 20.0, 20.0), (0, 0, 0))[0, 0, 0]
    assert large == pytest.approx(kernels.electrons.total_kev, rel=2e-3)
    small = octant_kev(kernels.electrons, (0.001, 0.001, 0.001), (0, 0, 0))[0, 0, 0]
    assert small < 0.1 * large


def test_the_sphere_formula_agrees_with_sampled_chords():
    radius, scale = 1.0, 0.7
    kernel = RadialKernel(np.linspace(0, 8, 8001), 1 - np.exp(-np.linspace(0, 8, 8001) / scale))
    rng = np.random.default_rng(1)
    directions = rng.standard_normal((400_000, 3))
    start = directions / np.linalg.norm(directions, axis=1)[:, None] * radius * rng.random((400_000, 1)) ** (1 / 3)
    step = rng.standard_normal((400_000, 3))
    step *= rng.exponential(scale, (400_000, 1)) / np.linalg.norm(step, axis=1)[:, None]
    inside = (np.linalg.norm(start + step, axis=1) < radius).mean()
    assert sphere_absorbed_kev(kernel, radius) == pytest.approx(inside, abs=0.003)


def test_sphere_dose_falls_with_mass_and_reaches_electron_equilibrium():
    masses = np.array([0.1, 1.0, 10.0, 100.0])
    s = np.array([sphere_s_value("Lu-177", m) for m in masses])
    assert (np.diff(s) < 0).all()
    electrons = KEV_KG_TO_MGY * 147.92 / (masses / 1000)
    assert (s / electrons)[-1] > 1.0  # photons on top
    assert (s / electrons)[0] < 1.0  # electrons that leave


def test_media_scale_and_unknown_media_are_refused():
    bone, water = (voxel_s_values("Lu-177", (3.0, 3.0, 3.0), 1, medium=m) for m in ("cortical_bone", "water"))
    assert bone[1, 1, 1] * 1.92 > water[1, 1, 1]  # more of the energy stays in denser stuff
    with pytest.raises(InputError, match="medium"):
        voxel_s_values("Lu-177", (3.0, 3.0, 3.0), 1, medium="butter")


def test_kernels_without_meaning_are_refused():
    with pytest.raises(GeometryError):
        voxel_s_values("Lu-177", (3.0, 0.0, 3.0), 1)
    with pytest.raises(InputError):
        voxel_s_values("Lu-177", (3.0, 3.0, 3.0), -1)
    with pytest.raises(InputError):
        sphere_s_value("Lu-177", 0.0)
    with pytest.raises(InputError):
        voxel_s_values("Lu-177", (3.0, 3.0, 3.0), 1, density_g_cm3=0.0)
