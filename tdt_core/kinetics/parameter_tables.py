"""Parameters as plain tables: name, value, unit, status, source.

A table holds every parameter of a model and what was given to it, numbers to the last bit. Read back it gives what differs from
the model's own parameters, and what was given, so that the same model makes the same simulation. For anything that has
`parameters`: whole-body models, other systems of equations, rungs of the ladder.

Both forms also say the model's name and options: CSV in lines `# model: psma` above the header, JSON as
`{"model": ..., "release": ..., "quantities": [rows]}`.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, get_args

import numpy as np

from tdt_core.errors import InputError, ModelError
from tdt_core.kinetics.pbrpk import OPTIONS
from tdt_core.kinetics.rules import RuleTable
from tdt_core.kinetics.units import conversion
from tdt_core.parameters import ParameterTable, Status

COLUMNS = ("name", "value", "unit", "status", "source")
GIVEN = "given"
BY_HAND = "given by hand"
Row = Mapping[str, Any]


class Parametric(Protocol):
    """What has named parameters. Where it has a `table` of rules, derived quantities can be given too."""

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def parameters(self) -> ParameterTable:
        """Its parameters, with unit, status and source."""


def options_of(model: object) -> dict[str, str]:
    """What a model was made with, by option, organs that it is without among them; of one that was read, what its file said."""
    said = getattr(model, "options", None)
    if isinstance(said, Mapping):
        return dict(said)
    out = {name: str(value) for name in (*OPTIONS, "ligand") if (value := getattr(model, name, ""))}
    without = " ".join(o.name for o in getattr(model, "left_out", ()))
    return out | ({"without": without} if without else {})


# --- from a model ----------------------------------------------------------------------------------------------------


def parameter_rows(
    model: Parametric, given: Mapping[str, float] | None = None, sources: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Every parameter, and derived quantities that are given; without parameters that follow from what is given.

    Parameters
    ----------
    given : values by name for whatever differs from the model's own, as in `simulate`; their status is `given`.
    sources : where a given value comes from, by the same name; else `given by hand`.

    Raises
    ------
    InputError : as `overrides`.
    """
    own = {_resolve(model, name, "the given values"): (name, float(np.real(value))) for name, value in (given or {}).items()}
    table = getattr(model, "table", None)
    follows = table.followers(own) if isinstance(table, RuleTable) else frozenset()
    rows = []
    for name in dict.fromkeys((*model.parameters, *own)):
        if name in follows:
            continue
        if name in own:
            written, value = own[name]
            status, source = GIVEN, (sources or {}).get(written, BY_HAND)
        else:
            p = model.parameters[name]
            value, status, source = p.value, p.status, p.source
        rows.append({"name": name, "value": value, "unit": _unit(model, name), "status": status, "source": source})
    return rows


def about(model: Parametric) -> dict[str, str]:
    """Name and options of a model, for the head of its table."""
    return {"model": model.name, **options_of(model)}


def to_csv(rows: Iterable[Row], columns: Sequence[str] = COLUMNS, about: Mapping[str, str] | None = None) -> str:
    """Rows as CSV, numbers to the last bit, under a line `# name: value` for each item of `about`."""
    out = io.StringIO()
    out.writelines(f"# {name}: {_one_line(value)}\n" for name, value in (about or {}).items())
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([repr(row[c]) if isinstance(row[c], float) else row[c] for c in columns] for row in rows)
    return out.getvalue()


def to_json(rows: Iterable[Row], about: Mapping[str, str] | None = None) -> str:
    """Rows as JSON, after the items of `about`."""
    body = {**(about or {}), "quantities": [dict(row) for row in rows]}
    return json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())


# --- to a model ------------------------------------------------------------------------------------------------------


def from_csv(text: str) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """What `to_csv` wrote: the lines above the header, and the rows. Other lines that start with `#` are skipped.

    Raises
    ------
    InputError `input.parameters` for a header without the columns of `COLUMNS`, or a row of another length.
    """
    lines = [line for line in text.lstrip("\ufeff").splitlines() if line.strip()]
    said = [line[1:].partition(":") for line in lines if line.startswith("#")]
    found = list(csv.reader(line for line in lines if not line.startswith("#")))
    header = [c.strip() for c in found[0]] if found else []
    _check_columns(header, "the header")
    for n, cells in enumerate(found[1:], start=1):
        if len(cells) != len(header):
            raise InputError(
                f"row {n} of the parameters has {len(cells)} cells",
                expected=f"{len(header)}, one for each column",
                remedy="put a text with commas into double quotes",
                kind="input.parameters",
            )
    rows = [dict(zip(header, (c.strip() for c in cells), strict=True)) for cells in found[1:]]
    return {name.strip(): value.strip() for name, colon, value in said if colon and value.strip()}, rows


