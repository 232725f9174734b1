"""Voxel and sphere S values against direct Monte Carlo (EGSnrc, infinite water); the tables stand in `data/` with settings."""

import csv
from pathlib import Path

import numpy as np
import pytest

from tdt_core.dosimetry import MATERIALS, absorbed_dose, sphere_s_value, voxel_s_values
from tdt_core.dosimetry.density import medium_electron_k
from tdt_core.dosimetry.radial import electron_kernel
from tdt_core.dosimetry.s_values import point_kernels
from tdt_core.nuclides import Spectrum
from tdt_core.nuclides.spectra import beta_spectrum

DATA = Path(__file__).parent / "data"
HALF = 6


def rows(name):
    return list(csv.DictReader(x for x in (DATA / name).read_text().splitlines() if not x.startswith("#")))


def relative(row):
    """Allowed relative difference by distance, statistics of the reference apart."""
    steps = sorted(int(row[c]) for c in "ijk")
    return {(0, 0, 0): 0.01, (0, 0, 1): 0.025, (0, 1, 1): 0.05}.get(tuple(steps), 0.08)


@pytest.mark.parametrize(("name", "edge"), [("Lu-177", 3.0), ("Lu-177", 4.8), ("Y-90", 4.8), ("I-131", 3.0)])
def test_cubic_voxels(name, edge):
    s = voxel_s_values(name, (edge, edge, edge), HALF)
    for row in rows("voxel_s_values_water.csv"):
        if row["nuclide"] == name and float(row["voxel_mm"]) == edge:
            expected, u1 = float(row["S_norm"]), float(row["u1_stat"])
            found = s[tuple(HALF + int(row[c]) for c in "ijk")]
            bremsstrahlung_only = name == "Y-90" and expected < 1e-5
            tolerance = 0.5 if bremsstrahlung_only else relative(row)
            assert abs(found - expected) <= tolerance * expected + 2 * u1, (row["i"], row["j"], row["k"], found / expected)


def test_self_and_face_are_inside_one_and_two_and_a_half_percent_without_any_allowance_for_statistics():
    for row in rows("voxel_s_values_water.csv"):
        limit = relative(row)
        if limit > 0.025:
            continue
        edge = float(row["voxel_mm"])
        s = voxel_s_values(row["nuclide"], (edge, edge, edge), 1)
        found = s[tuple(1 + int(row[c]) for c in "ijk")]
        assert found == pytest.approx(float(row["S_norm"]), rel=limit)


def test_anisotropic_voxels():
    s = voxel_s_values("Lu-177", (4.0, 2.0, 2.0), HALF)
    pulls = []
    for row in rows("voxel_s_anisotropic_lu177.csv"):
        expected, u1 = float(row["S_total"]), float(row["u1_total"])
        found = s[HALF + int(row["k"]), HALF + int(row["j"]), HALF + int(row["i"])]
        assert abs(found - expected) <= relative(row) * expected + 3 * u1
        pulls.append(found / expected - 1)
    assert abs(np.mean(pulls)) < 0.03


@pytest.mark.parametrize("row", rows("spheres_water.csv"), ids=lambda r: f"{r['nuclide']}-{r['mass_g']}g")
def test_spheres(row):
    assert sphere_s_value(row["nuclide"], float(row["mass_g"])) == pytest.approx(float(row["S_norm"]), rel=0.01)


@pytest.mark.parametrize(
    ("name", "inside"),
    [("Lu-177", (1.66, 3.15, 6.4, 13.0, 23.9, 30.1)), ("I-131", (15.6, 31.5, 63.3, 125.0, 230.0, 300.0))],
)
def test_photon_energy_absorbed_within_a_radius(name, inside):
    radius = np.array([1.25, 2.5, 5.0, 10.0, 20.0, 30.0])
    assert point_kernels(name).photons.within(radius) == pytest.approx(inside, rel=0.02)


