"""Radiopharmacokinetic models: the whole-body engine, and the ladder of rungs that the twin fits.

`model(name)` gives a whole-body model as data; `simulate` and `simulate_batch` run it; `rung_for` gives a rung of the ladder
for a patient's regions.
"""

from tdt_core.kinetics import compartmental as _compartmental
from tdt_core.kinetics import lumping as _lumping
from tdt_core.kinetics import sum_of_exponentials as _sum_of_exponentials
from tdt_core.kinetics import whole_body as _whole_body
from tdt_core.kinetics.covariates import covariates_of
from tdt_core.kinetics.ladder import (
    UPTAKE,
    KineticModel,
    Sampled,
    log_jacobian_by_differences,
    register,
    rung_for,
    rungs,
    to_natural,
    uptake_parameter,
)
from tdt_core.kinetics.pbrpk import pbrpk as model
from tdt_core.kinetics.progeny import activity_by_energy, as_parent, followed, kept_in_place, shifts, source_activity
from tdt_core.kinetics.sensitivity import sensitivities
from tdt_core.kinetics.simulation import simulate, simulate_batch
from tdt_core.kinetics.theranostic import transfer

__all__ = [
    "UPTAKE",
    "KineticModel",
    "Sampled",
    "activity_by_energy",
    "as_parent",
    "covariates_of",
    "followed",
    "kept_in_place",
    "log_jacobian_by_differences",
    "model",
    "register",
    "rung_for",
    "rungs",
    "sensitivities",
    "shifts",
    "simulate",
    "simulate_batch",
    "source_activity",
    "to_natural",
    "transfer",
    "uptake_parameter",
]

_REGISTERED = (_compartmental, _lumping, _sum_of_exponentials, _whole_body)
