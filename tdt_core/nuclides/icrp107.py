"""Emission records of ICRP Publication 107, read from the `icrp107-database` package (a dependency; nothing is vendored).

Each file of that package holds JSON text inside a JSON string, so it is parsed twice. Energies are MeV, yields per decay.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.errors import InputError

FloatArray = npt.NDArray[np.float64]

HOURS = {"us": 1e-6 / 3600, "ms": 1e-3 / 3600, "s": 1 / 3600, "m": 1 / 60, "h": 1.0, "d": 24.0, "y": 24.0 * 365.2422}

_ELEMENT_FIRST = re.compile(r"^([A-Za-z]{1,2})[\s-]*(\d{1,3})\s*(m|n)?$")
_MASS_FIRST = re.compile(r"^\^?(\d{1,3})\s*(m|n)?\^?[\s-]*([A-Za-z]{1,2})$")


def normalise_name(name: str) -> str:
    """`Lu-177` from `Lu-177`, `Lu177`, `lu 177`, `177Lu` or `^177^Lu`. Raises InputError when it is no nuclide name."""
    text = name.strip()
    if match := _ELEMENT_FIRST.match(text):
        element, mass, state = match.groups()
    elif match := _MASS_FIRST.match(text):
        mass, state, element = match.groups()
    else:
        raise InputError(
            f"{name!r} is not the name of a nuclide",
            expected="element and mass number, such as Lu-177 or Tc-99m",
            kind="input.nuclide",
        )
    return f"{element.capitalize()}-{int(mass)}{state or ''}"


def is_listed(name: str) -> bool:
    """Whether ICRP 107 lists emissions of the nuclide."""
    return (resources.files("icrp107_database") / "icrp107" / f"{normalise_name(name)}.json").is_file()


@cache
def record(name: str) -> dict[str, Any]:
    """The parsed record of one nuclide. Raises InputError when ICRP 107 does not list it."""
    canonical = normalise_name(name)
    path = resources.files("icrp107_database") / "icrp107" / f"{canonical}.json"
    if not path.is_file():
        raise InputError(
            f"nuclide {canonical} is not among the 1252 nuclides of ICRP Publication 107",
            expected="a radionuclide, such as Lu-177, Y-90 or Ac-225",
            remedy="check the spelling and the mass number",
            kind="input.nuclide",
        )
    parsed: dict[str, Any] = json.loads(json.loads(path.read_text(encoding="utf-8")))
    return parsed


def half_life_h(name: str) -> float:
    """Physical half-life, hours."""
    entry = record(name)
    return float(entry["half_life"]) * HOURS[entry["time_unit"]]


def lines(name: str, *kinds: str) -> FloatArray:
    """(n, 2) energies in keV and yields per decay of the given kinds of emission, in the order of the file."""
    emissions = record(name)["emissions"]
    rows = [row for kind in kinds for row in emissions.get(kind, [])]
    table = np.array(rows, dtype=np.float64).reshape(-1, 2)
    return table * (1000.0, 1.0)


def beta_table(name: str) -> FloatArray:
    """(n, 2) beta spectrum, both signs: energy in keV, number per keV and decay. Empty where there are no betas."""
    table = np.array(record(name)["emissions"].get("b-spectra", []), dtype=np.float64).reshape(-1, 2)
    return table * (1000.0, 0.001)