@pytest.mark.parametrize(("name", "radii_mm"), [("Lu-177", (0.196, 0.602, 0.743, 1.016)), ("Y-90", (2.30, 5.31, 6.20, 7.95))])
def test_radius_that_holds_a_share_of_the_beta_energy(name, radii_mm):
    kernel, _ = electron_kernel(beta_spectrum(name))
    share = kernel.within(kernel.radius_cm) / kernel.total_kev
    assert np.interp((0.5, 0.9, 0.95), share, kernel.radius_cm * 10) == pytest.approx(radii_mm[:3], rel=0.02)
    assert np.interp(0.99, share, kernel.radius_cm * 10) == pytest.approx(radii_mm[3], rel=0.055)


@pytest.mark.parametrize(
    ("mass_g", "expected"),
    [(153.0, 1.5662e-4), (149.5, 1.6034e-4), (157.0, 1.5283e-4), (150.0, 1.5967e-4), (130.0, 1.8361e-4), (1799.8, 1.3713e-5)],
)
def test_spheres_of_organ_mass_are_within_two_percent_of_opendose_organs(mass_g, expected):
    """Self S of Lu-177 in ICRP 110 phantoms (kidneys, spleens, liver), OpenDose through GitHub dsarrut/rpt_dosi 0eced2a."""
    assert sphere_s_value("Lu-177", mass_g) == pytest.approx(expected, rel=0.02)


def test_two_spheres_twelve_centimetres_apart_exchange_photons_as_in_monte_carlo():
    """1 kg and 150 g of water, through the voxel pipeline at 6 mm with the far photons on the coarse grid."""
    spacing, n = 6.0, (56, 56, 76)
    z, y, x = ((np.arange(k) + 0.5 - k / 2) * spacing for k in n)
    large = z[:, None, None] ** 2 + y[:, None] ** 2 + (x + 60.0) ** 2 < 62.035**2
    small = z[:, None, None] ** 2 + y[:, None] ** 2 + (x - 60.0) ** 2 < 32.961**2
    expected, u1 = 1.1865e-7, 6.8e-11  # mGy/(MBq s), either way
    for source, target in ((large, small), (small, large)):
        tia = source / source.sum() / 3600.0 * 1.0  # 1 MBq s in all
        dose = absorbed_dose(tia, (spacing,) * 3, "Lu-177", engine="kernel")
        assert dose[target].mean() * 1000 == pytest.approx(expected, rel=0.015, abs=2 * u1)


@pytest.mark.parametrize(("name", "mass_g"), [("Lu-177", 10.0), ("I-131", 10.0), ("Y-90", 30.0)])
def test_a_sphere_through_the_voxel_pipeline_at_3_mm_is_within_two_percent(name, mass_g):
    """A sphere of whole voxels has a rougher surface than a sphere, so that a little more leaves it."""
    radius_mm = (3 * mass_g / (4 * np.pi)) ** (1 / 3) * 10
    axis = (np.arange(16) + 0.5 - 8) * 3.0
    inside = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < radius_mm**2
    dose = absorbed_dose(inside / inside.sum() / 3600.0, (3.0, 3.0, 3.0), name, engine="kernel")
    assert dose[inside].mean() * 1000 == pytest.approx(sphere_s_value(name, inside.sum() * 0.027), rel=0.02)


def test_where_the_homogeneous_kernel_stops_being_right_water_against_lung():
    """Y-90 in water beside lung: right to 1 % in water, 65 % too high in the first lung layer, far too low behind it."""
    table = rows("hetero_water_lung_y90.csv")
    tia = np.zeros((21, 21, 21))
    tia[:11] = 1.0 / 3600.0
    density = np.ones(tia.shape)
    density[11:] = 0.26
    dose = absorbed_dose(tia, (4.8, 4.8, 4.8), "Y-90", density, engine="kernel")[:, 10, 10] * 1000
    ratio = dose / np.array([float(r["S_electron_central"]) for r in table])
    assert ratio[:11] == pytest.approx(1.0, abs=0.01)
    assert 1.5 < ratio[11] < 1.8
    assert ratio[12] < 0.2


