"""Reading JSON and CSV from outside with limits on size and depth."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from storage.files import require_regular
from tdt_core.errors import IdentityError, InputError

MAX_BYTES = 64 * 2**20
MAX_DEPTH = 32


def read_text(path: Path) -> str:
    """A UTF-8 text of limited size. Raises InputError `file.link`, `file.size`, `file.encoding`."""
    require_regular(path, MAX_BYTES)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(
            "a text that is not UTF-8", expected="UTF-8", remedy="save it as UTF-8", kind="file.encoding"
        ) from None


def read_json(path: Path) -> Any:
    """JSON of limited size and depth, without NaN, infinity or repeated keys. Raises InputError `file.json`."""
    try:
        data = json.loads(read_text(path), parse_constant=_no_constant, object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError):
        raise InputError(
            "a JSON file that cannot be read",
            expected="JSON without NaN, infinity and repeated keys",
            remedy="check the file with a JSON tool and export it again",
            kind="file.json",
        ) from None
    _check_depth(data, 0)
    return data


def _no_constant(name: str) -> float:
    raise ValueError("a number that is not finite")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a repeated key")
    return out


def _check_depth(data: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise InputError(
            "a JSON file nested too deep",
            expected=f"at most {MAX_DEPTH} levels",
            remedy="flatten the file; it is not in the form that is read here",
            kind="file.json",
        )
    if isinstance(data, (dict, list)):
        for item in data.values() if isinstance(data, dict) else data:
            _check_depth(item, depth + 1)


def read_csv_of(path: Path, header: tuple[str, ...], subjects: Sequence[str], what: str, kind: str) -> list[dict[str, str]]:
    """Rows as `read_csv` gives them, of one patient alone.

    Parameters
    ----------
    subjects : what may stand in the column `pseudonym`. what : the rows in words, plural. kind : of the refusal.

    Raises IdentityError for a row of anybody else, InputError `file.csv`.
    """
    rows = read_csv(path, header)
    if any(row["pseudonym"] not in subjects for row in rows):
        raise IdentityError(
            f"{what} of somebody else, or of nobody",
            expected="the patient of the administration record in every row",
            remedy=f"list the {what} of this patient alone",
            kind=kind,
        )
    return rows


def read_csv(path: Path, header: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a CSV file with exactly this header, values stripped. Raises InputError `file.csv`."""
    lines = list(csv.reader(io.StringIO(read_text(path))))
    if not lines or tuple(c.strip() for c in lines[0]) != header:
        raise InputError(
            "a CSV file with another header", expected=",".join(header), remedy="export with that header", kind="file.csv"
        )
    rows = [line for line in lines[1:] if any(c.strip() for c in line)]
    for n, line in enumerate(rows, start=2):
        if len(line) != len(header):
            raise InputError(
                f"line {n} has {len(line)} columns",
                expected=f"{len(header)}",
                remedy="export the table again with points for decimals (9.9, not 9,9); a comma within a field must be quoted",
                kind="file.csv",
            )
    return [dict(zip(header, (c.strip() for c in line), strict=True)) for line in rows]
