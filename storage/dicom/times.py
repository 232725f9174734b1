"""Times with a zone. A time without one is refused: an hour of doubt is 10 % of a Ga-68 activity.

The start of a scan is its AcquisitionDateTime, or AcquisitionDate and AcquisitionTime together; SeriesTime may be that of a
later reconstruction and is not used. The offset stands in the DT value or in TimezoneOffsetFromUTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone

from pydicom.dataset import Dataset

from storage.dicom.parse import text
from tdt_core.errors import TimeError

_OFFSET = re.compile(r"([+-])(\d{2})(\d{2})")
_DT = re.compile(r"(\d{14})(?:\.(\d{1,6}))?([+-]\d{4})?")
_DA = re.compile(r"\d{8}")
_TM = re.compile(r"(\d{2})(\d{2})(?:(\d{2})(?:\.(\d{1,6}))?)?")


def offset_of(written: str) -> timezone:
    """`+0100` as a zone. Raises TimeError `time.zone` outside of -12:00 to +14:00."""
    match = _OFFSET.fullmatch(written)
    if match is None:
        raise TimeError(
            "an offset from UTC that cannot be read",
            expected="such as +0100",
            remedy="correct the offset from UTC at the scanner or archive",
            kind="time.zone",
        )
    minutes = (int(match[2]) * 60 + int(match[3])) * (-1 if match[1] == "-" else 1)
    if not -12 * 60 <= minutes <= 14 * 60 or int(match[3]) > 59:
        raise TimeError(
            f"an offset from UTC of {minutes} min",
            expected="-12:00 to +14:00",
            remedy="correct the offset from UTC at the scanner or archive",
            kind="time.zone",
        )
    return timezone(timedelta(minutes=minutes))


def zone_of(d: Dataset) -> timezone | None:
    """TimezoneOffsetFromUTC of an object, None when absent."""
    written = text(d, "TimezoneOffsetFromUTC")
    return offset_of(written) if written else None


def parse_dt(written: str, zone: timezone | None, what: str) -> datetime:
    """A DT value to the second or finer; its own offset counts, else `zone`."""
    match = _DT.fullmatch(written)
    if match is None:
        raise TimeError(
            f"{what} is incomplete or malformed",
            expected="YYYYMMDDHHMMSS with an offset",
            remedy="correct the time at its source and export again",
            kind="time.format",
        )
    own = offset_of(match[3]) if match[3] else zone
    return _aware(match[1], match[2] or "", own, what)


def parse_da_tm(date: str, time: str, zone: timezone | None, what: str) -> datetime:
    """A date and a time of day that belong together."""
    match = _TM.fullmatch(time)
    if match is None or _DA.fullmatch(date) is None:
        raise TimeError(
            f"{what} is incomplete or malformed",
            expected="YYYYMMDD and HHMMSS",
            remedy="correct the time at its source and export again",
            kind="time.format",
        )
    return _aware(f"{date}{match[1]}{match[2]}{match[3] or '00'}", match[4] or "", zone, what)


def _aware(digits: str, fraction: str, zone: timezone | None, what: str) -> datetime:
    if zone is None:
        raise TimeError(
            f"{what} has no time zone",
            expected="TimezoneOffsetFromUTC, or an offset in the value",
            remedy="let the scanner or archive write the offset from UTC into its exports",
            kind="time.zone_missing",
        )
    try:
        at = datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=zone)
    except ValueError:
        raise TimeError(
            f"{what} is not a time that exists",
            expected="a date and time",
            remedy="correct the time at its source and export again",
            kind="time.format",
        ) from None
    return at + timedelta(microseconds=int((fraction + "000000")[:6]))


def acquisition_start(d: Dataset) -> datetime:
    """Start of the acquisition of one object, with zone.

    Raises
    ------
    TimeError
        `time.acquisition_missing`, `time.zone_missing`, `time.format`, or `time.contradiction` when AcquisitionDateTime and
        AcquisitionDate with AcquisitionTime are more than a second apart.
    """
    zone = zone_of(d)
    joint, date, time = (text(d, k) for k in ("AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime"))
    found = []
    if joint:
        found.append(parse_dt(joint, zone, "AcquisitionDateTime"))
    if date and time:
        own = found[0].tzinfo if found else None
        found.append(parse_da_tm(date, time, zone or (own if isinstance(own, timezone) else None), "AcquisitionTime"))
    if not found:
        raise TimeError(
            "the acquisition has no date and time",
            expected="AcquisitionDateTime, or AcquisitionDate and AcquisitionTime",
            remedy="export the acquisition time; the time of the series or of the content may be that of processing",
            kind="time.acquisition_missing",
        )
    if abs(found[0] - found[-1]) > timedelta(seconds=1):
        raise TimeError(
            "AcquisitionDateTime and AcquisitionTime disagree",
            expected="one start of the acquisition",
            remedy="ask which of them the scanner wrote, and export again",
            kind="time.contradiction",
        )
    return found[0]


def earliest(datasets: Iterable[Dataset]) -> datetime:
    """Start of a series: the earliest acquisition of its objects."""
    return min(acquisition_start(d) for d in datasets)


def parse_iso(written: object, what: str) -> datetime:
    """An ISO 8601 date and time with an offset, from a table or JSON.

    Raises
    ------
    TimeError
        `time.missing` for nothing, `time.format`, `time.zone_missing`.
    """
    if written is None or not str(written).strip():
        raise TimeError(
            f"{what} is missing",
            expected="date and time with an offset from UTC",
            remedy="enter the time; it is never assumed",
            kind="time.missing",
        )
    try:
        at = datetime.fromisoformat(str(written).strip())
    except ValueError:
        raise TimeError(
            f"{what} cannot be read",
            expected="such as 2026-03-02T09:30:00+01:00",
            remedy="correct the time at its source and export again",
            kind="time.format",
        ) from None
    if at.tzinfo is None or at.utcoffset() is None:
        raise TimeError(
            f"{what} has no time zone",
            expected="an offset from UTC, such as +01:00",
            remedy="write the offset that was in force on that day (summer time counts)",
            kind="time.zone_missing",
        )
    return at
