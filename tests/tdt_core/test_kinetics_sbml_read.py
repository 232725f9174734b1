"""SBML files of others: what the reader takes them for, and what it refuses."""

import re
from pathlib import Path

import libsbml
import numpy as np
import pytest
import roadrunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tdt_core.errors import ModelError
from tdt_core.kinetics import sbml
from tdt_core.kinetics.pbrpk import pbrpk
from tdt_core.kinetics.sbml.laws import Affine, Form, NotMassAction, Scalar, constant, form_of, name
from tdt_core.kinetics.simulation import simulate
from tdt_core.twin import Administration

# --- files


def mathml(formula):
    """MathML of an infix formula."""
    text = libsbml.writeMathMLToString(libsbml.parseL3Formula(formula))
    return text.partition("?>")[2]


def reaction(name, reactants, products, formula, count="", also=""):
    """A reaction; `also` and species of its law that it does not change are modifiers. `count`: stoichiometry of products."""
    sides = {"listOfReactants": (reactants.split(), ""), "listOfProducts": (products.split(), count)}
    others = [*sorted(SPECIES & set(re.findall(r"\w+", formula)) - {*reactants.split(), *products.split()}), *also.split()]
    inside = ""
    for side, (names, more) in sides.items():
        references = "".join(f'<speciesReference species="{s}"{more}/>' for s in names)
        inside += f"<{side}>{references}</{side}>" if names else ""
    modifiers = "".join(f'<modifierSpeciesReference species="{s}"/>' for s in others)
    inside += f"<listOfModifiers>{modifiers}</listOfModifiers>" if modifiers else ""
    return f'<reaction id="{name}">{inside}<kineticLaw>{mathml(formula)}</kineticLaw></reaction>'


SPECIES = {"serum", "interstitial", "bound", "inside"}
UPTAKE = "bound", "inside", "lambda*bound"
BINDING = "tissue*k_on*interstitial*free/tissue - k_off*bound"
SEEN = "exp(-time/100)*(serum*blood + inside)^3"
LOCAL = "<listOfParameters><parameter id='k' value='0.0004'/></listOfParameters>"
SMALL = f"""<?xml version="1.0" encoding="UTF-8"?>
<sbml xmlns="http://www.sbml.org/sbml/level2/version4" level="2" version="4"><model id="small" name="a small model">
<listOfFunctionDefinitions>
  <functionDefinition id="exchange">{mathml("lambda(PS, from, to, PS*(from - to))")}</functionDefinition>
</listOfFunctionDefinitions>
<listOfUnitDefinitions>
  <unitDefinition id="substance"><listOfUnits><unit kind="mole" scale="-9"/></listOfUnits></unitDefinition>
  <unitDefinition id="time"><listOfUnits><unit kind="second" multiplier="60"/></listOfUnits></unitDefinition>
</listOfUnitDefinitions>
<listOfCompartments>
  <compartment id="blood"/> <compartment id="tissue" name="the tissue" size="0.5"/> <compartment id="bladder" size="1"/>
</listOfCompartments>
<listOfSpecies>
  <species id="serum" compartment="blood" initialConcentration="0"/>
  <species id="interstitial" compartment="tissue" initialConcentration="0"/>
  <species id="bound" compartment="tissue" initialAmount="0" hasOnlySubstanceUnits="true"/>
  <species id="inside" compartment="tissue" initialAmount="0" hasOnlySubstanceUnits="true"/>
  <species id="urine" compartment="bladder" initialAmount="0" hasOnlySubstanceUnits="true" boundaryCondition="true"/>
</listOfSpecies>
<listOfParameters>
  <parameter id="weight" value="70"/> <parameter id="serum_per_weight" value="0.04"/> <parameter id="PS" value="0.3"/>
  <parameter id="lambda" value="0.002" name="internalisation"/> <parameter id="k_on" value="0.05"/>
  <parameter id="K_D" value="8"/> <parameter id="density" value="40"/> <parameter id="R0" constant="false"/>
  <parameter id="free" constant="false"/> <parameter id="k_off" constant="false"/> <parameter id="seen" constant="false"/>
</listOfParameters>
<listOfInitialAssignments>
  <initialAssignment symbol="blood">{mathml("weight*serum_per_weight")}</initialAssignment>
  <initialAssignment symbol="R0">{mathml("density*tissue")}</initialAssignment>
</listOfInitialAssignments>
<listOfRules>
  <assignmentRule variable="free">{mathml("R0 - bound")}</assignmentRule>
  <assignmentRule variable="k_off">{mathml("k_on*K_D")}</assignmentRule>
  <assignmentRule variable="seen">{mathml(SEEN)}</assignmentRule>
</listOfRules>
<listOfReactions>
{reaction("leak", "serum", "interstitial", "exchange(PS, serum, interstitial)")}
{reaction("binding", "interstitial", "bound", BINDING)}
{reaction("uptake", *UPTAKE)}
{reaction("release", "inside", "interstitial", "k*inside").replace("</math>", "</math>" + LOCAL)}
{reaction("filtration", "serum", "urine", "0.06*serum")}
</listOfReactions></model></sbml>
"""  # fmt: skip

