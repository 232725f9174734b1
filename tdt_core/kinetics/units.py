"""Units of measure as a scale and powers of base dimensions, so that rules can be checked for closure.

Written as in the data tables: `nmol/L/min`, `1/min`, `m2`, `mL/min/{1.73_m2}` (a comment in braces has no dimension).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tdt_core.errors import UnitError

_BASE = ("m", "s", "kg", "mol")
_SYMBOLS: dict[str, tuple[float, tuple[float, float, float, float]]] = {
    "1": (1.0, (0, 0, 0, 0)),
    "m": (1.0, (1, 0, 0, 0)),
    "cm": (1e-2, (1, 0, 0, 0)),
    "mm": (1e-3, (1, 0, 0, 0)),
    "L": (1e-3, (3, 0, 0, 0)),
    "dL": (1e-4, (3, 0, 0, 0)),
    "mL": (1e-6, (3, 0, 0, 0)),
    "s": (1.0, (0, 1, 0, 0)),
    "min": (60.0, (0, 1, 0, 0)),
    "h": (3600.0, (0, 1, 0, 0)),
    "d": (86400.0, (0, 1, 0, 0)),
    "a": (365.25 * 86400.0, (0, 1, 0, 0)),
    "kg": (1.0, (0, 0, 1, 0)),
    "g": (1e-3, (0, 0, 1, 0)),
    "mg": (1e-6, (0, 0, 1, 0)),
    "ug": (1e-9, (0, 0, 1, 0)),
    "mol": (1.0, (0, 0, 0, 1)),
    "umol": (1e-6, (0, 0, 0, 1)),
    "nmol": (1e-9, (0, 0, 0, 1)),
    "Bq": (1.0, (0, -1, 0, 0)),
    "MBq": (1e6, (0, -1, 0, 0)),
    "GBq": (1e9, (0, -1, 0, 0)),
    "Gy": (1.0, (2, -2, 0, 0)),
}


@dataclass(frozen=True)
class Unit:
    """`scale` x m^a s^b kg^c mol^d with `powers` (a, b, c, d)."""

    scale: float = 1.0
    powers: tuple[float, float, float, float] = (0, 0, 0, 0)

    def __mul__(self, other: Unit) -> Unit:
        a, b, c, d = (p + q for p, q in zip(self.powers, other.powers, strict=True))
        return Unit(self.scale * other.scale, (a, b, c, d))

    def __truediv__(self, other: Unit) -> Unit:
        return self * other**-1.0

    def __pow__(self, exponent: float) -> Unit:
        a, b, c, d = (p * exponent for p in self.powers)
        return Unit(self.scale**exponent, (a, b, c, d))

    def same(self, other: Unit) -> bool:
        """Equal in dimension and size."""
        near = all(abs(p - q) < 1e-9 for p, q in zip(self.powers, other.powers, strict=True))
        return near and abs(self.scale / other.scale - 1) < 1e-9

    def __str__(self) -> str:
        powers = [f"{b}{p:g}" if p != 1 else b for b, p in zip(_BASE, self.powers, strict=True) if p]
        if not powers:
            return "1" if abs(self.scale - 1) < 1e-9 else f"{self.scale:g}"
        return (f"{self.scale:g} " if self.scale != 1 else "") + ".".join(powers)


PURE = Unit()


def parse_unit(text: str) -> Unit:
    """`nmol/L/min` -> Unit.

    Raises
    ------
    UnitError for an empty text or an unknown symbol.
    """
    if not text.strip():
        raise UnitError("a unit is missing", expected="a unit such as nmol/L, or 1 for a pure number")
    out = PURE
    for i, factors in enumerate(re.sub(r"\{[^}]*\}", "1", text.strip()).split("/")):
        for factor in factors.split("."):
            match = re.fullmatch(r"(1|[A-Za-z]+)(-?\d+)?", factor)
            if match is None or match[1] not in _SYMBOLS:
                raise UnitError(f"unit {text!r} holds {factor!r}", expected=f"symbols among {', '.join(_SYMBOLS)}")
            one = Unit(*_SYMBOLS[match[1]]) ** float(match[2] or 1)
            out = out / one if i else out * one
    return out


def conversion(found: str, wanted: str, what: str) -> float:
    """Factor that turns a number in the unit `found` into one in `wanted`; `what` names the number in errors.

    Raises
    ------
    UnitError for a unit that is missing, unknown or of something else.
    """
    if found.strip() and found.strip() == wanted.strip():
        return 1.0
    try:
        theirs, ours = parse_unit(found), parse_unit(wanted)
    except UnitError as error:
        expected = "a number without a unit" if wanted.strip() == "1" else f"{wanted}, or one that converts to it"
        raise UnitError(f"{what}: {error.found}", expected=f"{expected} ({error.expected})") from None
    if any(abs(a - b) > 1e-9 for a, b in zip(ours.powers, theirs.powers, strict=True)):
        raise UnitError(
            f"{what} is given in {found}", expected=f"{wanted}, or a unit that converts to it", remedy="correct the unit"
        )
    return theirs.scale / ours.scale
