"""Samples of blood and excreta, readings of the whole body: read strictly, put on the time axis, kept with their cycle."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import inbox_builder as b
import numpy as np
import pytest

from storage.cycles import get_cycle
from storage.evidence import EvidenceStore
from storage.home import open_home
from storage.intake import Intake, read_inbox
from storage.quality import RefusedInbox
from storage.samples import CSV_HEADER, on_axis, read_samples
from storage.vault import Vault
from tdt_core.errors import InputError, TwinError
from tdt_core.nuclides import nuclide
from tdt_core.twin import Administration

LU = nuclide("Lu-177").decay_constant_per_h
SUBJECT = "ID-4711"


def at(hours: float) -> str:
    return (b.THERAPY + timedelta(hours=hours)).isoformat()


def row(
    kind="blood", start=1.0, end="", value="120", unit="kBq/mL", comparator="", sd="0.05", counter="well", counter_sd="0.03"
):
    written = [SUBJECT, kind, at(start), at(end) if end else "", value, unit, comparator, "Lu-177", sd, counter, counter_sd]
    return ",".join(written)


def written(folder: Path, *rows: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "samples.csv"
    path.write_text("\n".join([",".join(CSV_HEADER), *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return b.write_inbox(tmp_path_factory.mktemp("valid") / "inbox")


def taken(folder: Path, tmp_path: Path) -> tuple[Intake, EvidenceStore]:
    evidence = EvidenceStore(open_home(tmp_path / "home"))
    return read_inbox(folder, Vault.open(tmp_path / "vault"), evidence=evidence), evidence


def test_samples_join_the_cycle_of_their_time_in_canonical_units_and_are_evidence(valid, tmp_path):
    folder = b.copy_of(valid, tmp_path / "inbox")
    written(folder, row(), row("excreta", 0.5, 4.0, "1500", "MBq"), row(start=24.0, value="0.4", comparator="<"))
    intake, evidence = taken(folder, tmp_path)
    cycle = intake.cycles[-1]
    excreta, early, late = cycle.samples
    assert (excreta.kind, excreta.value, excreta.until_h) == ("excreta", 1500.0, pytest.approx(4.0, abs=1e-6))
    assert (early.value, early.below) == (pytest.approx(0.12), False)
    assert (late.value, late.below, late.calibration_sd) == (pytest.approx(4e-4), True, 0.03)
    assert [evidence.kind(d) for d in cycle.digests].count("samples") == 1
    assert get_cycle(evidence, b.bundles_of(evidence, intake)[cycle.number])[2].samples == cycle.samples


def test_without_the_file_the_evidence_is_what_it_was(valid, tmp_path):
    without, _ = taken(valid, tmp_path)
    folder = b.copy_of(valid, tmp_path / "inbox")
    written(folder)
    empty, _ = taken(folder, tmp_path)
    assert [c.digests for c in empty.cycles] == [c.digests for c in without.cycles]


def test_the_order_of_rows_does_not_matter(tmp_path):
    rows = [row(start=t) for t in (1.0, 4.0, 24.0)]
    forth, back = (read_samples(written(tmp_path / n, *r), (SUBJECT,)) for n, r in (("a", rows), ("b", rows[::-1])))
    assert forth == back


def test_readings_of_a_dose_rate_meter_are_relative_to_the_first_one(tmp_path):
    rates = [
        row("whole_body", t, "", v, "uSv/h", counter="meter", counter_sd="")
        for t, v in ((0.1, "50"), (4.0, "30"), (24.0, "12"))
    ]
    lines = read_samples(written(tmp_path, *rates), (SUBJECT,))
    origin = datetime.fromisoformat(at(0.0))
    given = (Administration(0.0, "p", "PSMA-617", "Lu-177", 7400.0, residual_mbq=100.0),)
    four, day = on_axis(lines, given, origin)
    assert four.value == pytest.approx(7300.0 * np.exp(-LU * 0.1) * 30 / 50)
    assert day.value / four.value == pytest.approx(12 / 30)
    assert four.calibration_id == day.calibration_id
    assert four.calibration_sd == pytest.approx(0.05)  # of the first reading, shared by the others


def test_a_sample_before_its_nuclide_was_given_is_refused_at_intake(valid, tmp_path):
    folder = b.copy_of(valid, tmp_path / "inbox")
    written(folder, row(start=-0.5))
    with pytest.raises(RefusedInbox) as e:
        taken(folder, tmp_path)
    assert "sample.time" in [item.kind for item in e.value.report.items]


def test_a_collection_belongs_to_the_cycle_in_which_it_ended(valid, tmp_path):
    folder = b.copy_of(valid, tmp_path / "inbox")
    written(folder, row("excreta", -0.25, 4.0, "1500", "MBq"))
    intake, _ = taken(folder, tmp_path)
    assert [len(c.samples) for c in intake.cycles] == [0] * (len(intake.cycles) - 1) + [1]


def test_samples_of_a_folder_without_an_administration_join_a_cycle_that_the_twin_knows(tmp_path):
    lines = read_samples(written(tmp_path, row(start=24.0)), (SUBJECT,))
    assert on_axis(lines, (), datetime.fromisoformat(at(0.0)))[0].time_h == pytest.approx(24.0)


def test_a_first_reading_that_came_late_cannot_stand_for_the_activity(tmp_path):
    lines = read_samples(written(tmp_path, row("whole_body", 5.0, "", "30", "uSv/h")), (SUBJECT,))
    given = (Administration(0.0, "p", "PSMA-617", "Lu-177", 7400.0),)
    with pytest.raises(InputError) as e:
        on_axis(lines, given, datetime.fromisoformat(at(0.0)))
    assert e.value.kind == "sample.first_reading"


def test_a_first_reading_that_is_a_limit_cannot_stand_for_the_activity(tmp_path):
    reading = row("whole_body", 0.5, "", "30", "uSv/h", comparator="<", counter="Dr Curie")
    lines = read_samples(written(tmp_path, reading), (SUBJECT,))
    given = (Administration(0.0, "p", "PSMA-617", "Lu-177", 7400.0),)
    with pytest.raises(InputError, match="is a limit") as e:
        on_axis(lines, given, datetime.fromisoformat(at(0.0)))
    assert e.value.kind == "sample.first_reading"
    assert "Curie" not in str(e.value)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (row("saliva"), "sample.kind"),
        (row(unit="cpm"), "sample.unit"),
        (row("excreta", 1.0, 4.0, unit="kBq/mL"), "sample.unit"),
        (row(value="-1"), "sample.value"),
        (row(value="nan"), "sample.value"),
        (row(value="inf"), "sample.value"),
        (row(comparator=">"), "sample.value"),
        (row(sd="0"), "sample.sd"),
        (row(sd="5"), "sample.sd"),
        (row(counter_sd="-0.1"), "sample.sd"),
        (row("excreta", 1.0, "", unit="MBq"), "sample.time"),
        (row("excreta", 4.0, 1.0, unit="MBq"), "sample.time"),
        (row(end=4.0), "sample.time"),
        (row().replace("Lu-177", "Lu-777"), "sample.nuclide"),
        (row(counter="Müller"), "sample.counter"),
        (row(counter="<b>"), "sample.counter"),
        (row().replace(SUBJECT, "ID-9"), "identity.samples"),
        (
            row().replace("+", "").replace("Z", "") if "+" not in at(1.0) else row().replace(at(1.0), at(1.0)[:19]),
            "time.zone_missing",
        ),
    ],
)
def test_a_row_without_meaning_is_refused_with_its_kind(line, kind, tmp_path):
    with pytest.raises(TwinError) as e:
        read_samples(written(tmp_path, line), (SUBJECT,))
    assert e.value.kind == kind
    assert e.value.remedy


def test_two_nuclides_counted_in_one_tube_are_two_samples_and_one_dose_rate_is_not(tmp_path):
    lines = read_samples(written(tmp_path, row(), row(value="9").replace("Lu-177", "In-111")), (SUBJECT,))
    assert [x.nuclide for x in lines] == ["In-111", "Lu-177"]
    rate = row("whole_body", 0.5, value="50", unit="uSv/h")
    with pytest.raises(InputError) as e:
        read_samples(written(tmp_path, rate, rate.replace("Lu-177", "In-111")), (SUBJECT,))
    assert e.value.kind == "sample.repeated"


def test_two_rows_of_one_sample_are_refused(tmp_path):
    with pytest.raises(InputError) as e:
        read_samples(written(tmp_path, row(), row(value="130")), (SUBJECT,))
    assert e.value.kind == "sample.repeated"
