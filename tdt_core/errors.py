"""One exception tree. Every error says what was found, what was expected and what to do, and carries a stable `kind`."""

from __future__ import annotations

from functools import partial
from typing import Any


class TwinError(Exception):
    """Base of all errors that this project raises on purpose.

    Parameters
    ----------
    found : what was found, in words a physicist can act on; never an identity of a person.
    expected : what was expected instead.
    remedy : what to do about it.
    kind : stable machine-readable reason, `area.reason`; the class gives a default.
    """

    kind = "twin.error"

    def __init__(self, found: str, *, expected: str = "", remedy: str = "", kind: str | None = None) -> None:
        self.found, self.expected, self.remedy = found, expected, remedy
        if kind is not None:
            self.kind = kind
        parts = [found]
        if expected:
            parts.append(f"Expected: {expected}")
        if remedy:
            parts.append(f"Do: {remedy}")
        super().__init__(" ".join(p if p.endswith(".") else p + "." for p in parts))

    def as_dict(self) -> dict[str, str]:
        """The error as plain strings, for logs and JSON output."""
        return {"kind": self.kind, "found": self.found, "expected": self.expected, "remedy": self.remedy}


class InputError(TwinError):
    """Data from outside is refused. The default fate of the data is quarantine."""

    kind = "input.invalid"


class UnitError(InputError):
    """A unit is missing, unknown or does not fit the quantity."""

    kind = "input.unit"


class TimeError(InputError):
    """A time is missing, has no zone, or contradicts another time."""

    kind = "input.time"


class GeometryError(InputError):
    """Positions, spacings or orientations are missing or do not make a volume."""

    kind = "input.geometry"


class CalibrationError(InputError):
    """Counts cannot be turned into activity."""

    kind = "input.calibration"


class IdentityError(InputError):
    """Data of more than one person, or of nobody, in one place."""

    kind = "input.identity"


class UsageError(TwinError):
    """An argument names nothing that there is, or contradicts another: the call is wrong, not the data.

    `expected` is never left out. `remedy` needs to be given only where correcting the argument is not all that is to do.
    """

    kind = "usage.wrong"

    def __init__(self, found: str, *, expected: str, remedy: str = "correct the argument", kind: str | None = None) -> None:
        super().__init__(found, expected=expected, remedy=remedy, kind=kind)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), expected=self.expected, remedy=self.remedy, kind=self.kind), (self.found,)


class ModelError(TwinError):
    """A model was declared or called in a way that has no meaning."""

    kind = "model.invalid"


class EstimationError(TwinError):
    """A fit has no answer."""

    kind = "estimation.failed"


class ConservationError(TwinError):
    """A run-time law (energy, activity, probability) is broken: a defect of ours, never of the data."""

    kind = "conservation.broken"


class PlanningError(TwinError):
    """A limit, range or plan is contradictory."""

    kind = "planning.invalid"


class StoreError(TwinError):
    """The store on disk is damaged, locked or of an unknown version."""

    kind = "store.invalid"


class ConflictError(StoreError):
    """Another process moved the same twin first."""

    kind = "store.conflict"


class SettingsError(TwinError):
    """A setting or the installation is wrong."""

    kind = "settings.invalid"
