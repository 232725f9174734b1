"""Equivalent uniform doses: limits, bounds, closed forms; histograms in BED against every draw."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdt_core.dosimetry import Response, credible_dose
from tdt_core.errors import InputError
from tdt_core.radiobiology import bed, dose_of_bed, generalised_eud, lea_catcheside, survival_eubed

DOSES = st.lists(st.floats(0.01, 200.0), min_size=1, max_size=30).map(np.array)
FIVE = np.repeat([40.0, 55.0, 65.0, 80.0], [2, 3, 3, 2])  # volume shares 0.2, 0.3, 0.3, 0.2
G51 = float(lea_catcheside(np.array([1.0]), np.array([np.log(2) / 51.0]), 1.9))


def test_values_computed_with_30_digits():
    beds = bed(FIVE, G51, 1.5)
    assert beds.mean() == pytest.approx(150.3906742281, rel=1e-6)
    assert survival_eubed(beds, 0.147) == pytest.approx(89.25235384969, rel=1e-6)
    assert generalised_eud(FIVE, 1.0) == pytest.approx(60.0, rel=1e-12)
    assert generalised_eud(FIVE, 8.0) == pytest.approx(68.00753512275, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(doses=DOSES, a=st.floats(-30, 30).filter(lambda x: abs(x) > 0.05), alpha=st.floats(1e-4, 2.0))
def test_uniform_doses_lie_between_least_and_largest_and_fall_to_the_cold_side(doses, a, alpha):
    slack = 1e-9 * doses.max()
    for value in (generalised_eud(doses, a), survival_eubed(doses, alpha)):
        assert doses.min() - slack <= value <= doses.max() + slack
    assert survival_eubed(doses, alpha) <= doses.mean() + slack  # Jensen
    assert generalised_eud(doses, -abs(a)) <= generalised_eud(doses, abs(a)) + slack


@settings(max_examples=30, deadline=None)
@given(dose=st.floats(0.0, 150.0), a=st.floats(0.1, 20.0), alpha=st.floats(1e-3, 1.0))
def test_a_uniform_dose_is_its_own_equivalent(dose, a, alpha):
    uniform = np.full(7, dose)
    assert generalised_eud(uniform, a) == pytest.approx(dose, rel=1e-9)
    assert generalised_eud(uniform, -a) == pytest.approx(dose, rel=1e-9)
    assert survival_eubed(uniform, alpha) == pytest.approx(dose, rel=1e-9, abs=1e-9)


def test_limits_of_the_exponent_and_of_alpha():
    assert generalised_eud(FIVE, 1e-6) == pytest.approx(np.exp(np.log(FIVE).mean()), rel=1e-5)
    assert generalised_eud(FIVE, 5000.0) == pytest.approx(80.0, rel=1e-3)
    assert generalised_eud(FIVE, -5000.0) == pytest.approx(40.0, rel=1e-3)
    assert survival_eubed(FIVE, 1e-9) == pytest.approx(60.0, rel=1e-5)
    assert survival_eubed(FIVE, 1e4) == pytest.approx(40.0, rel=1e-3)
    small = np.array([1.0, 1.2, 0.8])
    assert survival_eubed(small, 0.01) == pytest.approx(small.mean() - 0.005 * small.var(), rel=1e-6)


def test_a_cold_voxel_leaves_nothing_to_a_negative_exponent_and_little_to_survival():
    doses = np.array([0.0, 60.0, 60.0, 60.0])
    assert generalised_eud(doses, -10.0) == 0.0
    assert survival_eubed(doses, 0.147) == pytest.approx(np.log(4) / 0.147, rel=1e-3)


@pytest.mark.parametrize(("function", "value"), [(generalised_eud, 0.0), (generalised_eud, np.inf), (survival_eubed, 0.0)])
def test_exponents_without_meaning_are_refused(function, value):
    with pytest.raises(InputError):
        function(FIVE, value)


def test_histograms_in_bed_and_equivalent_doses_are_those_of_every_draw():
    rng = np.random.default_rng(3)
    mask = np.zeros((7, 7, 7), bool)
    mask[2:5, 2:5, 2:5] = True
    masks = {"lesion/A": mask, "rest": ~mask}
    weights = {n: np.where(m, rng.random(mask.shape), 0.0) for n, m in masks.items()}
    weights = {n: (w / w.sum()).astype(np.float32) for n, w in weights.items()}
    tia, g = np.array([900.0, 500.0]) * np.exp(rng.normal(0, 0.2, (25, 2))), rng.uniform(0.03, 0.06, 25)
    response = {"lesion/A": Response(g, 1.5, alpha_per_gy=0.147, eud_a=-10.0)}
    found = credible_dose(weights, tia, masks, spacing_mm=(4.0,) * 3, nuclide="Lu-177", responses=response)
    row, other = found.dvh
    assert other["bed"] is None
    assert "eud" not in other["metrics"]
    one = [
        credible_dose(weights, t[None], masks, spacing_mm=(4.0,) * 3, nuclide="Lu-177").mean_gy[mask].astype(float) for t in tia
    ]
    doses = np.array(one).T
    beds = bed(doses, g, 1.5)
    eubed = survival_eubed(beds, 0.147)
    expected = {"d90": np.quantile(beds, 0.1, axis=0), "eubed": eubed, "eud_survival": dose_of_bed(eubed, g, 1.5)}
    for name, draws in expected.items():
        assert row["bed"]["metrics"][name]["mean"] == pytest.approx(draws.mean(), rel=1e-4)
        assert row["bed"]["metrics"][name]["q95"] == pytest.approx(np.quantile(draws, 0.95), rel=1e-4)
    assert row["metrics"]["eud"]["q50"] == pytest.approx(np.median(generalised_eud(doses, -10.0)), rel=1e-4)
    assert row["bed"]["metrics"]["eud_survival"]["mean"] < doses.mean()
