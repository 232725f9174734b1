"""The digital reference patient: anatomy, kinetics of its own, images and labs, with known truth.

Shares neither kinetics nor estimation code with what fits; `docs/phantom.md` says how the two differ.
"""

from tdt_core.phantom.patient import Decide, ReferencePatient, reference_patient
from tdt_core.phantom.types import PRODUCTS, LabelledAnatomy, PhantomCycle, PhantomScan, PhantomSettings

__all__ = [
    "PRODUCTS",
    "Decide",
    "LabelledAnatomy",
    "PhantomCycle",
    "PhantomScan",
    "PhantomSettings",
    "ReferencePatient",
    "reference_patient",
]
