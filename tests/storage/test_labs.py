"""Laboratory results: units, censoring, corrections and retractions, from CSV and from FHIR alike."""

from __future__ import annotations

import json
import random
from datetime import timedelta

import inbox_builder as b
import pytest

from storage.lab_codes import BY_LOINC, LAB_CODES, UNIT_SPELLINGS
from storage.labs import Line, canonical, loinc_check_digit, merged, read_lab_csv, read_lab_fhir, results
from tdt_core.errors import InputError, TwinError

DAY = b.THERAPY - timedelta(days=1)


def from_csv(rows, tmp_path) -> list[Line]:
    path = tmp_path / "labs.csv"
    path.write_text(b.lab_csv(rows))
    return read_lab_csv(path, (b.PERSON.id,))[0]


def from_fhir(rows, tmp_path) -> list[Line]:
    path = tmp_path / "labs.fhir.json"
    path.write_text(json.dumps(b.lab_fhir(rows)))
    return read_lab_fhir(path, (b.PERSON.id,))[0]


def row(value=1.0, code="2160-0", unit="mg/dL", comparator="", status="final", record="R1", at=DAY):
    return (at, code, value, unit, comparator, status, record)


def test_every_listed_code_has_a_right_check_digit_and_every_unit_a_factor():
    assert all(loinc_check_digit(code) for code in BY_LOINC)
    for row_ in LAB_CODES.values():
        assert row_.factors[row_.unit] == 1.0
        assert {u for units in row_.codes.values() for u in units} == set(row_.factors)
    assert all(any(unit in r.factors for r in LAB_CODES.values()) for unit in UNIT_SPELLINGS.values())


@pytest.mark.parametrize(
    ("loinc", "value", "unit", "expected"),
    [
        ("14682-9", 88.40, "umol/L", 1.0),  # creatinine, 113.12 g/mol
        ("14682-9", 88.40, "µmol/L", 1.0),
        ("14631-6", 17.104, "umol/L", 1.0),  # bilirubin, 584.66 g/mol
        ("59260-0", 8.0, "mmol/L", 12.89),  # haemoglobin monomer
        ("718-7", 128.0, "g/L", 12.8),
        ("1751-7", 41.0, "g/L", 4.1),
        ("1988-5", 1.2, "mg/dL", 12.0),
        ("2532-0", 4.0, "ukat/L", 240.0),
        ("777-3", 210.0, "10*3/uL", 210.0),
        ("98979-8", 64.5, "mL/min/1.73m2", 64.5),
        ("2857-1", 4.0, "ug/L", 4.0),
    ],
)
def test_units_come_to_the_canonical_one(loinc, value, unit, expected):
    assert canonical(BY_LOINC[loinc], loinc, value, unit, "") == pytest.approx(expected, rel=1e-3)


def test_an_absolute_clearance_is_no_indexed_egfr():
    with pytest.raises(TwinError) as error:
        canonical(BY_LOINC["98979-8"], "98979-8", 70.0, "mL/min", "")
    assert error.value.kind == "labs.unit"


@pytest.mark.parametrize("read", [from_csv, from_fhir])
def test_a_censored_value_stays_censored(read, tmp_path):
    (line,) = read([row(0.01, "2857-1", "ng/mL", "<")], tmp_path)
    assert (line.comparator, line.value) == ("<", 0.01)
    (result,) = results([line], b.THERAPY, lambda r: "token")
    assert (result.comparator, result.time_h, result.record) == ("<", -24.0, "token")


@pytest.mark.parametrize("read", [from_csv, from_fhir])
def test_a_correction_replaces_what_it_corrects(read, tmp_path):
    lines = read([row(1.1), row(1.4, status="corrected"), row(2.0, record="R2", at=DAY + timedelta(hours=1))], tmp_path)
    for seed in range(5):
        random.Random(seed).shuffle(lines)
        standing, remarks = merged(lines)
        assert [v.value for v in standing] == [1.4, 2.0]
        assert any("corrected" in r for r in remarks)


@pytest.mark.parametrize("read", [from_csv, from_fhir])
def test_a_retraction_takes_the_result_away_and_needs_no_value(read, tmp_path):
    lines = read([row(1.1), row(status="entered-in-error", unit="mg/dL"), row(2.0, record="R2")], tmp_path)
    standing, remarks = merged(lines)
    assert [v.value for v in standing] == [2.0]
    assert remarks == ["a result was retracted"]


def test_of_two_corrections_the_one_issued_last_holds():
    issued = [
        Line("R1", "corrected", "creatinine", DAY, value, "mg/dL", "", f"2026-03-0{day}T09:00:00+01:00")
        for day, value in ((3, 1.2), (4, 1.3))
    ]
    assert merged(issued)[0][0].value == merged(issued[::-1])[0][0].value == 1.3
    with pytest.raises(InputError) as error:
        merged([Line("R1", "corrected", "creatinine", DAY, v, "mg/dL") for v in (1.2, 1.3)])
    assert error.value.kind == "labs.contradiction"


def test_the_same_results_as_fhir_and_csv_count_once_under_any_record_number(tmp_path):
    csv, fhir = from_csv(b.LABS, tmp_path), from_fhir(b.LABS, tmp_path)
    assert csv == fhir
    other = [Line(f"X-{v.record}", v.status, v.analyte, v.at, v.value, v.unit, v.comparator) for v in fhir]
    for lines in (csv + fhir, csv + other, other + csv):
        standing = merged(lines)[0]
        assert [(v.analyte, v.value) for v in standing] == [(v.analyte, v.value) for v in merged(csv)[0]]


def test_results_that_are_not_final_and_analytes_that_are_not_used_are_left_out_and_said(tmp_path):
    path = tmp_path / "labs.csv"
    path.write_text(b.lab_csv([row(status="preliminary"), row(4.1, "2823-3", "mmol/L", record="R2"), row(record="R3")]))
    lines, remarks = read_lab_csv(path, (b.PERSON.id,))
    assert len(lines) == 1
    assert remarks == ["LOINC 2823-3 is not used and was left out", "a result of status preliminary was left out"]


def test_a_bundle_of_somebody_else_is_refused_however_it_names_the_person(tmp_path):
    for change in (
        lambda d: d["entry"][0]["resource"].update(identifier=[{"value": "CANARY-9"}]),
        lambda d: d["entry"][2]["resource"].update(subject={"reference": "Patient/CANARY-9"}),
        lambda d: d["entry"][2]["resource"].update(subject={"identifier": {"value": "CANARY-9"}}),
        lambda d: d["entry"][2]["resource"].pop("subject"),
    ):
        data = b.lab_fhir()
        change(data)
        path = tmp_path / "labs.fhir.json"
        path.write_text(json.dumps(data))
        with pytest.raises(TwinError) as error:
            read_lab_fhir(path, (b.PERSON.id,))
        assert error.value.kind == "identity.labs"
        assert "CANARY" not in str(error.value)


def test_a_code_of_another_system_is_no_loinc_code(tmp_path):
    data = b.lab_fhir()
    data["entry"][1]["resource"]["code"]["coding"][0]["system"] = "http://local"
    path = tmp_path / "labs.fhir.json"
    path.write_text(json.dumps(data))
    with pytest.raises(TwinError) as error:
        read_lab_fhir(path, (b.PERSON.id,))
    assert error.value.kind == "labs.code"
