"""Therapies outside this system: read strictly, put on the patient's time axis, kept with the cycle that they belong to."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import inbox_builder as b
import pytest

from storage.cycles import get_cycle
from storage.evidence import EvidenceStore
from storage.home import open_home
from storage.intake import Intake, read_inbox
from storage.prior_therapy import CSV_HEADER, PriorLine, on_axis, organs, read_prior_therapy
from storage.vault import Vault
from tdt_core.errors import InputError
from tdt_core.twin import PriorTherapy

BORN = date(1955, 6, 1)
DURING = (b.THERAPY + timedelta(days=7)).date()
ROWS = f"ID-4711,red_marrow,0.4,beta_gamma,2024-03-02,dosimetry\nID-4711,liver,6.5,photon,{DURING},treatment_plan\n"


def written(folder: Path, rows: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "prior_therapy.csv"
    path.write_text(",".join(CSV_HEADER) + "\n" + rows)
    return path


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return b.write_inbox(tmp_path_factory.mktemp("valid") / "inbox")


def taken(folder: Path, tmp_path: Path) -> tuple[Intake, EvidenceStore]:
    evidence = EvidenceStore(open_home(tmp_path / "home"))
    return read_inbox(folder, Vault.open(tmp_path / "vault"), evidence=evidence), evidence


def test_rows_come_in_order_of_date_whatever_their_order_in_the_file(tmp_path):
    turned = "".join(reversed(ROWS.splitlines(keepends=True)))
    read = [read_prior_therapy(written(tmp_path / name, r), ("ID-4711",), BORN) for name, r in (("a", ROWS), ("b", turned))]
    assert read[0] == read[1]
    assert read[0][0] == PriorLine("red_marrow", 0.4, "beta_gamma", date(2024, 3, 2), "dosimetry")


@pytest.mark.parametrize("dose", ["0", "-1", "nan", "inf", "", "6 Gy", "200.1"])
def test_a_dose_that_is_no_plausible_number_is_refused(dose, tmp_path):
    path = written(tmp_path, f"ID-4711,liver,{dose},photon,2021-02-03,dosimetry\n")
    with pytest.raises(InputError) as e:
        read_prior_therapy(path, ("ID-4711",), BORN)
    assert e.value.kind == "prior.dose"


def test_organs_are_those_that_limits_can_name_and_no_side_or_lesion():
    assert {"kidneys", "red_marrow", "liver", "parotid_glands"} <= set(organs())
    assert not {"lesions", "body", "rest"} & set(organs())
    assert not [name for name in organs() if name.endswith(("_left", "_right"))]


@pytest.mark.parametrize("hour", [0, 9, 23])
def test_hours_count_in_whole_days_from_the_day_of_the_origin(hour):
    origin = datetime(2026, 3, 2, hour, 30, tzinfo=timezone(timedelta(hours=1)))
    days = (date(2026, 3, 1), date(2026, 3, 2), date(2024, 3, 2))
    lines = [PriorLine("liver", 6.0, "photon", day, "estimate") for day in days]
    assert [x.time_h for x in on_axis(lines, origin)] == [-24.0, 0.0, -24.0 * 730]


def test_an_earlier_therapy_falls_into_the_cycle_of_its_date_and_is_evidence(valid, tmp_path):
    folder = b.copy_of(valid, tmp_path / "inbox")
    written(folder, ROWS)
    intake, evidence = taken(folder, tmp_path)
    zero, one = intake.cycles
    assert zero.prior_therapies == (PriorTherapy(-24.0 * 730, "red_marrow", 0.4, "beta_gamma", "dosimetry"),)
    assert one.prior_therapies == (PriorTherapy(24.0 * 7, "liver", 6.5, "photon", "treatment_plan"),)
    for cycle in intake.cycles:
        assert [evidence.kind(d) for d in cycle.digests].count("prior_therapies") == 1
    (bundle,) = b.bundles_of(
        evidence, intake
    ).values()  # without regions there is no cycle 0: what was before counts in cycle 1
    assert get_cycle(evidence, bundle)[2].prior_therapies == (*zero.prior_therapies, *one.prior_therapies)


def test_without_the_file_the_evidence_is_what_it_was(valid, tmp_path):
    without, _ = taken(valid, tmp_path)
    folder = b.copy_of(valid, tmp_path / "inbox")
    written(folder, "")
    empty, _ = taken(folder, tmp_path)
    assert [c.digests for c in empty.cycles] == [c.digests for c in without.cycles]
    assert all(c.prior_therapies == () for c in empty.cycles)


def test_a_bundle_of_an_earlier_version_has_no_earlier_therapies(valid, tmp_path):
    intake, evidence = taken(valid, tmp_path)
    plain = evidence.get_json(b.bundles_of(evidence, intake)[1])
    old = evidence.put_json("cycle", {k: v for k, v in plain.items() if k != "prior_therapies"} | {"lesions": []})
    assert get_cycle(evidence, old)[2].prior_therapies == ()
