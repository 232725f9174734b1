"""Mean energies per decay of ICRP Publication 107, and numbers that follow from them."""

import csv
from pathlib import Path

import pytest

from tdt_core.dosimetry import absorbed_dose
from tdt_core.dosimetry.units import JOULE_PER_MBQ_H_KEV
from tdt_core.nuclides import decays_per_parent_decay, electron_spectrum, emissions, nuclide, photon_spectrum

DATA = Path(__file__).parent / "data" / "icrp107_mean_energies.csv"
ROWS = list(csv.DictReader(x for x in DATA.read_text().splitlines() if not x.startswith("#")))


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r["nuclide"])
def test_energies_and_half_lives_equal_the_listed_sums(row):
    found = nuclide(row["nuclide"])
    hours = {"s": 1 / 3600, "m": 1 / 60, "h": 1.0, "d": 24.0}[row["unit"]]
    assert found.half_life_h == pytest.approx(float(row["half_life"]) * hours, rel=1e-6)
    assert found.electron_energy_kev == pytest.approx(float(row["electron_total_keV"]), abs=0.002)
    assert found.photon_energy_kev == pytest.approx(float(row["photon_total_keV"]), abs=0.002)
    assert found.alpha_energy_kev == pytest.approx(float(row["alpha_keV"]), abs=0.002)
    assert found.alpha_recoil_kev == pytest.approx(float(row["alpha_recoil_keV"]), abs=0.002)


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r["nuclide"])
def test_spectra_carry_the_listed_energy(row):
    name = row["nuclide"]
    assert electron_spectrum(name).total_kev == pytest.approx(nuclide(name).electron_energy_kev, rel=1e-9, abs=1e-9)
    assert photon_spectrum(name).total_kev == pytest.approx(nuclide(name).photon_energy_kev, rel=1e-9, abs=1e-9)


def test_lu177_electron_dose_constant():
    assert nuclide("Lu-177").electron_energy_kev * JOULE_PER_MBQ_H_KEV * 1000 == pytest.approx(0.085320, rel=1e-5)


def test_y90_gives_49_77_gy_kg_per_gbq():
    y90 = nuclide("Y-90")
    tia_per_gbq = 1000.0 / y90.decay_constant_per_h
    assert tia_per_gbq * y90.electron_energy_kev * JOULE_PER_MBQ_H_KEV == pytest.approx(49.77, rel=1e-4)


def test_o36_and_o37_ac225_with_its_progeny():
    """O36 drops the 0.012 % of At-217 that go to Rn-217; with them no decay is lost."""
    decays = decays_per_parent_decay("Ac-225")
    lacking = 0.00012
    assert decays.pop("Rn-217") == pytest.approx(lacking, rel=1e-9)
    assert decays["Pb-209"] == pytest.approx(1.0, rel=1e-9)
    decays["Po-213"] -= lacking
    decays["Pb-209"] -= lacking
    expected = {
        "Ac-225": 1.0,
        "Fr-221": 1.0,
        "At-217": 1.0,
        "Bi-213": 0.99988,
        "Po-213": 0.978982508,
        "Tl-209": 0.020897492,
        "Pb-209": 0.99988,
    }
    assert decays == pytest.approx(expected, rel=1e-9)
    chain = emissions("Ac-225")
    assert chain.local_kev == pytest.approx(27996.0, rel=1e-4)
    assert chain.electrons.total_kev == pytest.approx(689.6, rel=2e-4)


def test_local_alpha_dose_of_ac225_per_mbq_h_and_gram():
    import numpy as np

    one_gram = np.ones((1, 1, 1))
    dose = absorbed_dose(one_gram, (10.0, 10.0, 10.0), "Ac-225")[0, 0, 0]
    assert dose == pytest.approx((27996.0 + 689.6) * JOULE_PER_MBQ_H_KEV * 1000, rel=2e-4)
