"""Down the ladder: which rung a cycle is fitted with, and the reason that stands in the state where it is not the richest."""

from dataclasses import replace

import numpy as np
import pytest

from tdt_core.assimilation import assimilate_on, poorly_fitted, population_prior, rungs_of
from tdt_core.errors import EstimationError, ModelError
from tdt_core.kinetics import rung_for
from tdt_core.twin import Administration, ErrorBudget, Evidence, Patient, Region, RegionActivity

MAN = Patient("P", "male", 68.0, 178.0, 82.0, 0.38)
GIVEN = Administration(0.0, "Lu-177-PSMA-617", "PSMA-617", "Lu-177", 7400.0, amount_nmol=90.0)
REGIONS = (
    Region("kidney_left", "kidneys", "", volume_ml=160.0, mass_g=168.0),
    Region("kidney_right", "kidneys", "", volume_ml=150.0, mass_g=158.0),
    Region("parotid_left", "parotid_glands", "", volume_ml=22.0, mass_g=23.0),
    Region("rest", "rest", "", volume_ml=60000.0, mass_g=60000.0),
)
BUDGET = ErrorBudget(counts=0.03, calibration=0.03, partial_volume=0.03, segmentation=0.02, registration=0.02)
LADDER = rungs_of("ladder")


def evidence(given=GIVEN, ligand="PSMA-617", curve=None):
    """Three scans of a patient of the whole-body population, or of any other curve of (regions, times) MBq."""
    times = np.array([24.0, 72.0, 160.0])
    if curve is None:
        rung = rung_for("whole_body", ligand, REGIONS)
        curve = rung.activity(
            population_prior(rung).draws(1, np.random.default_rng(5)), replace(given, amount_nmol=90.0), times
        )[0]
    data = tuple(
        RegionActivity(r.name, t, float(a), float(a), 1.0, BUDGET, f"S{j}", "SPECT", "Lu-177", "cal")
        for r, row in zip(REGIONS, curve, strict=True)
        for j, (t, a) in enumerate(zip(times, row, strict=True))
    )
    return Evidence(1, MAN, (given,), REGIONS, data)


def descend(found, ligand="PSMA-617", prior_for=population_prior, rungs=LADDER):
    return assimilate_on(rungs, ligand, found, prior_for, n_draws=50)


def test_the_whole_body_is_used_where_the_data_allow():
    posterior = descend(evidence())
    assert posterior.model == "whole_body"
    assert posterior.diagnostics["refused"] == []
    assert posterior.names[0].startswith("body.")


def test_a_therapy_without_a_ligand_amount_falls_to_the_curves_and_says_why():
    posterior = descend(evidence(replace(GIVEN, amount_nmol=None)))
    assert posterior.model == "sum_of_exponentials"
    (refused,) = posterior.diagnostics["refused"]
    assert refused["rung"] == "whole_body"
    assert "no ligand amount" in refused["reason"]


def test_a_prior_that_a_rung_cannot_have_is_a_reason_too():
    def only_curves(rung):
        if rung.name == "whole_body":
            raise EstimationError("cycle 1 was fitted with curves")
        return population_prior(rung)

    posterior = descend(evidence(), prior_for=only_curves)
    assert posterior.model == "sum_of_exponentials"
    assert posterior.diagnostics["refused"][0]["reason"] == "cycle 1 was fitted with curves"


def test_the_last_rung_has_the_last_word():
    with pytest.raises(ModelError, match="no ligand amount"):
        descend(evidence(replace(GIVEN, amount_nmol=None)), rungs=("whole_body",))


def test_organs_that_only_the_curves_can_follow_lead_down():
    # kidneys with thirteen times the uptake that the receptors of the population allow: curves have a wide enough prior
    high = np.array([[1300.0, 720.0, 260.0], [1150.0, 650.0, 230.0], [30.0, 12.0, 3.0], [600.0, 200.0, 40.0]])
    found = evidence(curve=high)
    whole, curves = (poorly_fitted(descend(found, rungs=(name,)).diagnostics) for name in LADDER)
    posterior = descend(found)
    assert "kidneys" in whole
    assert len(curves) < len(whole)
    assert posterior.model == "sum_of_exponentials"
    (refused,) = posterior.diagnostics["refused"]
    assert refused["rung"] == "whole_body"
    assert "kidneys" in refused["reason"]


def test_the_whole_body_stays_where_the_curves_fit_no_better():
    # an outlier of the kind that no model follows
    odd = np.array([[60.0, 60.0, 3.0], [60.0, 60.0, 3.0], [30.0, 12.0, 2.0], [600.0, 200.0, 40.0]])
    posterior = descend(evidence(curve=odd))
    assert posterior.model == "whole_body"
    assert posterior.diagnostics["n_outliers"] > 0


def test_a_fault_of_the_next_rung_stands_and_what_it_lacks_is_told():
    """The whole body fits kidneys poorly, so curves are tried: what stops them is neither swallowed nor a refusal of all."""
    high = np.array([[1300.0, 720.0, 260.0], [1150.0, 650.0, 230.0], [30.0, 12.0, 3.0], [600.0, 200.0, 40.0]])

    def stopping(error):
        def prior_for(rung):
            if rung.name != "whole_body":
                raise error
            return population_prior(rung)

        return prior_for

    posterior = descend(evidence(curve=high), prior_for=stopping(EstimationError("no such chain")))
    assert posterior.model == "whole_body"
    assert [r["reason"] for r in posterior.diagnostics["refused"]] == ["no such chain"]
    with pytest.raises(ModelError, match="a table is broken"):
        descend(evidence(curve=high), prior_for=stopping(ModelError("a table is broken", kind="model.table")))


def test_every_rung_of_the_ladder_can_be_built_and_a_named_model_stands_alone():
    assert LADDER[0] == "whole_body"
    assert [rung_for(name, "PSMA-617", REGIONS).name for name in LADDER] == list(LADDER)
    assert rungs_of("compartmental") == ("compartmental",)
