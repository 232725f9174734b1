"""What parameters of different regions and patients have in common: the organ and the quantity that they stand for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tdt_core.errors import EstimationError
from tdt_core.kinetics import UPTAKE, KineticModel
from tdt_core.parameters import packaged_csv

FloatArray = npt.NDArray[np.float64]

GROUPS: Mapping[str, str] = {
    "kidneys": "kidneys",
    "parotid_glands": "glands",
    "submandibular_glands": "glands",
    "lacrimal_glands": "glands",
    "lesions": "tumours",
}
"""Organ -> group whose drift is learned together; all else is `other`."""

OTHER = "other"


def organ_and_quantity(rung: KineticModel, parameter: str) -> tuple[str, str]:
    """The organ (for what is shared by the body, its scope) and the quantity of a parameter."""
    region, _, quantity = parameter.rpartition(".")
    organs = {r.name: r.organ for r in rung.regions}
    return organs.get(region, region), quantity


def keys_of(rung: KineticModel) -> tuple[str, ...]:
    """`organ.quantity` of every parameter: what a population can learn of it, whatever the patient's regions are called."""
    return tuple(".".join(organ_and_quantity(rung, name)) for name in rung.parameters)


def relation(rung: KineticModel, parameter: str) -> Mapping[str, str]:
    """The row of `kinetics_relations.csv` that holds for a parameter. Raises EstimationError without one."""
    organ, quantity = organ_and_quantity(rung, parameter)
    rows = {(r["organ"], r["quantity"]): r for r in packaged_csv("kinetics_relations.csv")}
    quantity = "uptake" if quantity in UPTAKE else quantity
    for key in ((organ, quantity), (organ, "*"), ("*", quantity), ("*", "*")):
        if key in rows:
            return rows[key]
    raise EstimationError(
        f"no relation for parameter {parameter}",
        expected=f"a row for {organ} and {quantity}, or for `*`, in kinetics_relations.csv",
        kind="estimation.relations",
    )


def common_share(rung: KineticModel) -> FloatArray:
    """(n,) share of each parameter's variance that regions of one organ have in common."""
    return np.array([float(relation(rung, name)["common_share"]) for name in rung.parameters])


def group_of(key: str) -> str:
    """Group of a parameter's key `organ.quantity`."""
    return GROUPS.get(key.rpartition(".")[0], OTHER)
