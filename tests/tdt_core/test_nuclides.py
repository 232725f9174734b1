"""Names, chains and spectra of nuclides."""

import numpy as np
import pytest

from tdt_core.errors import InputError, ModelError
from tdt_core.nuclides import decays_per_parent_decay, electron_spectrum, emissions, nuclide, photon_spectrum
from tdt_core.nuclides.chains import _packaged_branches, branches, branches_from_radioactivedecay


@pytest.mark.parametrize("spelling", ["Lu-177", "Lu177", "lu 177", "177Lu", "^177^Lu", "177-LU"])
def test_spellings_of_one_nuclide_are_the_same(spelling):
    assert nuclide(spelling) == nuclide("Lu-177")


def test_metastable_states_are_their_own_nuclides():
    assert nuclide("99mTc").name == "Tc-99m"
    assert nuclide("Tc-99m").half_life_h == pytest.approx(6.015)
    assert nuclide("Tc-99").half_life_h > 1e8


@pytest.mark.parametrize("name", ["Lu-999", "lutetium", "", "Xx-12", "../Lu-177"])
def test_unknown_names_are_refused_with_a_reason(name):
    with pytest.raises(InputError) as caught:
        nuclide(name)
    assert caught.value.kind == "input.nuclide"
    assert caught.value.expected


def test_conversion_and_auger_electrons_are_a_tenth_of_the_electron_energy_of_lu177():
    spectrum = electron_spectrum("Lu-177")
    assert spectrum.total_kev - 133.27 == pytest.approx(14.65, abs=0.01)


def test_a_beta_spectrum_emits_one_electron_per_decay_and_stays_below_its_end_point():
    spectrum = electron_spectrum("Y-90")
    assert spectrum.yields[spectrum.energies_kev > 20].sum() < 1.0
    assert spectrum.yields.sum() == pytest.approx(1.0, rel=2e-3)
    assert spectrum.energies_kev.max() < 2280.1


def test_positron_emitters_carry_their_annihilation_photons():
    photons = photon_spectrum("F-18")
    assert photons.yields[np.isclose(photons.energies_kev, 511.0)].sum() == pytest.approx(1.9346)


def test_progeny_that_outlive_their_parent_are_cut_and_short_ones_are_kept():
    assert decays_per_parent_decay("Tc-99m") == {"Tc-99m": 1.0}
    assert decays_per_parent_decay("I-131") == {"I-131": 1.0}
    assert decays_per_parent_decay("At-211") == pytest.approx({"At-211": 1.0, "Po-211": 0.582})
    assert set(decays_per_parent_decay("Pb-212")) == {"Pb-212", "Bi-212", "Po-212", "Tl-208"}
    assert decays_per_parent_decay("Ac-225", "none") == {"Ac-225": 1.0}
    with pytest.raises(ModelError, match="progeny"):
        decays_per_parent_decay("Ac-225", "all")  # type: ignore[arg-type]


def test_a_chain_releases_the_sum_of_its_members():
    chain = emissions("Pb-212")
    total = 0.0
    for name, decays in chain.decays.items():
        member = nuclide(name)
        total += decays * (member.electron_energy_kev + member.photon_energy_kev + member.local_energy_kev)
    assert chain.total_kev == pytest.approx(total, rel=1e-9)


def test_every_packaged_branch_is_that_of_radioactivedecay():
    packaged = _packaged_branches()
    assert len(packaged) > 50
    for parent, found in packaged.items():
        assert dict(found) == pytest.approx(dict(branches_from_radioactivedecay(parent)))


def test_a_chain_outside_the_packaged_table_is_looked_up():
    assert dict(branches("Sr-90")) == pytest.approx({"Y-90": 1.0})
    assert decays_per_parent_decay("Sr-90") == pytest.approx({"Sr-90": 1.0, "Y-90": 1.0})


def test_one_nmol_of_pure_lu177_is_the_published_activity():
    assert nuclide("Lu-177").mbq_per_nmol == pytest.approx(726.8, abs=0.05)  # at a half-life of 6.647 d
