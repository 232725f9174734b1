"""Parameters as tables: what a model writes makes the same model, and what cannot be meant is refused by row and name."""

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from tdt_core.errors import InputError, UnitError
from tdt_core.kinetics import parameter_tables as tables
from tdt_core.kinetics import rung_for, rungs, sbml, simulate
from tdt_core.kinetics.ode_models import body_regions, ode_models
from tdt_core.kinetics.pbrpk import pbrpk
from tdt_core.twin import Administration

MODELS = ode_models()
PSMA = pbrpk("psma")
REGIONS = body_regions(PSMA)
VIAL = Administration(0.0, "vial", "PSMA-617", "Lu-177", 7400.0, 110.0)


def through(rows, form):
    """Rows after a way through text."""
    return tables.from_csv(tables.to_csv(rows))[1] if form == "csv" else tables.from_json(tables.to_json(rows))[1]


# --- there and back


@pytest.mark.parametrize("name", MODELS)
def test_the_table_of_a_model_changes_nothing_of_it(name):
    model = MODELS[name]()
    for form in ("csv", "json"):
        rows = through(tables.parameter_rows(model), form)
        assert [r["name"] for r in rows] == list(model.parameters)
        assert tables.overrides(model, rows) == {}


@pytest.mark.parametrize("name", rungs())
def test_the_table_of_a_rung_gives_back_its_medians_and_what_was_changed(name):
    rung = rung_for(name, "PSMA-617", REGIONS)
    first, *_, last = rung.parameters
    given = {first: 1.1 * rung.parameters[first].value, last: rung.parameters[last].value}
    for form in ("csv", "json"):
        assert tables.overrides(rung, through(tables.parameter_rows(rung), form)) == {}
        assert tables.overrides(rung, through(tables.parameter_rows(rung, given), form)) == given


GIVEN = {
    "psma": {"TER": 0.2, "kidney_left.volume": 0.15, "K_D": 0.1 + 0.2, "creatinine": 1.0},
    "psma_reference": {"kidneys.R_density": 30.0, "tumour_rest.lambda_rel": 1e-4},
    "compartmental": {"plasma.clearance": 0.1 + 0.2, "kidney_left.receptor_density": 45.0, "release.returned": 0.5},
    "psma_reduced": {"kidneys.R_density": 30.0, "weight": 80.0},
}


@pytest.mark.parametrize("form", ["csv", "json"])
@pytest.mark.parametrize("name", GIVEN)
def test_a_table_makes_the_same_simulation_to_the_last_bit(name, form):
    model = MODELS[name]()
    given = GIVEN[name]
    rows = through(tables.parameter_rows(model, given), form)
    again = tables.overrides(model, rows)
    wanted, found = (simulate(model, g, [VIAL], [4.0, 24.0]) for g in (given, again))
    for what in ("amount_nmol", "activity_mbq", "tia_mbq_h"):
        np.testing.assert_array_equal(found[what], wanted[what])
    assert {r["name"]: r["status"] for r in rows if r["status"] == "given"} == dict.fromkeys(again, "given")


def test_a_model_that_was_read_from_sbml_has_a_table_too():
    model = sbml.read(sbml.export(pbrpk("psma_reference")))
    given = {"kidneys.R0": 9.0}
    rows = through(tables.parameter_rows(model, given), "csv")
    assert len(rows) == len(model.parameters)
    assert list(tables.overrides(model, rows).values()) == [9.0]


def test_both_forms_name_the_model_and_what_it_was_made_with():
    model = PSMA.without("spleen").with_options(release="recycled", plasma_binding="albumin").with_ligand("PSMA-11")
    rows, wanted = tables.parameter_rows(model), tables.about(model)
    assert wanted == {
        "model": "psma", "release": "recycled", "plasma_binding": "albumin", "turnover": "none", "daughters": "none",
        "ligand": "PSMA-11", "without": "spleen",
    }  # fmt: skip
    for about, again in (
        tables.from_csv(tables.to_csv(rows, about=wanted)),
        tables.from_json(tables.to_json(rows, wanted)),
    ):
        assert about == wanted
        assert len(again) == len(model.parameters)


@settings(max_examples=50, deadline=None)
@drawn(st.floats(min_value=1e-12, max_value=1e12))
def test_a_number_keeps_its_last_bit(value):
    rows = tables.parameter_rows(PSMA, {"liver.R_density": value})
    for form in ("csv", "json"):
        again = through([r for r in rows if r["name"] == "liver.R_density"], form)
        assert float(again[0]["value"]) == value


def test_a_table_may_hold_some_parameters_in_other_units_and_derived_rows():
    text = (
        "# a patient\nname,value,unit,rule,status,source\n"
        'liver.volume,1500,mL,,measured,"CT, today"\n'
        f"body.weight,{PSMA.parameters['body.weight'].value},kg,,assumed,as in the model\n"
        "body.BSA,9,m2,sqrt(height*weight/3600),literature,derived\n"
        "kidneys.TER,200,mL/min,,given,MAG3\n"
    )
    about, rows = tables.from_csv(text)
    found = tables.overrides(PSMA, rows)
    assert about == {}
    assert found == pytest.approx({"liver.volume": 1.5, "kidneys.TER": 0.2})


