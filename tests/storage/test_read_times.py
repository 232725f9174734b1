"""Acquisition times with a zone, over midnight and over changes of the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pydicom.dataset import Dataset

from storage.dicom.times import acquisition_start, offset_of, parse_dt, parse_iso
from tdt_core.errors import TimeError


def header(**elements: str) -> Dataset:
    d = Dataset()
    for name, value in elements.items():
        setattr(d, name, value)
    return d


def test_an_offset_inside_the_value_goes_before_that_of_the_object():
    d = header(AcquisitionDateTime="20260302120000.250+0200", TimezoneOffsetFromUTC="+0100")
    assert acquisition_start(d) == datetime(2026, 3, 2, 10, 0, 0, 250_000, tzinfo=UTC)


def test_date_and_time_are_taken_together():
    d = header(AcquisitionDate="20260302", AcquisitionTime="235930.5", TimezoneOffsetFromUTC="-0330")
    assert acquisition_start(d) == datetime(2026, 3, 3, 3, 29, 30, 500_000, tzinfo=UTC)


def test_the_series_time_is_never_taken():
    d = header(SeriesDate="20260302", SeriesTime="120000", ContentDate="20260302", TimezoneOffsetFromUTC="+0100")
    with pytest.raises(TimeError) as error:
        acquisition_start(d)
    assert error.value.kind == "time.acquisition_missing"


def test_a_scan_after_midnight_is_hours_and_not_a_day_from_one_before():
    before = header(AcquisitionDate="20260302", AcquisitionTime="235000", TimezoneOffsetFromUTC="+0100")
    after = header(AcquisitionDate="20260303", AcquisitionTime="001000", TimezoneOffsetFromUTC="+0100")
    assert acquisition_start(after) - acquisition_start(before) == timedelta(minutes=20)


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        (None, "time.missing"),
        ("", "time.missing"),
        ("02.03.2026 9:30", "time.format"),
        ("2026-03-02T09:30:00", "time.zone_missing"),
        ("2026-02-30T09:30:00+01:00", "time.format"),
    ],
)
def test_a_time_of_a_table_needs_a_date_a_time_and_an_offset(written, kind):
    with pytest.raises(TimeError) as error:
        parse_iso(written, "time")
    assert error.value.kind == kind


@pytest.mark.parametrize("written", ["+2500", "0100", "+01:00", "+1500", "+0160"])
def test_an_offset_that_does_not_exist_is_refused(written):
    with pytest.raises(TimeError):
        offset_of(written)


@pytest.mark.parametrize("written", ["2026", "20260302", "202603020930", "20261302093000", "20260302253000"])
def test_half_a_time_is_no_time(written):
    with pytest.raises(TimeError):
        parse_dt(written, offset_of("+0100"), "time")