def from_json(text: str) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """What `to_json` wrote, items of `about` and rows; or a bare list of rows.

    Raises
    ------
    InputError `input.parameters` for anything else.
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("parameters that are no JSON", expected="JSON", kind="input.parameters") from None
    rows = body.get("quantities") if isinstance(body, dict) else body
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(
            "JSON without a list of parameters",
            expected='{"model": ..., "quantities": [{"name": ..., "value": ..., "unit": ..., "status": ..., "source": ...}]}',
            kind="input.parameters",
        )
    for n, row in enumerate(rows, start=1):
        _check_columns(list(row), f"row {n}")
    about = {k: v for k, v in body.items() if isinstance(v, str)} if isinstance(body, dict) else {}
    return about, rows


def is_derived(row: Row) -> bool:
    """Whether a row tells a quantity that follows by a `rule`, and so is not given."""
    return bool(str(row.get("rule") or "").strip())


def overrides(model: Parametric, rows: Iterable[Row], usual: Mapping[str, float] | None = None) -> dict[str, float]:
    """What to give to a model so that it has these parameters: those that differ from its own, and those marked `given`.

    A table may hold some parameters only, in any unit that converts. Rows with a `rule` are derived and left out.

    Parameters
    ----------
    usual : values that the model is given anyhow, by full name; a row with the same value is left out.

    Raises
    ------
    InputError
        `model.quantity` an unknown name, with near ones; `input.parameters` a parameter twice, an unknown status, no source;
        `input.value` a value that is no finite number; what the model refuses of its value, with the model's kind.
    UnitError : a unit that is missing, unknown or of something else.
    """
    out: dict[str, float] = {}
    seen: set[str] = set()
    for n, row in enumerate(rows, start=1):
        where = f"row {n} of the parameters"
        if is_derived(row):
            continue
        name = _resolve(model, str(row["name"]).strip(), where)
        if name in seen:
            raise InputError(f"{where}: {name} is there twice", expected="each parameter once", kind="input.parameters")
        seen.add(name)
        value = value_in(row, _unit(model, name), f"{where}: {name}")
        status = str(row["status"] or "").strip()
        if status not in (*get_args(Status), GIVEN) or not str(row["source"] or "").strip():
            raise InputError(
                f"{where}: {name} has the status {status!r} and the source {str(row['source'] or '').strip()!r}",
                expected=f"one of {', '.join((*get_args(Status), GIVEN))}, and where the number comes from",
                remedy="fill in both columns",
                kind="input.parameters",
            )
        own = model.parameters[name].value if name in model.parameters else None
        if status == GIVEN or value != (usual or {}).get(name, own):
            out[name] = value
    _check(model, out)
    return out


def value_in(row: Row, unit: str, where: str) -> float:
    """The value of a row in a unit; `where` names the row in errors. Raises as `overrides`."""
    raw = row["value"]
    try:
        value = math.nan if isinstance(raw, bool) else float(raw)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise InputError(
            f"{where} = {raw!r}", expected="a finite number without a unit", remedy="correct it", kind="input.value"
        )
    return value * conversion(str(row["unit"] or ""), unit, where)


def _check_columns(found: Sequence[str], where: str) -> None:
    missing = [c for c in COLUMNS if c not in found]
    if missing or len(set(found)) < len(found):
        raise InputError(
            f"{where} of the parameters has the columns {', '.join(found) or 'none'}",
            expected=f"{', '.join(COLUMNS)}, each once",
            remedy=f"add {', '.join(missing)}" if missing else "name each column once",
            kind="input.parameters",
        )


def _resolve(model: Parametric, name: str, where: str) -> str:
    table = getattr(model, "table", None)
    if not isinstance(table, RuleTable):
        if name in model.parameters:
            return name
        near = difflib.get_close_matches(name, list(model.parameters), n=4)
        expected = f"one of {', '.join(near or list(model.parameters)[:8])}"
        raise InputError(
            f"{where}: {model.name} has no parameter {name!r}",
            expected=expected,
            remedy="correct the name",
            kind="model.quantity",
        )
    try:
        return table.resolve(name)
    except ModelError as error:
        raise InputError(f"{where}: {error.found}", expected=error.expected, remedy=error.remedy, kind=error.kind) from None


def _unit(model: Parametric, name: str) -> str:
    table = getattr(model, "table", None)
    return str(table[name].unit if isinstance(table, RuleTable) else model.parameters[name].unit)


def _check(model: Parametric, given: Mapping[str, float]) -> None:
    """Let the model judge the values."""
    try:
        if isinstance(table := getattr(model, "table", None), RuleTable):
            getattr(model, "quantities", table.evaluate)(given)
        else:
            for name, value in given.items():
                replace(model.parameters[name], value=value)
    except ModelError as error:
        raise InputError(error.found, expected=error.expected, remedy=error.remedy, kind=error.kind) from None