GIVEN = Administration(0.0, "example", "example", "Lu-177", 1000.0, 25.0)
CELLS = {"serum": ("blood", "serum"), "interstitial": ("the tissue", "interstitial"), "bound": ("the tissue", "bound")}
CELLS |= {"inside": ("the tissue", "inside")}


def changed(*edits, text=SMALL):
    """The small file with parts of it replaced; each must be there."""
    for old, new in edits:
        if old not in text:
            raise LookupError(old)
        text = text.replace(old, new)
    return text


def amounts(model, times_h):
    """species -> nmol at times after an administration of 25 nmol."""
    found = simulate(model, None, [GIVEN], times_h).sel(label="total").amount_nmol
    return {s: found.sel(region=r, part=p).values for s, (r, p) in CELLS.items()}


def test_a_small_file_of_level_2_means_what_libroadrunner_takes_it_for():
    model = sbml.read(SMALL, entry="serum")
    assert model.regions == ("blood", "the tissue")
    times_h = [0.1, 1.0, 8.0, 48.0]
    started = changed(
        ('"serum" compartment="blood" initialConcentration="0"', '"serum" compartment="blood" initialAmount="25"')
    )
    runner = roadrunner.RoadRunner(started)
    runner.integrator.relative_tolerance, runner.integrator.absolute_tolerance = 1e-11, 1e-14
    ran = np.array(runner.simulate(times=[0.0, *(60.0 * t for t in times_h)], selections=list(CELLS)))[1:]
    found = amounts(model, times_h)
    for i, species in enumerate(CELLS):
        np.testing.assert_allclose(found[species], ran[:, i], rtol=1e-6, atol=1e-9)
    assert sbml.read(started, entry="serum").initial_nmol == pytest.approx(25.0)


def test_parameters_of_a_file_are_given_by_identifier_or_name_and_what_follows_is_recomputed():
    model = sbml.read(SMALL, entry="serum")
    base, other = model.quantities(), model.quantities({"weight": 105.0, "internalisation": 0.004, "density": 10.0})
    assert float(other["sbml.blood"]) == pytest.approx(1.5 * float(base["sbml.blood"]))
    assert float(other["sbml.R0"]) == pytest.approx(0.25 * float(base["sbml.R0"]))
    rates = model.coefficients({"lambda": np.array([0.001, 0.003])})
    np.testing.assert_allclose(rates["internalisation"], [0.001, 0.003])
    with pytest.raises(ModelError, match="seen"):  # what has no effect cannot be given
        model.quantities({"seen": 1.0})


