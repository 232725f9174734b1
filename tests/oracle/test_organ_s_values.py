"""Organ level against published and computed numbers: OpenDose self S, Monte Carlo cross-dose, closed marrow cases."""

import csv
from pathlib import Path

import numpy as np
import pytest

from tdt_core.dosimetry.organ import ellipsoid, marrow_to_blood_ratio, organ_s_values, self_s_value
from tdt_core.dosimetry.organ.geometry import exchange_kev
from tdt_core.dosimetry.organ.marrow import marrow_self_dose_of_blood
from tdt_core.dosimetry.organ.s_values import MGY_G_PER_KEV
from tdt_core.dosimetry.s_values import point_kernels

DATA = Path(__file__).parent / "data"

# Self S of Lu-177, mGy/(MBq s), ICRP 110 adult male and female: OpenDose through GitHub dsarrut/rpt_dosi 0eced2a
OPENDOSE = (
    ("AM liver", 1799.776, 1.3713e-5),
    ("AM spleen", 149.968, 1.5967e-4),
    ("AM left kidney", 152.983, 1.5662e-4),
    ("AM right kidney", 157.011, 1.5283e-4),
    ("AF liver", 1399.995, 1.7533e-5),
    ("AF spleen", 129.996, 1.8361e-4),
    ("AF left kidney", 149.483, 1.6034e-4),
    ("AF right kidney", 125.530, 1.9083e-4),
)


@pytest.mark.parametrize(("mass_g", "expected"), [x[1:] for x in OPENDOSE], ids=[x[0] for x in OPENDOSE])
@pytest.mark.parametrize("axes", [(1, 1, 1), (2.2, 1.2, 1), (1, 1.5, 2)])
def test_an_ellipsoid_of_equal_mass_has_the_self_s_of_the_phantom_organ(mass_g, expected, axes):
    """All organs of that table whose self S it gives, as sphere, as kidney and as liver shape, density of soft tissue."""
    assert sum(self_s_value("Lu-177", ellipsoid("x", mass_g, axes, 1.05))) == pytest.approx(expected, rel=0.01)


def test_photons_between_two_spheres_are_those_of_monte_carlo():
    """1 kg and 150 g of water, 12 cm apart."""
    rows = list(csv.DictReader(x for x in (DATA / "cross_dose_lu177.csv").read_text().splitlines() if x[0] != "#"))
    large, small = ellipsoid("1000 g sphere", 1000.0), ellipsoid("150 g sphere", 150.0, centre_cm=(0.0, 12.0, 0.0))
    kernel = point_kernels("Lu-177").photons
    for source, target in ((large, small), (small, large)):
        (row,) = [r for r in rows if (r["source"], r["target"]) == (source.name, target.name)]
        found = exchange_kev(kernel, source, target) / target.mass_g * MGY_G_PER_KEV
        assert found == pytest.approx(float(row["S_photon"]), rel=0.005, abs=2 * float(row["u1_photon"]))
    s = organ_s_values("Lu-177", [large, small])
    either = next(r for r in rows if r["source"] == "either")
    assert s.total[0, 1] == pytest.approx(float(either["S_total"]), rel=0.005)


def test_marrow_by_blood_closed_case():
    """60, 10 and 1 kBq/mL with half-lives of 1.5, 12 and 60 h, haematocrit 0.40, 0.1479 MeV, 1.06 g/mL, all absorbed."""
    integral = sum(a * h / np.log(2) for a, h in ((60e-3, 1.5), (10e-3, 12.0), (1e-3, 60.0)))
    ratio = marrow_to_blood_ratio(0.40)
    assert ratio == pytest.approx(0.3166666666667, rel=1e-6)
    dose = float(marrow_self_dose_of_blood(integral, ratio, "Lu-177"))
    per_decay = point_kernels("Lu-177").electrons.total_kev
    assert dose * 147.9 / per_decay == pytest.approx(0.009926950513935, rel=1e-6)
    assert dose == pytest.approx(0.009926950513935, rel=2e-3)  # bremsstrahlung leaves, 147.92 against 147.9 keV
