"""Down the ladder: the richest kinetic model that the data allow, and why the richer ones were refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from tdt_core.assimilation.estimators import assimilate
from tdt_core.assimilation.problem import Prior
from tdt_core.errors import EstimationError, ModelError
from tdt_core.kinetics import KineticModel, covariates_of, rung_for
from tdt_core.twin import Evidence, Posterior

LADDER = ("whole_body", "sum_of_exponentials")
"""Rungs that a cycle is fitted with where no model is set, the richest first."""

LADDER_NAME = "ladder"
"""What a fit that goes down the ladder is called; its posterior names the rung that was used."""

MISFIT_PROBABILITY = 1e-3
"""How often a right model's organ counts as misfitting. Assumed."""

LACKING = ("model.amount", "model.ligand", "model.solver", "model.value", "model.flow", "model.coefficient")
"""Kinds of model errors that say what this patient's data lack for a rung; any other is a fault, and stands."""


def rungs_of(model: str) -> tuple[str, ...]:
    """Rungs that a fit by the name of a model may use, in order."""
    return LADDER if model == LADDER_NAME else (model,)


def poorly_fitted(diagnostics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Organ -> its `two_j` and `n_obs`, where a right model misfits so less often than MISFIT_PROBABILITY."""
    return {
        organ: misfit
        for organ, misfit in diagnostics["misfit_by_organ"].items()
        if misfit["two_j"] > stats.chi2.ppf(1 - MISFIT_PROBABILITY, misfit["n_obs"])
    }


def assimilate_on(
    rungs: Sequence[str],
    ligand: str,
    evidence: Evidence,
    prior_for: Callable[[KineticModel], Prior],
    estimator: str = "map",
    *,
    seed: tuple[int, ...] = (0,),
    n_draws: int = 500,
) -> Posterior:
    """Posterior of the first of `rungs` that has what it needs and fits.

    A rung is refused with the error that it raises (no ligand amount, a ligand without parameters, no solution), or because
    organs fit poorly that the next rung fits. `diagnostics["refused"]` lists (rung, reason) of those that were tried and not
    used.

    Parameters
    ----------
    prior_for : prior over a rung's parameters; it may refuse a rung by EstimationError.

    Raises
    ------
    The last rung's error where none can be used.
    """
    refused: list[dict[str, str]] = []
    best: Posterior | None = None
    for i, name in enumerate(rungs):
        try:
            rung = rung_for(name, ligand, evidence.regions, covariates_of(evidence))
            found = assimilate(prior_for(rung), evidence, rung, estimator, seed=seed, n_draws=n_draws)
        except (EstimationError, ModelError, np.linalg.LinAlgError) as error:
            fault = isinstance(error, ModelError) and error.kind not in LACKING
            if fault or (best is None and i == len(rungs) - 1):
                raise
            reason = f"the fit has no covariance ({error})" if isinstance(error, np.linalg.LinAlgError) else error.found
            refused.append({"rung": name, "reason": reason})
            continue
        if best is None:
            best = found
        elif len(poorly_fitted(found.diagnostics)) < len(poor := poorly_fitted(best.diagnostics)):
            worst = ", ".join(f"{o} (2J/n {m['two_j'] / m['n_obs']:.1f})" for o, m in poor.items())
            refused.append({"rung": best.model, "reason": f"it does not fit {worst}, which {found.model} fits better"})
            best = found
        else:
            break
        if not poorly_fitted(best.diagnostics):
            break
    assert best is not None  # the last rung's error was raised
    return replace(best, diagnostics={**best.diagnostics, "refused": refused})
