"""Parameters: a value never travels without its unit, its status and its source.

`tdt_core/data/*.csv` tables hold the numbers that describe a body, a drug, a nuclide or a tissue; their common columns are
`name, value, unit, distribution, sd, status, source`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal, get_args

from tdt_core.errors import ModelError

Status = Literal["measured", "literature", "calibrated", "assumed"]
Distribution = Literal["fixed", "normal", "lognormal", "logitnormal"]


@dataclass(frozen=True)
class Parameter:
    """One number with its provenance.

    Attributes
    ----------
    name : `organ.quantity`, `lesion/<tracking id>.quantity`, `ligand.quantity` or `scanner.quantity`.
    value : median in natural units (mean for `normal`).
    unit : UCUM-like unit, `1` for a pure number.
    status : measured | literature | calibrated | assumed.
    source : where the number comes from.
    distribution : how it varies between patients; `fixed` does not vary.
    sd : standard deviation in the unconstrained space (natural, log or logit).
    """

    name: str
    value: float
    unit: str
    status: Status
    source: str
    distribution: Distribution = "fixed"
    sd: float = 0.0

    def __post_init__(self) -> None:
        if self.status not in get_args(Status):
            raise ModelError(f"parameter {self.name} has status {self.status!r}", expected=f"one of {get_args(Status)}")
        if self.distribution not in get_args(Distribution):
            raise ModelError(
                f"parameter {self.name} has distribution {self.distribution!r}",
                expected=f"one of {get_args(Distribution)}",
            )
        if not self.source.strip():
            raise ModelError(f"parameter {self.name} has no source", remedy="say where the number comes from")
        if not math.isfinite(self.value) or not math.isfinite(self.sd) or self.sd < 0:
            raise ModelError(f"parameter {self.name} = {self.value} with sd {self.sd}", expected="finite, sd >= 0")
        if self.distribution == "lognormal" and self.value <= 0:
            raise ModelError(f"parameter {self.name} = {self.value} is lognormal", expected="a value > 0")
        if self.distribution == "logitnormal" and not 0 < self.value < 1:
            raise ModelError(f"parameter {self.name} = {self.value} is logit-normal", expected="0 < value < 1")

    @property
    def unconstrained(self) -> float:
        """The median in unconstrained space."""
        if self.distribution == "lognormal":
            return math.log(self.value)
        if self.distribution == "logitnormal":
            return math.log(self.value / (1 - self.value))
        return self.value


class ParameterTable(Mapping[str, Parameter]):
    """Parameters by name, in order, immutable."""

    def __init__(self, parameters: Mapping[str, Parameter] | list[Parameter]) -> None:
        items = list(parameters.values()) if isinstance(parameters, Mapping) else parameters
        self._items = {p.name: p for p in items}
        if len(self._items) != len(items):
            names = [p.name for p in items]
            twice = sorted({n for n in names if names.count(n) > 1})
            raise ModelError(f"parameters declared twice: {twice}", expected="one row per name")

    def __getitem__(self, name: str) -> Parameter:
        if name not in self._items:
            raise ModelError(f"no parameter named {name!r}", expected=f"one of {sorted(self._items)}", kind="model.name")
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def value(self, name: str) -> float:
        """Natural value of one parameter."""
        return self[name].value

    def assumed(self) -> list[Parameter]:
        """Those without a measured or literature source; outputs mark them."""
        return [p for p in self._items.values() if p.status == "assumed"]


@cache
def packaged_csv(name: str) -> tuple[dict[str, str], ...]:
    """Rows of a CSV shipped in `tdt_core/data`; lines that start with `#` say source and units and are skipped."""
    text = resources.files("tdt_core.data").joinpath(name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return tuple(csv.DictReader(lines))


@cache
def packaged_table(name: str) -> ParameterTable:
    """A packaged CSV with the columns name, value, unit, distribution, sd, status, source as a `ParameterTable`."""
    return ParameterTable(
        [
            Parameter(
                name=row["name"],
                value=float(row["value"]),
                unit=row["unit"],
                status=row["status"],  # type: ignore[arg-type]
                source=row["source"],
                distribution=row.get("distribution") or "fixed",  # type: ignore[arg-type]
                sd=float(row.get("sd") or 0.0),
            )
            for row in packaged_csv(name)
        ]
    )
