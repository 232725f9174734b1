"""What a fit makes of data that say nothing, too little, the same twice or the opposite: a wider state, a refusal or an
abstention, each with its reason in the state. The table is in docs/assimilation.md."""

import dataclasses

import numpy as np
import pytest

from tdt_core.assimilation import adapt, assimilate, assimilate_on, population_prior
from tdt_core.assimilation.problem import Prior
from tdt_core.codec import to_plain
from tdt_core.errors import EstimationError, ModelError
from tdt_core.kinetics import rung_for
from tdt_core.lesions import changes
from tdt_core.planning import objections
from tdt_core.twin import Administration, ErrorBudget, Evidence, Lesion, Patient, Region, RegionActivity

REGIONS = (
    Region("kidney_left", "kidneys", "64033007", "left", volume_ml=160.0, mass_g=168.0),
    Region("kidney_right", "kidneys", "64033007", "right", volume_ml=150.0, mass_g=157.0),
    Region("lesion/L1", "lesions", "52988006", tracking_id="L1", volume_ml=12.0, mass_g=12.5),
)
PATIENT = Patient("p1", "male", 70.0, 175.0, 80.0)
GIVEN = Administration(0.0, "Lu-177-PSMA-617", "PSMA-617", "Lu-177", 7400.0, amount_nmol=90.0)
BUDGET = ErrorBudget(counts=0.03, calibration=0.04, partial_volume=0.05, segmentation=0.03, registration=0.02)
LIMITED = {"kidneys"}


@pytest.fixture
def rung():
    return rung_for("sum_of_exponentials", "PSMA-617", REGIONS)


def activities(rung, times=(4.0, 24.0, 72.0, 150.0), budget=BUDGET, factor=1.0, scan="s"):
    """Data on the population's curves, times `factor`."""
    curves = rung.activity(population_prior(rung).mean[None], GIVEN, np.array(times))[0]
    return [
        RegionActivity(r.name, t, v, v, 1.0, budget, f"{scan}{k}", "SPECT", "Lu-177", "cal")
        for i, r in enumerate(rung.regions)
        for k, (t, v) in enumerate((t, float(factor * curves[i, k])) for k, t in enumerate(times))
    ]


def of(rung, data):
    return Evidence(1, PATIENT, (GIVEN,), rung.regions, tuple(data))


def reasons(rung, posterior):
    return " | ".join(objections(posterior.diagnostics, posterior.fit_report, rung.regions, LIMITED))


def spread(rung, posterior):
    """Sd of ln time-integrated activity of the left kidney."""
    return float(np.log(rung.time_integrated_activity(posterior.draws[:, : len(rung.parameters)], GIVEN))[:, 0].std())


def test_no_data_leave_the_prior_and_the_twin_abstains(rung):
    found = assimilate(population_prior(rung), of(rung, ()), rung)
    np.testing.assert_allclose(found.mean, population_prior(rung).mean)
    assert found.diagnostics["n_obs"] == 0
    assert "no usable region activity" in reasons(rung, found)


def test_one_datum_gives_a_wider_state_and_organs_without_any_are_said_to_be_assumed(rung):
    data = activities(rung)
    one, all_ = (assimilate(population_prior(rung), of(rung, d), rung) for d in (data[1:2], data))
    nothing = assimilate(population_prior(rung), of(rung, ()), rung)
    assert spread(rung, all_) < spread(rung, one) < spread(rung, nothing)
    assert one.diagnostics["n_obs"] == 1
    lesion = assimilate(population_prior(rung), of(rung, data[-1:]), rung)
    assert "kidneys has a limit but no usable activity" in reasons(rung, lesion)


def test_a_datum_given_twice_counts_once_and_the_copy_is_listed(rung):
    data = activities(rung)
    once, twice = (assimilate(population_prior(rung), of(rung, d), rung) for d in (data, [*data, *data[:3]]))
    np.testing.assert_array_equal(once.mean, twice.mean)
    np.testing.assert_array_equal(once.draws, twice.draws)
    copies = [row for row in twice.fit_report if row["status"] == "missing"]
    assert [row["reason"] for row in copies] == ["the same datum again"] * 3
    assert twice.diagnostics["n_left_out"] == 3


def test_data_that_contradict_each_other_are_outliers_or_a_misfit_and_the_twin_abstains(rung):
    data = activities(rung)
    fair = assimilate(population_prior(rung), of(rung, data), rung)
    assert reasons(rung, fair) == ""
    other = [dataclasses.replace(a, scan=f"again {a.scan}", activity_mbq=6 * a.activity_mbq) for a in data]
    torn = assimilate(population_prior(rung), of(rung, [*data, *other]), rung)
    assert torn.diagnostics["n_outliers"] > 0
    assert {row["status"] for row in torn.fit_report} >= {"outlier"}
    assert "does not fit the data of kidneys" in reasons(rung, torn)
    same = [dataclasses.replace(a, scan=f"again {a.scan}") for a in data]
    agreed = assimilate(population_prior(rung), of(rung, [*data, *same]), rung)
    assert spread(rung, torn) > spread(rung, agreed)


