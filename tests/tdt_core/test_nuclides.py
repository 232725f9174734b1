"""Names, chains and spectra of nuclides."""

import numpy as np
import pytest

from tdt_core.errors import InputError, ModelError
from tdt_core.nuclides import decays_per_parent_decay, electron_spectrum, emissions, nuclide, photon_spectrum
from tdt_core.nuclides.chains import _packaged_branches, branches, branches_from_radioactivedecay
from tdt_core.nuclides.icrp107 import lines


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
        decays_per_parent_decay("Ac-225", "some")  # type: ignore[arg-type]


def test_a_chain_releases_the_sum_of_its_members():
    chain = emissions("Pb-212")
    total = 0.0
    for name, decays in chain.decays.items():
        member = nuclide(name)
        total += decays * (member.electron_energy_kev + member.photon_energy_kev + member.local_energy_kev)
    assert chain.total_kev == pytest.approx(total, rel=1e-9)


def test_every_packaged_branch_is_that_of_radioactivedecay_but_the_one_that_it_lacks():
    packaged = _packaged_branches()
    assert len(packaged) > 50
    for parent, found in packaged.items():
        expected = dict(branches_from_radioactivedecay(parent))
        if parent == "At-217":
            assert sum(expected.values()) == pytest.approx(0.99988)
            expected["Rn-217"] = 0.00012
        assert dict(found) == pytest.approx(expected)


THERAPY_AND_IMAGING = (
    "Lu-177", "Tb-161", "Y-90", "I-131", "Sm-153", "Re-188", "Ho-166", "Cu-64", "Cu-67", "Ga-68", "F-18", "In-111", "Tc-99m",
    "Ra-223", "Ac-225", "Pb-212",
)  # fmt: skip


@pytest.mark.parametrize("name", THERAPY_AND_IMAGING)
def test_every_nuclide_of_therapy_and_imaging_has_a_packaged_chain_that_loses_no_decay(name):
    """Each alpha or beta decay of a member leads to progeny that are counted, cut as long-lived, or stable."""
    packaged = _packaged_branches()
    decays = decays_per_parent_decay(name)
    assert decays[name] == 1.0
    for member in decays:
        assert member in packaged
        found = nuclide(member)
        assert found.half_life_h > 0
        assert found.half_life_h <= nuclide(name).half_life_h
        assert found.electron_energy_kev + found.photon_energy_kev + found.local_energy_kev > 0
        assert sum(p for _, p in packaged[member]) <= 1.0 + 1e-9
        assert electron_spectrum(member).total_kev == pytest.approx(found.electron_energy_kev, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", ["Ra-223", "Ac-225", "Pb-212", "Th-227", "At-211"])
def test_alpha_chains_end_with_as_many_alphas_as_mass_numbers_fall(name):
    """Alpha particles per decay of the parent, from the lines of ICRP 107, against the drop in mass number over four."""
    ends = {"Ra-223": (223, 207), "Ac-225": (225, 209), "Pb-212": (212, 208), "Th-227": (227, 207), "At-211": (211, 207)}
    decays = decays_per_parent_decay(name)
    alphas = sum(lines(member, "alpha")[:, 1].sum() * count for member, count in decays.items())
    first, last = ends[name]
    assert alphas == pytest.approx((first - last) / 4, abs=2e-3)


def test_radium_223_releases_the_energy_of_its_label():
    """28.2 MeV per decay of Ra-223 with progeny, 95.3 % alpha, 3.6 % beta, 1.1 % gamma (label of radium-223 dichloride)."""
    chain = emissions("Ra-223")
    alpha = sum(nuclide(n).alpha_energy_kev * c for n, c in chain.decays.items())
    recoil = chain.local_kev - alpha
    released = chain.total_kev - recoil
    assert released == pytest.approx(28_200, rel=0.02)
    assert alpha / released == pytest.approx(0.953, abs=0.01)
    assert chain.electrons.total_kev / released == pytest.approx(0.036, abs=0.005)
    assert chain.photons.total_kev / released == pytest.approx(0.011, abs=0.003)


def test_a_chain_outside_the_packaged_table_is_looked_up():
    assert dict(branches("Sr-90")) == pytest.approx({"Y-90": 1.0})
    assert decays_per_parent_decay("Sr-90") == pytest.approx({"Sr-90": 1.0, "Y-90": 1.0})


def test_one_nmol_of_pure_lu177_is_the_published_activity():
    assert nuclide("Lu-177").mbq_per_nmol == pytest.approx(726.8, abs=0.05)  # at a half-life of 6.647 d