SECONDS = changed(
    ('<unit kind="second" multiplier="60"/>', '<unit kind="second"/>'),
    ('id="PS" value="0.3"', 'id="PS" value="0.005"'),
    ('id="lambda" value="0.002"', f'id="lambda" value="{0.002 / 60}"'),
    ('id="k_on" value="0.05"', f'id="k_on" value="{0.05 / 60}"'),
    ("value='0.0004'", f"value='{0.0004 / 60}'"),
    (mathml("0.06*serum"), mathml("0.001*serum")),
)
MOLES = changed(
    ('<unit kind="mole" scale="-9"/>', '<unit kind="mole"/>'),
    ('id="k_on" value="0.05"', 'id="k_on" value="5e7"'),
    ('id="K_D" value="8"', 'id="K_D" value="8e-9"'),
    ('id="density" value="40"', 'id="density" value="4e-8"'),
)
SHARE = changed((mathml(BINDING), mathml("k_on*R0*interstitial*(1 - bound/R0) - k_off*bound")))
START = '<initialAssignment symbol="{}">{}</initialAssignment>'
SITES = changed(
    ('<parameter id="free" constant="false"/>', ""),
    (f'<assignmentRule variable="free">{mathml("R0 - bound")}</assignmentRule>', ""),
    ("</listOfSpecies>", '<species id="free" compartment="tissue" hasOnlySubstanceUnits="true"/></listOfSpecies>'),
    ("</listOfInitialAssignments>", f"{START.format('free', mathml('R0'))}</listOfInitialAssignments>"),
    (
        reaction("binding", "interstitial", "bound", BINDING),
        reaction("binding", "interstitial free", "bound", "k_on*interstitial*free - k_off*bound"),
    ),
    (reaction("uptake", *UPTAKE), reaction("uptake", "bound", "inside free", "lambda*bound")),
)  # fmt: skip


RULED = changed(
    ('<parameter id="free" constant="false"/>', ""),
    ("</listOfSpecies>", '<species id="free" compartment="tissue" hasOnlySubstanceUnits="true"/></listOfSpecies>'),
    (reaction("binding", "interstitial", "bound", BINDING), reaction("binding", "interstitial", "bound", BINDING, also="free")),
)
WAYS = {"seconds": SECONDS, "moles": MOLES, "1 - B/R0": SHARE, "species of free sites": SITES, "species by a rule": RULED}


@pytest.mark.parametrize("text", WAYS.values(), ids=WAYS)
def test_the_same_model_written_in_another_way_is_the_same(text):
    wanted, found = (amounts(sbml.read(t, entry="serum"), [0.5, 5.0, 50.0]) for t in (SMALL, text))
    for species, amount in wanted.items():
        np.testing.assert_allclose(found[species], amount, rtol=1e-9, atol=1e-12)


def test_a_capacity_that_is_given_as_the_amount_of_free_sites_follows_its_assignment():
    given = {"density": 20.0}
    a, b = (simulate(sbml.read(t, entry="serum"), given, [GIVEN], [5.0]) for t in (SMALL, SITES))
    np.testing.assert_allclose(a.amount_nmol, b.amount_nmol.reindex_like(a), rtol=1e-9, atol=1e-12)


EMPTY = 'initialAmount="0" substanceUnits="nmol" hasOnlySubstanceUnits="true"'


def test_where_only_ligand_and_sites_meet_the_entry_is_the_ligand():
    others = [
        reaction("leak", "serum", "interstitial", "exchange(PS, serum, interstitial)"),
        reaction("uptake", "bound", "inside free", "lambda*bound"),
        reaction("release", "inside", "interstitial", "k*inside").replace("</math>", "</math>" + LOCAL),
        reaction("filtration", "serum", "urine", "0.06*serum"),
    ]
    turned = (mathml("k_on*interstitial*free - k_off*bound"), mathml("k_on*free*interstitial - k_off*bound"))
    model = sbml.read(changed(turned, *((o, "") for o in others), text=SITES), entry="interstitial")
    assert [s.part for s in model.network().states] == ["interstitial", "bound"]
    bound = float(simulate(model, None, [GIVEN], [100.0]).amount_nmol.sel(label="total", part="bound").sum())
    volume, sites, k_d = 0.5, 20.0, 8.0
    assert (25.0 - bound) / volume * (sites - bound) == pytest.approx(k_d * bound, rel=1e-6)


