"""Re-estimation of the twin's parameters from each cycle's data: priors, one problem object, estimators, evolution."""

from tdt_core.assimilation.descent import LADDER_NAME, assimilate_on, poorly_fitted, rungs_of
from tdt_core.assimilation.designing import Worth, design, designs
from tdt_core.assimilation.estimators import assimilate, estimators, register
from tdt_core.assimilation.evolution import (
    adapt,
    evolve,
    next_prior,
    population_prior,
    smooth_draws,
    state_model,
    transition,
    was_treated,
)
from tdt_core.assimilation.joint import Cycle, Smoothed, smooth
from tdt_core.assimilation.problem import Prior, Problem, build_problem
from tdt_core.assimilation.transitions import Transition

__all__ = [
    "LADDER_NAME",
    "Cycle",
    "Prior",
    "Problem",
    "Smoothed",
    "Transition",
    "Worth",
    "adapt",
    "assimilate",
    "assimilate_on",
    "build_problem",
    "design",
    "designs",
    "estimators",
    "evolve",
    "next_prior",
    "poorly_fitted",
    "population_prior",
    "register",
    "rungs_of",
    "smooth",
    "smooth_draws",
    "state_model",
    "transition",
    "was_treated",
]