def test_an_error_of_zero_is_never_certainty_and_an_error_that_is_no_number_is_no_datum(rung):
    exact = assimilate(population_prior(rung), of(rung, activities(rung, budget=ErrorBudget(0, 0, 0, 0, 0))), rung)
    assert all(row["sd_log"] >= 0.03 for row in exact.fit_report), "the model error remains"
    assert 0.0 < spread(rung, exact) < spread(rung, assimilate(population_prior(rung), of(rung, activities(rung)), rung))
    broken = [dataclasses.replace(a, budget=dataclasses.replace(BUDGET, counts=float("nan"))) for a in activities(rung)]
    found = assimilate(population_prior(rung), of(rung, [*broken[:1], *activities(rung)[1:]]), rung)
    assert [row["reason"] for row in found.fit_report if row["status"] == "missing"] == ["its error is not a finite number"]


def test_a_prior_without_variance_stays_what_it_was_and_measures_no_shift_from_rounding(rung):
    known = population_prior(rung)
    certain = Prior(known.names, known.mean, np.zeros_like(known.covariance), "population")
    found = assimilate(certain, of(rung, activities(rung)), rung)
    np.testing.assert_allclose(found.mean[: len(known.names)], known.mean, atol=1e-6)
    assert np.isfinite(found.draws).all()
    assert found.diagnostics["linearity_shift_sd"] < 0.5
    assert all(np.isfinite(v) for v in found.diagnostics["variance_reduction"].values())
    assert to_plain(found.diagnostics)


def test_a_failed_solve_leads_to_the_next_rung_with_its_reason_and_without_one_to_a_refusal(rung, monkeypatch):
    evidence = of(rung, activities(rung))
    monkeypatch.setattr(
        type(rung), "activity", lambda *_: (_ for _ in ()).throw(ModelError("no solution", kind="model.solver"))
    )
    with pytest.raises((ModelError, EstimationError)) as refused:
        assimilate(population_prior(rung), evidence, rung)
    assert refused.value.kind
    monkeypatch.undo()

    def prior_for(model):
        if model.name == "compartmental":
            raise EstimationError("no start of the fit reached a finite objective", kind="estimation.diverged")
        return population_prior(model)

    found = assimilate_on(("compartmental", "sum_of_exponentials"), "PSMA-617", evidence, prior_for, "map")
    assert found.model == "sum_of_exponentials"
    assert found.diagnostics["refused"] == [
        {"rung": "compartmental", "reason": "no start of the fit reached a finite objective"}
    ]


def test_a_parameter_at_its_bound_is_named_and_stops_the_recommendation(rung):
    wide = population_prior(rung)
    narrow = dataclasses.replace(wide, covariance=wide.covariance * 0.05**2)
    data = activities(rung, factor=3.0)
    found = assimilate(narrow, of(rung, data), rung)
    assert found.diagnostics["at_edge"]
    assert all(x >= 4.0 for x in found.diagnostics["at_edge"].values())
    assert any(name.startswith("kidney_") for name in found.diagnostics["at_edge"])
    assert "at its bound" in reasons(rung, found)
    assert assimilate(wide, of(rung, activities(rung)), rung).diagnostics["at_edge"] == {}


def test_a_lesion_that_vanished_is_forgotten_and_a_new_one_comes_from_the_population_and_both_are_said(rung):
    new = dataclasses.replace(REGIONS[2], name="lesion/L2", tracking_id="L2")
    later = rung_for("sum_of_exponentials", "PSMA-617", (*REGIONS[:2], new))
    first = assimilate(population_prior(rung), of(rung, activities(rung, factor=1.5)), rung)
    n = len(rung.parameters)
    carried = Prior(first.names[:n], first.mean[:n], first.covariance[:n, :n], "state")
    adapted = adapt(carried, later)
    born = population_prior(later)
    for i, name in enumerate(adapted.names):
        if "L2" in name:
            assert adapted.mean[i] == born.mean[i]
            assert adapted.covariance[i, i] == born.covariance[i, i]
    assert not any("L1" in name for name in adapted.names)
    before = [Lesion("L1", "liver", 12.0, 1)]
    after = [Lesion("L1", "liver", 0.0, 1, "vanished"), Lesion("L2", "liver", 12.0, 2, "new")]
    gone, fresh = changes(after, before)
    assert gone.startswith("lesion L1 is not among the regions")
    assert fresh.startswith("lesion L2 is new")
    assert changes([after[0]], [after[0]]) == []
    assert changes(before, [after[0]]) == ["lesion L1 is back: its kinetics start from the population again"]