LABELLED = f"""<?xml version="1.0" encoding="UTF-8"?>
<sbml xmlns="http://www.sbml.org/sbml/level2/version4" level="2" version="4"><model id="pairs">
<listOfUnitDefinitions>
  <unitDefinition id="nmol"><listOfUnits><unit kind="mole" multiplier="1e-9"/></listOfUnits></unitDefinition>
  <unitDefinition id="per_minute">
    <listOfUnits><unit kind="second" exponent="-1"/><unit kind="dimensionless" multiplier="0.0166666666666667"/></listOfUnits>
  </unitDefinition>
</listOfUnitDefinitions>
<listOfCompartments>
  <compartment id="c1" name="Vein" size="1"/><compartment id="c2" name="Kidney" size="1"/>
</listOfCompartments>
<listOfSpecies>
{"".join(f'<species id="{i}" name="{n}" compartment="{c}" {EMPTY}/>'
         for i, n, c in (("a1", "Hot", "c1"), ("a2", "Cold", "c1"), ("b1", "Hot", "c2"), ("b2", "Cold", "c2")))}
</listOfSpecies>
<listOfParameters>
  <parameter id="k" value="0.1" units="per_minute"/><parameter id="back" value="0.02" units="per_minute"/>
  <parameter id="decay" value="7.24e-5" units="per_minute"/>
</listOfParameters>
<listOfReactions>
{reaction("hot_flow", "a1", "b1", "k*a1 - back*b1")}{reaction("cold_flow", "a2", "b2", "k*a2 - back*b2")}
{reaction("decay_a", "a1", "a2", "decay*a1")}{reaction("decay_b", "b1", "b2", "decay*b1")}
</listOfReactions></model></sbml>
"""  # fmt: skip


def test_a_file_of_hot_and_cold_ligand_is_read_as_their_total():
    model = sbml.read(LABELLED, entry="a1", labels=("hot", "cold"), time_unit="min")
    assert [s.name for s in model.network().states] == ["ligand/Vein/pool", "ligand/Kidney/pool"]
    assert set(model.network().coefficients) == {"k", "back"}
    vein = simulate(model, None, [GIVEN], [1.0]).amount_nmol.sel(label="total", region="Vein", part="pool")
    assert float(vein[0]) == pytest.approx(25.0 * (0.02 + 0.1 * np.exp(-0.12 * 60.0)) / 0.12, rel=1e-7)


# --- what is outside

MIXED = "k_on*serum*interstitial"
EVENT = f"""<listOfEvents><event id="dose"><trigger>{mathml("time > 5")}</trigger><listOfEventAssignments>
<eventAssignment variable="serum">{mathml("serum + 1")}</eventAssignment></listOfEventAssignments></event></listOfEvents>"""


def with_reaction(*parts):
    return changed(("</listOfReactions>", f"{reaction(*parts)}</listOfReactions>"))


