"""Radiopharmacokinetic models behind one protocol: the ladder of rungs."""

from tdt_core.kinetics import compartmental as _compartmental
from tdt_core.kinetics import sum_of_exponentials as _sum_of_exponentials
from tdt_core.kinetics.ladder import KineticModel, log_jacobian_by_differences, model, register, rungs, to_natural

__all__ = ["KineticModel", "log_jacobian_by_differences", "model", "register", "rungs", "to_natural"]

_REGISTERED = (_compartmental, _sum_of_exponentials)
