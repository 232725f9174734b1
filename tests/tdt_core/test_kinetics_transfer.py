"""From the imaged to the treating ligand: what carries over, what does not, and what that costs in certainty."""

from itertools import pairwise

import numpy as np
import pytest

from tdt_core.errors import InputError, ModelError
from tdt_core.kinetics.pbrpk import pbrpk
from tdt_core.kinetics.simulation import simulate, simulate_batch
from tdt_core.kinetics.theranostic import transfer
from tdt_core.twin import Administration

BODY = pbrpk("psma_reference")
M = 60
RNG = np.random.default_rng(7)
DRAWS = {
    "kidneys.R_density": 14.0 * np.exp(0.1 * RNG.standard_normal(M)),
    "tumour_2.R_density": 19.0 * np.exp(0.2 * RNG.standard_normal(M)),
    "kidneys.TER": 0.2 * np.exp(0.1 * RNG.standard_normal(M)),
}
BINDING = ["kidneys", "tumour_2", "salivary_glands"]


def therapy(ligand, nmol=110.0):
    return [Administration(0.0, "vial", ligand, "Lu-177", 7400.0, nmol)]


def width(found):
    """sd of ln tia of the organs that bind."""
    return np.log(found.tia_mbq_h.sel(label="Lu-177", region=BINDING)).std("member", ddof=1).values


def test_the_imaged_ligand_is_predicted_by_the_fit_alone():
    fitted = {**DRAWS, "ligand.K_D": 8.0 * np.exp(0.3 * RNG.standard_normal(M))}
    found = transfer(BODY, fitted, "PSMA-617", therapy("PSMA-617"), [24.0], seed=1)
    wanted = simulate_batch(BODY, fitted, therapy("PSMA-617"), [24.0])
    np.testing.assert_array_equal(found.tia_mbq_h, wanted.tia_mbq_h)
    assert float(abs(found.transfer_sd_log).max()) == 0.0
    assert found.attrs["drawn"] == []


def test_the_interval_widens_with_the_treating_ligands_spread_and_collapses_without():
    """PSMA-617 and PSMA-I&T have the same medians, so that without their spreads they are predicted alike."""
    known = transfer(BODY, DRAWS, "PSMA-11", therapy("PSMA-617"), seed=1, spread=0.0)
    wide = [transfer(BODY, DRAWS, "PSMA-11", therapy("PSMA-I&T"), seed=1, spread=s) for s in (0.0, 0.25, 0.5, 1.0)]
    np.testing.assert_allclose(wide[0].tia_mbq_h, known.tia_mbq_h, rtol=1e-9)
    assert float(known.transfer_sd_log.max()) < 1e-12
    assert float(wide[0].transfer_sd_log.max()) < 1e-12
    for less, more in pairwise(wide):
        assert np.all(width(more) > width(less))
        assert np.all(
            more.transfer_sd_log.sel(label="Lu-177", region=BINDING) > less.transfer_sd_log.sel(label="Lu-177", region=BINDING)
        )
    assert wide[-1].attrs["drawn"] == ["PSMA-I&T/ligand.k_on", "PSMA-I&T/ligand.K_D"]
    # small spreads act in proportion
    small = [transfer(BODY, DRAWS, "PSMA-11", therapy("PSMA-I&T"), seed=1, spread=s).transfer_sd_log for s in (1e-3, 2e-3)]
    np.testing.assert_allclose(small[1].sel(region=BINDING), 2 * small[0].sel(region=BINDING), rtol=0.02)


@pytest.mark.parametrize("ligand", ["PSMA-617", "DCFPyL", "PSMA-I&T"])
def test_no_ligand_but_the_imaged_one_is_predicted_without_uncertainty_of_its_own(ligand):
    found = transfer(BODY, DRAWS, "PSMA-11", therapy(ligand), seed=1)
    assert found.attrs["drawn"] == [f"{ligand}/ligand.k_on", f"{ligand}/ligand.K_D"]
    own = found.transfer_sd_log.sel(label="Lu-177", region=BINDING)
    assert float(own.min()) > 0.05
    # on top of what the fit leaves open
    fixed = transfer(BODY, DRAWS, "PSMA-11", therapy(ligand), seed=1, spread=0.0)
    assert np.all(width(found) > width(fixed))


def test_the_imaged_ligands_own_quantities_do_not_carry_over():
    odd = {**DRAWS, "ligand.K_D": np.full(M, 500.0), "ligand.lambda_int": np.full(M, 1e-5)}
    found, wanted = (transfer(BODY, d, "PSMA-11", therapy("PSMA-617"), seed=1) for d in (odd, DRAWS))
    np.testing.assert_array_equal(found.tia_mbq_h, wanted.tia_mbq_h)


def test_a_patient_known_exactly_is_predicted_exactly():
    """The truth's receptors as every draw, and the treating ligand without its spread: the truth's own therapy."""
    truth = {"kidneys.R_density": 22.0, "tumour_2.R_density": 35.0, "kidneys.TER": 0.15}
    found = transfer(
        BODY, {n: np.full(3, v) for n, v in truth.items()}, "PSMA-11", therapy("PSMA-617"), seed=1, spread=0.0, rtol=1e-8
    )
    wanted = simulate(BODY.with_ligand("PSMA-617"), truth, therapy("PSMA-617"), [1.0], rtol=1e-8)
    for k in range(3):
        np.testing.assert_allclose(found.tia_mbq_h[k], wanted.tia_mbq_h, rtol=1e-6)


def test_a_pair_in_one_schedule_keeps_what_was_fitted_of_the_imaged_and_draws_the_other():
    fitted = {**DRAWS, "ligand.K_D": np.full(M, 3.0)}
    pair = [
        Administration(0.0, "scan", "PSMA-11", "Ga-68", 150.0, 5.0),
        Administration(500.0, "vial", "PSMA-I&T", "Lu-177", 7400.0, 110.0),
    ]
    found = transfer(BODY, fitted, "PSMA-11", pair, seed=1)
    assert found.label.values.tolist() == ["total", "PSMA-11", "PSMA-I&T", "Ga-68", "Lu-177"]
    spread = found.transfer_sd_log.sel(region="tumour_2")
    assert float(spread.sel(label="Ga-68")) < 1e-6 < 0.01 < float(spread.sel(label="Lu-177"))
    alone = simulate_batch(BODY.with_ligand("PSMA-11"), fitted, pair[:1], [], end_h=700.0)
    np.testing.assert_allclose(found.tia_mbq_h.sel(label="Ga-68"), alone.tia_mbq_h.sel(label="Ga-68"), rtol=1e-4)


def test_the_same_seed_gives_the_same_draws():
    one, again, other = (transfer(BODY, DRAWS, "PSMA-617", therapy("PSMA-I&T"), seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.tia_mbq_h, again.tia_mbq_h)
    assert float(abs(one.tia_mbq_h - other.tia_mbq_h).max()) > 0


@pytest.mark.parametrize(
    ("draws", "ligand", "error", "words"),
    [
        ({}, "PSMA-617", InputError, "shapes none"),
        ({"kidneys.TER": np.ones(3), "kidneys.R_density": np.ones(4)}, "PSMA-617", InputError, "each draw"),
        (DRAWS, "DOTATATE", ModelError, "SSTR2"),
        ({"kidneys.TERR": np.ones(3)}, "PSMA-617", ModelError, "kidneys.TER"),
    ],
)
def test_what_cannot_be_transferred_is_refused(draws, ligand, error, words):
    with pytest.raises(error, match=words):
        transfer(BODY, draws, "PSMA-11", therapy(ligand), seed=1)