def test_what_a_patient_has_anyhow_is_not_given():
    rows = tables.parameter_rows(PSMA, {"TER": 0.2, "liver.volume": 1.5})
    for row in rows:
        row["status"] = "calibrated"
    assert tables.overrides(PSMA, rows, {"liver.volume": 1.5}) == {"kidneys.TER": 0.2}
    assert tables.overrides(PSMA, rows, {"liver.volume": 1.6}) == {"kidneys.TER": 0.2, "liver.volume": 1.5}


def test_a_parameter_that_follows_from_what_is_given_is_left_out():
    names = {r["name"] for r in tables.parameter_rows(PSMA, {"K_D": 2.0})}
    assert {r["name"] for r in tables.parameter_rows(PSMA)} - names == {"ligand.k_off"}
    assert "ligand.K_D" in names


def test_a_given_value_keeps_where_it_comes_from():
    rows = tables.parameter_rows(PSMA, {"TER": 0.2, "liver.volume": 1.5}, {"liver.volume": "CT of today"})
    said = {r["name"]: (r["status"], r["source"]) for r in rows if r["status"] == "given"}
    assert said == {"kidneys.TER": ("given", "given by hand"), "liver.volume": ("given", "CT of today")}


def test_every_row_has_a_unit_a_status_and_a_source():
    for row in csv.DictReader(io.StringIO(tables.to_csv(tables.parameter_rows(PSMA)))):
        assert tuple(row) == tables.COLUMNS
        assert all(cell.strip() for cell in row.values()), row


# --- refusals

ROW = {"name": "liver.volume", "value": 1.5, "unit": "L", "status": "measured", "source": "CT"}


@pytest.mark.parametrize(
    ("change", "error", "kind", "words"),
    [
        ({"name": "liver.volum"}, InputError, "model.quantity", r"row 1.*liver\.volum.*liver\.volume"),
        ({"name": "R_density"}, InputError, "model.quantity", r"row 1.*belongs to"),
        ({"unit": "kg"}, UnitError, "input.unit", r"row 1.*liver\.volume is given in kg.*Expected: L"),
        ({"unit": "litres"}, UnitError, "input.unit", r"row 1.*liver\.volume.*'litres'.*Expected: L"),
        ({"unit": ""}, UnitError, "input.unit", r"row 1.*liver\.volume.*unit is missing"),
        ({"unit": None}, UnitError, "input.unit", r"unit is missing"),
        ({"value": "nan"}, InputError, "input.value", r"row 1.*liver\.volume = 'nan'.*finite"),
        ({"value": float("inf")}, InputError, "input.value", r"liver\.volume = inf.*finite"),
        ({"value": "1e999"}, InputError, "input.value", r"liver\.volume = '1e999'.*finite"),
        ({"value": "1.5 L"}, InputError, "input.value", r"'1\.5 L'.*without a unit"),
        ({"value": None}, InputError, "input.value", r"liver\.volume = None"),
        ({"value": True}, InputError, "input.value", r"liver\.volume = True"),
        ({"value": -1.5}, InputError, "model.value", r"liver\.volume = -1\.5 L"),
        (
            {"status": "sure"},
            InputError,
            "input.parameters",
            r"status 'sure'.*measured, literature, calibrated, assumed, given",
        ),
        ({"source": " "}, InputError, "input.parameters", r"source ''.*where the number comes from"),
    ],
)
def test_a_row_that_cannot_be_meant_is_refused(change, error, kind, words):
    with pytest.raises(error, match=f"(?s){words}") as caught:
        tables.overrides(PSMA, [ROW | change])
    assert caught.value.kind == kind


def test_the_same_parameter_twice_is_refused_by_whatever_name():
    with pytest.raises(InputError, match=r"row 2.*kidneys\.TER is there twice"):
        tables.overrides(PSMA, [ROW | {"name": n, "value": 0.2, "unit": "L/min"} for n in ("TER", "kidneys.TER")])


def test_a_rung_names_what_it_lacks_and_checks_its_values():
    rung = rung_for("sum_of_exponentials", "PSMA-617", REGIONS)
    name = "kidney_left.slow_half_time"
    for change, words in (({"name": "kidney_left.slow_halftime"}, name), ({"name": name, "value": -3.0}, "value > 0")):
        with pytest.raises(InputError, match=words):
            tables.overrides(rung, [ROW | {"unit": "h"} | change])


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (tables.from_csv, "", r"columns none"),
        (tables.from_csv, "name,value,unit\n", r"add status, source"),
        (tables.from_csv, "name,value,unit,status,source,name\n", r"each once"),
        (tables.from_csv, "name,value,unit,status,source\na,1,L,assumed,x,y\n", r"row 1.*6 cells"),
        (tables.from_csv, "name,value,unit,status,source\na,1,L\n", r"row 1.*3 cells"),
        (tables.from_json, "{", r"no JSON"),
        (tables.from_json, "3", r"without a list of parameters"),
        (tables.from_json, json.dumps({"model": "psma"}), r"without a list of parameters"),
        (tables.from_json, json.dumps([1]), r"without a list of parameters"),
        (tables.from_json, json.dumps([{"name": "a"}]), r"row 1.*add value, unit, status, source"),
    ],
)
def test_a_text_that_is_no_table_is_refused(read, text, words):
    with pytest.raises(InputError, match=words) as caught:
        read(text)
    assert caught.value.kind == "input.parameters"