RATE_RULE = (
    ('assignmentRule variable="seen"', 'rateRule variable="seen"'),
    (f"{mathml(SEEN)}</assignmentRule>", f"{mathml('serum')}</rateRule>"),
)
TWICE = (reaction("uptake", *UPTAKE), reaction("uptake", *UPTAKE, ' stoichiometry="2"'))
PS = '<parameter id="PS" value="0.3"/>'
BOUND = 'id="bound" compartment="tissue" initialAmount='
MINUTE, NMOL = '<unit kind="second" multiplier="60"/>', '<unit kind="mole" scale="-9"/>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<sbml", r"line \d.*valid SBML"),
        ('<?xml version="1.0"?><html/>', r"line \d.*valid SBML"),
        ("some file.xml", r"no XML.*read the file"),
        ("", r"no XML.*read the file"),
        ("<sbml/>".encode("utf-16"), r"not encoded in UTF-8.*save"),
        (Path("some file.xml"), r"Path.*text of an SBML document.*read the file"),
        (changed(("<sbml", "<!DOCTYPE sbml><sbml")), r"document type definition.*DOCTYPE"),
        (changed(("level2/version4", "level2/version3"), ('version="4"', 'version="3"')), r"Level 2 Version 3.*convert"),
        (changed(('compartment="blood"', 'compartment="lymph"')), r"line \d+.*lymph"),
        (changed(('functionDefinition id="exchange"', 'functionDefinition id="swap"')), r"line \d+.*exchange"),
        (changed(("</listOfReactions>", f"</listOfReactions>{EVENT}")), r"event 'dose'.*schedule of simulate"),
        (changed(*RATE_RULE), r"rate rule of seen.*assignment rules.*simulate"),
        (changed(TWICE), r"uptake changes -1 bound, \+2 inside.*one to one.*split"),
        (with_reaction("sum", "serum interstitial", "inside", MIXED), r"law of sum.*second order in serum and inter.*Network"),
        (with_reaction("clearing", "serum", "", "PS*serum/(K_D + serum)"), r"law of clearing.*a division by amounts.*rewrite"),
        (with_reaction("trio", "serum", "inside", "k_on*serum*interstitial*bound"), r"law of trio.*more than two amounts"),
        (with_reaction("square", "serum", "inside", "k_on*serum^2"), r"law of square.*a product of amounts that is not"),
        (with_reaction("plus", "serum", "bound", "k_on*serum*(R0 + bound)"), r"law of plus.*a product of amounts that is not"),
        (with_reaction("root", "serum", "inside", "serum^0.5"), r"law of root.*to the power 0\.5"),
        (with_reaction("tide", "serum", "inside", "serum*sin(time)"), r"law of tide.*holds time"),
        (with_reaction("wave", "serum", "inside", "serum*sin(PS)"), r"law of wave.*function sin"),
        (with_reaction("drip", "", "serum", "0.1"), r"law of drip.*zeroth order.*administration"),
        (with_reaction("aid", "serum", "inside", "PS*bound"), r"law of aid.*depends on bound.*does not use up"),
        (changed((PS, '<parameter id="PS"/>')), r"PS has no finite value.*give PS a value"),
        (changed((PS, '<parameter id="PS" value="INF"/>')), r"PS has no finite value"),
        (changed(('compartment="blood" initialConcentration="0"', 'compartment="blood"')), r"serum has no initial value"),
        (changed((f'{BOUND}"0"', f'{BOUND}"2"')), r"bound starts at 2.*administrations"),
        (changed((NMOL, '<unit kind="gram"/>')), r"serum is not counted in moles"),
        (changed((MINUTE, '<unit kind="dimensionless"/>')), r"time in time.*unit of time"),
    ],
)
def test_what_is_outside_the_subset_is_refused_with_its_element_and_a_remedy(text, words):
    with pytest.raises(ModelError, match=f"(?s){words}") as caught:
        sbml.read(text, entry="serum")
    error = caught.value
    assert error.kind == "model.sbml"
    assert error.expected
    assert error.remedy


def test_sites_that_come_and_go_are_refused_because_a_network_has_a_fixed_number():
    lost = f"{reaction('loss', 'free', '', 'PS*free')}</listOfReactions>"
    with pytest.raises(ModelError, match=r"law of binding.*second order in interstitial and free.*Network"):
        sbml.read(changed(("</listOfReactions>", lost), text=SITES), entry="serum")


def test_an_entry_must_be_named_and_known():
    for entry in (None, "urine", "blood"):
        with pytest.raises(ModelError, match=r"administrations enter .*serum, interstitial, bound, inside.*pass entry"):
            sbml.read(SMALL, entry=entry)


def test_bytes_are_read_as_text_is():
    a, b = (sbml.read(source, entry="serum") for source in (SMALL, b"\xef\xbb\xbf" + SMALL.encode()))
    assert a.rules == b.rules
    assert a.network().states == b.network().states


def test_a_number_of_the_annotation_that_is_none_is_refused():
    text = sbml.export(pbrpk("psma_reference"), {"TER": 0.2})
    assert sbml.read(text).given == {"TER": 0.2}
    for bad in ("much", "nan", "inf"):
        with pytest.raises(ModelError, match=rf"TER as '{bad}'.*finite") as caught:
            sbml.read(changed(('value="0.2"/>', f'value="{bad}"/>'), text=text))
        assert caught.value.kind == "model.sbml"


