"""The setting `adaptive_inflation`: everything that carries a state on to the next cycle widens its drift alike."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from state_builder import build_state

from flows.design import _next_cycle
from flows.identify import prior_of
from flows.inflating import inflation_after, inflation_now
from tdt_core.assimilation import population_prior
from tdt_core.assimilation.inflation import inflation
from tdt_core.codec import to_plain
from tdt_core.kinetics import rung_for
from tdt_core.planning import product_for

ON = {"adaptive_inflation": True, "product": to_plain(product_for("PSMA-617", "Lu-177"))}
OFF = {"product": ON["product"]}
CHI2 = {1: 7.0, 2: 2.0, 3: 2.4, 4: 9.0}


class States(dict):
    """A store of states by id."""

    load = dict.__getitem__


def course(cycles: int, settings: dict) -> States:
    """Cycles of a patient whose data surprise its twin, fitted by nothing: posteriors are the population's."""
    found, parent = States(), None
    for cycle in range(1, cycles + 1):
        built = build_state(cycle, parent=parent)
        rung = rung_for("sum_of_exponentials", "PSMA-617", built.evidence.regions)
        prior = population_prior(rung)
        posterior = dataclasses.replace(
            built.posterior,
            names=prior.names,
            mean=prior.mean,
            cholesky=np.linalg.cholesky(prior.covariance),
            draws=prior.draws(4, np.random.default_rng(cycle)),
            model=rung.name,
            diagnostics={**built.posterior.diagnostics, "innovation_chi2_per_n": CHI2[cycle], "n_obs": 40},
        )
        state = dataclasses.replace(
            built,
            model=rung.name,
            posterior=posterior,
            valid_time_h=built.evidence.therapy().time_h,
            identity={**built.identity, "settings": settings},
            summary={**built.summary, "ligand": "PSMA-617"},
        )
        found[state.id] = state
        parent = state.id
    return found


@pytest.mark.parametrize(("model", "treated"), [("", True), ("another", True), ("", False)])
def test_what_a_cycle_is_concluded_with_is_what_the_next_one_begins_with(model, treated):
    store = course(4, ON)
    state = list(store.values())[-1]
    model = model or state.model
    given = state.evidence.administrations if treated else ()
    state = dataclasses.replace(
        state,
        model=model,
        posterior=dataclasses.replace(state.posterior, model=model),
        evidence=dataclasses.replace(state.evidence, administrations=given),
    )
    counts = (model, treated) == ("sum_of_exponentials", True)
    expected = inflation([(2.4, 40), (9.0, 40)]) if counts else 1.0  # else the run of surprising cycles ends here
    assert inflation_now(store, ON, state.parent, state.posterior, treated) == inflation_after(store, ON, state) == expected
    assert (expected > 1.0) == counts
    assert inflation_now(store, OFF, state.parent, state.posterior, treated) == inflation_after(store, OFF, state) == 1.0


def test_a_profile_is_around_the_prior_that_the_state_was_fitted_with():
    variance = {}
    for name, settings in (("on", ON), ("off", OFF)):
        store = course(4, settings)
        state = list(store.values())[-1]
        rung = rung_for(state.model, "PSMA-617", state.evidence.regions)
        variance[name] = np.diag(prior_of(store, state, rung).covariance)
    assert (variance["on"] >= variance["off"]).all()
    assert (variance["on"] > variance["off"]).any()


def test_a_design_believes_of_the_next_cycle_what_the_states_own_forecast_does():
    state = list(course(3, ON).values())[-1]
    wider = dataclasses.replace(state, summary={**state.summary, "inflation": 2.2})
    narrow, wide = (np.diag(_next_cycle(s)[0].covariance) for s in (state, wider))
    assert (wide >= narrow).all()
    assert (wide > narrow).any()
