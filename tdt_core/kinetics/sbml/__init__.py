"""Interchange with SBML: `export` writes any ODE model, `read` makes a model of a subset."""

from tdt_core.kinetics.sbml.names import Identifiers, identifiers
from tdt_core.kinetics.sbml.reader import SbmlModel, read
from tdt_core.kinetics.sbml.writer import export

__all__ = ["Identifiers", "SbmlModel", "export", "identifiers", "read"]