def test_units_of_level_3_have_no_default():
    text = sbml.export(pbrpk("psma_reference"))
    assert sbml.read(text).initial_nmol == 0
    for lacking in (' timeUnits="min"', ' substanceUnits="nmol"'):
        with pytest.raises(ModelError, match=r"no unit of"):
            sbml.read(text.replace(lacking, ""))


DECAY_B = reaction("decay_b", "b1", "b2", "decay*b1")
PAIR = {"labels": ("Hot", "Cold"), "time_unit": "min"}


@pytest.mark.parametrize(
    ("edit", "options", "words"),
    [
        (None, {}, r"law of hot_flow is in .*60 s.*amount \(1e-09 mol\) per.*time \(1 s\).*pass time_unit"),
        (None, {"time_unit": "fortnight"}, r"'fortnight'.*s, min, h, d"),
        (None, PAIR | {"labels": ("warm", "cold")}, r"a1 \(Hot\) names none.*warm, cold"),
        ((DECAY_B, ""), PAIR, r"Hot ligand in Kidney pool does not decay"),
        ((mathml("decay*b1"), mathml("k*b1")), PAIR, r"Hot ligand decays at several rates"),
        ((DECAY_B, reaction("decay_b", "b1", "a2", "decay*b1")), PAIR, r"decay_b turns one label into another"),
        (
            (mathml("k*a2 - back*b2"), mathml("back*a2 - back*b2")),
            PAIR,
            r"Hot ligand moves from Vein pool to Kidney pool at k, Cold ligand does not",
        ),
    ],
)
def test_labels_that_are_not_alike_and_units_that_contradict_are_refused(edit, options, words):
    with pytest.raises(ModelError, match=f"(?s){words}") as caught:
        sbml.read(changed(*([edit] if edit else []), text=LABELLED), entry="a1", **options)
    assert caught.value.kind == "model.sbml"


def test_a_negative_rate_is_refused():
    with pytest.raises(ModelError, match=r"internalisation is -0\.002"):
        sbml.read(changed(('id="lambda" value="0.002"', 'id="lambda" value="-0.002"')), entry="serum")


# --- arithmetic of laws

VALUES = {"S": 1.3, "B": 0.4, "k": 0.7, "v": 2.5, "R": 3.1}


FUNCTIONS = {"exp(-k)": np.exp(-0.7), "ln(1 + v)": np.log(3.5), "k^2": 0.49, "S^2": 1.69, "root(2, v)": np.sqrt(2.5)}


def formulas():
    def grow(inner):
        two = st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
        return st.one_of(
            two, inner.map(lambda t: f"(-{t})"), st.sampled_from(["exp(-k)", "ln(1 + v)", "k^2", "S^2", "root(2, v)"])
        )

    return st.recursive(st.sampled_from([*VALUES, "2", "0.5"]), grow, max_leaves=10)


def value_of(form):
    def scalar(s):
        return eval(s.text, {"exp": np.exp, "log": np.log}, VALUES)

    def affine(a):
        return scalar(a.const) + sum(scalar(weight) * VALUES[species] for species, weight in a.terms.items())

    return affine(form.affine) + sum(affine(a) * affine(b) for a, b in form.products)


@given(formulas())
@settings(max_examples=300, deadline=None)
def test_a_law_keeps_its_value_whatever_form_it_is_brought_into(formula):
    def symbol(identifier):
        return Form(Affine(terms={identifier: Scalar()})) if identifier in "SB" else constant(name(identifier))

    plain = formula
    for function, value in FUNCTIONS.items():
        plain = plain.replace(function, repr(float(value)))
    try:
        wanted, found = eval(plain, {}, VALUES), value_of(form_of(libsbml.parseL3Formula(formula), symbol))
    except (NotMassAction, ZeroDivisionError):
        assume(False)
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-9)
