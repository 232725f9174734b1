"""The Monte Carlo engine against tables that another code (EGSnrc) made: point kernels, voxel S values, a lung interface.

The tests that run by default follow few decays and allow for their statistics; those marked `long` hold the full tolerances.
"""

import csv
from pathlib import Path

import numpy as np
import pytest

from tdt_core.dosimetry import MATERIALS
from tdt_core.dosimetry.montecarlo.composition import medium
from tdt_core.dosimetry.montecarlo.geometry import make_grid
from tdt_core.dosimetry.montecarlo.run import simulate
from tdt_core.dosimetry.montecarlo.source import make_source, spectra_source
from tdt_core.dosimetry.montecarlo.stopping import collision_kev_cm2_g
from tdt_core.dosimetry.montecarlo.tables import cut_for, tables
from tdt_core.nuclides import Spectrum, emissions
from tdt_core.parameters import packaged_csv

DATA = Path(__file__).parent / "data"
NONE = Spectrum(np.empty(0), np.empty(0))
WATER, LUNG = MATERIALS.index("water"), MATERIALS.index("lung")
MGY_G_PER_KEV = 1.602176634e-4  # mGy g/(MBq s) of 1 keV per decay


def rows(name):
    return list(csv.DictReader(x for x in (DATA / name).read_text().splitlines() if not x.startswith("#")))


def point_source(spectrum, radii_cm, decays, *, photons=False, cut_kev=1.0, reject_cm):
    """(radii,) share of the emitted energy within each radius of a point in endless water, and its statistical sd."""
    physics = tables(cut_kev)
    pair = (NONE, spectrum) if photons else (spectrum, NONE)
    source = spectra_source(*pair, local_electron_kev=1.0, local_photon_kev=1.0)
    one = np.full((1, 1, 1), WATER)
    grid = make_grid(one, np.ones(one.shape), (1e5,) * 3, physics, reject_cm=reject_cm, radii_cm=radii_cm)
    found = simulate(np.ones(one.shape), physics, grid, source, decays=decays, at_centre=True)
    within = np.cumsum(found.shells_kev)[:-1] / found.emitted_kev
    return within, np.sqrt(np.cumsum(found.shells_sd_kev**2))[:-1] / found.emitted_kev


def line(energy_kev):
    return Spectrum(np.array([energy_kev]), np.array([1.0]))


def electrons_within(row, decays):
    columns = [c for c in row if c.startswith("xi_")]
    expected = np.array([float(row[c]) for c in columns])
    energy, csda = float(row["E_keV"]), float(row["R_CSDA_g_cm2"])
    radii = np.array([float(c[3:]) for c in columns]) * csda
    cut = max([c for c in (1.0, 2.0, 5.0, 10.0, 20.0, 50.0) if c <= 0.02 * energy], default=1.0)
    found, sd = point_source(line(energy), radii, decays, cut_kev=cut, reject_cm=0.005 * csda)
    return found, sd, expected


def photons_within(row, decays):
    columns = [c for c in row if c.startswith("r_")]
    expected = np.minimum([float(row[c]) for c in columns], 1.0)
    radii = np.array([float(c[2:]) for c in columns])
    found, sd = point_source(line(float(row["E_keV"])), radii, decays, photons=True, reject_cm=2e-4)
    return found, sd, expected


ELECTRON_ROWS, PHOTON_ROWS = packaged_csv("dpk_electron_water.csv"), packaged_csv("ppk_photon_water.csv")


def named(row):
    return row["E_keV"]


@pytest.mark.parametrize("row", [r for r in ELECTRON_ROWS if r["E_keV"] in ("20", "150", "1000")], ids=named)
def test_electron_point_kernels(row):
    found, sd, expected = electrons_within(row, 4000)
    assert np.all(np.abs(found - expected) <= 0.01 + 4 * sd)


@pytest.mark.parametrize("row", [r for r in PHOTON_ROWS if r["E_keV"] in ("10", "60", "200")], ids=named)
def test_photon_point_kernels(row):
    found, sd, expected = photons_within(row, 6000)
    assert np.all(np.abs(found - expected) <= 0.01 + 4 * sd)


@pytest.mark.long
@pytest.mark.parametrize("row", ELECTRON_ROWS, ids=named)
def test_every_electron_point_kernel_is_within_one_and_a_half_percent_of_the_energy(row):
    found, _, expected = electrons_within(row, 60_000)
    assert np.abs(found - expected).max() <= 0.015


@pytest.mark.long
@pytest.mark.parametrize("row", PHOTON_ROWS, ids=named)
def test_every_photon_point_kernel_is_within_one_and_a_half_percent_of_the_energy(row):
    found, _, expected = photons_within(row, 60_000)
    assert np.abs(found - expected).max() <= 0.015


def alike(values):
    """Mean over mirror images and permutations of the axes of a cube, the centre voxel first."""
    n = values.shape[0] // 2
    for axis in range(3):
        values = (values + np.flip(values, axis)) / 2
    octant = values[n:, n:, n:]
    return sum(octant.transpose(p) for p in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))) / 6