def test_several_media_water_against_lung():
    """Y-90: 1 % in water, 3 % over four lung layers, where the homogeneous kernel is 65 % too high and then far too low."""
    table = rows("hetero_water_lung_y90.csv")
    tia = np.zeros((21, 21, 21))
    tia[:11] = 1.0 / 3600.0
    material = np.where(np.arange(21) < 11, MATERIALS.index("water"), MATERIALS.index("lung"))[:, None, None]
    material = np.broadcast_to(material, tia.shape)
    dose = absorbed_dose(tia, (4.8, 4.8, 4.8), "Y-90", material=material, engine="multimedium")[:, 10, 10] * 1000
    ratio = dose / np.array([float(r["S_electron_central"]) for r in table])
    assert ratio[:11] == pytest.approx(1.0, abs=0.01)
    assert ratio[11:15] == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(("name", "low", "high"), [("Y-90", 1.20, 1.30), ("Lu-177", 1.005, 1.02)])
def test_local_deposition_overestimates_a_small_tumour_in_lung_as_transport_says(name, low, high):
    """2 cm of soft tissue in lung: by about a quarter for Y-90, by under 2 % for Lu-177."""
    spacing, axis = 2.0, (np.arange(41) - 20) * 2.0
    tumour = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < 10.0**2
    material = np.where(tumour, MATERIALS.index("soft_tissue"), MATERIALS.index("lung"))
    tia = tumour / tumour.sum()
    local, followed = (
        absorbed_dose(tia, (spacing,) * 3, name, material=material, engine=e)[tumour].mean() for e in ("local", "multimedium")
    )
    assert low < local / followed < high


MEDIA_ROWS = rows("dpk_scaling_media.csv")


@pytest.mark.parametrize("row", MEDIA_ROWS, ids=lambda r: f"{r['medium']}-{r['E_keV']}")
def test_electron_kernels_of_media_hold_the_monte_carlo_share_of_energy_at_its_radii(row):
    """Radii that hold 50 and 90 % in the medium hold the same share here, but for what one k per medium misplaces."""
    name = row["E_keV"]
    if name.endswith("_beta"):
        spectrum = beta_spectrum(name.removesuffix("_beta"))
    else:
        spectrum = Spectrum(np.array([float(name)]), np.array([1.0]))
    water, _ = electron_kernel(spectrum)
    medium = water.stretched(medium_electron_k(row["medium"]))
    emitted = spectrum.total_kev
    for share, column in ((0.5, "r50_medium"), (0.9, "r90_medium")):
        held = float(medium.within(np.array([float(row[column])]))[0]) / emitted
        assert held == pytest.approx(share, abs=float(row["maxdF_kmean"]) + 2 * float(row["noise"]) + 0.004)


@pytest.mark.parametrize("medium", ["lung", "cortical_bone", "adipose"])
def test_scaling_by_density_and_k_beats_density_alone_and_the_ratio_of_ranges(medium):
    """The share of energy misplaced at 50 and 90 %, over mono-energetic rows: why no range ratio is used."""
    worst = {}
    for law in ("k", "density", "range"):
        gaps = []
        for row in MEDIA_ROWS:
            if row["medium"] != medium or row["E_keV"].endswith("_beta"):
                continue
            factor = {"k": medium_electron_k(medium), "density": 1.0, "range": float(row["k_CSDA"])}[law]
            water, _ = electron_kernel(Spectrum(np.array([float(row["E_keV"])]), np.array([1.0])))
            radii = np.array([float(row["r50_medium"]), float(row["r90_medium"])])
            gaps.append(np.abs(water.stretched(factor).within(radii) / float(row["E_keV"]) - (0.5, 0.9)).max())
        worst[law] = max(gaps)
    assert worst["k"] < 0.02
    assert worst["k"] <= worst["density"] + 0.005
    if medium != "lung":
        assert worst["range"] > 2 * worst["k"]