def voxel_s(name, edge_mm, decays):
    """S of cubic voxels around one source voxel, mGy/(MBq s), and its statistical sd (an upper bound away from the source)."""
    n = 17
    shape, spacing = (n, n, n), (edge_mm,) * 3
    weights = np.zeros(shape)
    weights[n // 2, n // 2, n // 2] = 1.0
    physics = tables(cut_for(spacing))
    grid = make_grid(np.full(shape, WATER), np.ones(shape), spacing, physics)
    found = simulate(weights, physics, grid, make_source(emissions(name)), decays=decays)
    unit = MGY_G_PER_KEV / (edge_mm / 10.0) ** 3
    return alike(found.energy_kev) * unit, np.sqrt(alike(found.sd_kev**2)) * unit


def _assert_voxel_s(name, edge_mm, decays, tolerance, sigmas):
    s, sd = voxel_s(name, edge_mm, decays)
    for row in rows("voxel_s_values_water.csv"):
        if row["nuclide"] != name or float(row["voxel_mm"]) != edge_mm:
            continue
        at = tuple(int(row[c]) for c in "ijk")
        expected, u1 = float(row["S_norm"]), float(row["u1_stat"])
        # mirror images and permutations: 6 face, 12 edge, 8 corner neighbours
        images = {1: 1, 2: 6, 3: 12, 4: 8}[1 + sum(i > 0 for i in at)]
        # where the last betas and bremsstrahlung meet, the table rests on few histories (it says 15 to 40 %); at (0, 2, 2) the
        # point kernels, made from another run of the same code, give 1.54 of it and this engine 1.5 to 1.7
        least = 0.5 if name == "Y-90" and expected < 1e-5 else tolerance
        allowed = least * expected + sigmas * np.hypot(u1, sd[at] / np.sqrt(images))
        assert abs(s[at] - expected) <= allowed, (at, s[at] / expected)


@pytest.mark.parametrize(("name", "edge_mm"), [("Lu-177", 3.0), ("Y-90", 4.8)])
def test_voxel_s_values(name, edge_mm):
    _assert_voxel_s(name, edge_mm, 40_000, 0.015, 4)


@pytest.mark.long
@pytest.mark.parametrize(("name", "edge_mm"), [("Lu-177", 3.0), ("Lu-177", 4.8), ("Y-90", 4.8), ("I-131", 3.0)])
def test_voxel_s_values_with_many_decays(name, edge_mm):
    _assert_voxel_s(name, edge_mm, 3_000_000, 0.015, 3)


def lung_interface(decays):
    """(21,) dose by layer over the reference, and the relative statistical sd of both, of Y-90 in water beside lung.

    As in the reference, sideways translation stands for the wide source: one column emits, each layer collects from its 21 x 21
    voxels. Four layers around the grid stand for the media that go on.
    """
    spacing, margin = (4.8,) * 3, 4
    shape = (21 + 2 * margin,) * 3
    material, density, weights = np.full(shape, WATER), np.ones(shape), np.zeros(shape)
    material[margin + 11 :], density[margin + 11 :] = LUNG, 0.26
    weights[margin : margin + 11, margin + 10, margin + 10] = 1.0
    physics = tables(cut_for(spacing))
    grid = make_grid(material, density, spacing, physics)
    inner = slice(margin, -margin)
    source = make_source(emissions("Y-90"))
    found = [simulate(weights, physics, grid, source, decays=decays // 10, seed=seed) for seed in range(10)]
    runs = np.array([f.energy_kev[inner, inner, inner].sum(axis=(1, 2)) for f in found])
    table = rows("hetero_water_lung_y90.csv")
    expected = np.array([float(r["S_electron_central"]) for r in table])
    u1 = np.array([float(r["u1_electron_central"]) for r in table]) / expected
    ratio = runs.mean(axis=0) * 11 * MGY_G_PER_KEV / (0.48**3 * density[inner, 0, 0]) / expected
    return ratio, np.hypot(u1, runs.std(axis=0, ddof=1) / np.sqrt(10) / runs.mean(axis=0))


def _assert_lung(decays, sigmas):
    ratio, sd = lung_interface(decays)
    tolerance = np.full(21, 0.03)
    tolerance[11] = 0.05
    assert np.all(np.abs(ratio - 1) <= np.maximum(tolerance, sigmas * sd)), (ratio.round(3), sd.round(3))


def test_the_dose_beside_lung_that_kernels_get_wrong():
    """The homogeneous kernel is 65 % too high in the first lung layer (test_voxel_s_values)."""
    ratio, sd = lung_interface(100_000)
    assert np.all(np.abs(ratio[:12] - 1) <= 0.03 + 4 * sd[:12])
    assert ratio[11] == pytest.approx(1.0, abs=0.05)


@pytest.mark.long
def test_the_lung_interface_with_many_decays():
    _assert_lung(8_000_000, 3)


def test_collision_stopping_power_of_water_is_that_of_estar():
    """NIST ESTAR; keV and MeV cm2/g."""
    estar = {10: 22.56, 50: 6.603, 100: 4.115, 500: 2.034, 1000: 1.849, 2000: 1.824, 3000: 1.846}
    found = collision_kev_cm2_g(medium("water"), np.array(list(estar), float)) / 1000
    assert found == pytest.approx(list(estar.values()), rel=2.5e-3)
