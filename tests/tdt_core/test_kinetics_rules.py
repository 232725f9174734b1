"""Laws of quantities by rule: arithmetic, dependency order, overrides, derivatives, units, and errors that name the row."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdt_core.errors import ModelError, UnitError
from tdt_core.kinetics.rules import Rule, RuleTable
from tdt_core.kinetics.units import parse_unit

NAMES = {"a": 1.7, "b": 0.3, "c": 2.9}


def rule(name, text, unit="1", **more):
    return Rule(name, text, unit, "assumed", "test", **more)


def table(*rules, scopes=("o", "p"), common=("body",), groups=None):
    return RuleTable(rules, scopes=scopes, common=common, groups=groups or {})


def expressions():
    leaves = st.sampled_from([*NAMES, "2", "0.5", "1e1"])
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from(["+", "-", "*", "/"]), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
            inner.map(lambda t: f"(-{t})"),
            inner.map(lambda t: f"sqrt(1 + {t}**2)"),
            inner.map(lambda t: f"exp(-({t})**2)"),
            inner.map(lambda t: f"log(2 + {t}**2)"),
            st.tuples(inner, inner).map(lambda t: f"max({t[0]}, min({t[1]}, 3))"),
        ),
        max_leaves=12,
    )


FUNCTIONS = {"sqrt": math.sqrt, "exp": math.exp, "log": math.log, "min": min, "max": max}


@given(expressions())
@settings(max_examples=150, deadline=None)
def test_an_expression_means_what_it_means_in_python(text):
    try:
        want = eval(text, FUNCTIONS, NAMES)
    except (ZeroDivisionError, OverflowError):
        return
    if not 0 <= want < 1e200:
        return
    found = table(*(rule(f"o.{n}", str(v)) for n, v in NAMES.items()), rule("o.x", text)).evaluate()["o.x"]
    assert float(found) == pytest.approx(want, rel=1e-12)


def test_rows_may_stand_in_any_order():
    t = table(rule("o.z", "y + 1"), rule("o.y", "2*x"), rule("o.x", "3"))
    assert t.evaluate()["o.z"] == 7


def test_a_bare_name_is_of_the_same_scope_first_and_shared_else_and_a_dotted_one_of_the_named_scope():
    t = table(rule("body.k", "1"), rule("o.k", "2"), rule("o.x", "k"), rule("p.x", "k"), rule("p.y", "o.k + 0"))
    values = t.evaluate()
    assert (values["o.x"], values["p.x"], values["p.y"]) == (2, 1, 2)


def test_a_sum_runs_over_the_members_of_a_group_and_is_zero_without_any():
    rules = [
        rule("o.f", "2", "L"),
        rule("p.f", "3", "L"),
        rule("body.all", "1*sum(g.f)", "L"),
        rule("body.none", "sum(e.f)", "L"),
    ]
    values = table(*rules, groups={"g": ["o", "p"], "e": []}).evaluate()
    assert (values["body.all"], values["body.none"]) == (5, 0)


def test_what_is_given_is_taken_as_given_and_only_what_follows_from_it_changes():
    t = table(rule("o.x", "3"), rule("o.y", "2*x"), rule("o.z", "y + w"), rule("o.w", "1"))
    assert {k: float(v) for k, v in t.evaluate({"o.y": 10}).items()} == {"o.x": 3, "o.y": 10, "o.z": 11, "o.w": 1}
    assert t.evaluate()["o.y"] == 6  # nothing is remembered


def test_a_row_with_when_holds_only_where_its_quantity_is_given():
    t = table(
        rule("o.k_on", "2", "L/nmol/min"),
        rule("o.k_off", "8", "1/min"),
        rule("o.k_off", "K_D*k_on", "1/min", when=("K_D",)),
        rule("o.K_D", "k_off/k_on", "nmol/L"),
    )
    assert t.evaluate()["o.K_D"] == 4
    assert t.evaluate({"K_D": 10.0})["o.k_off"] == 20
    assert t.evaluate({"k_off": 6.0})["o.K_D"] == 3
    assert t.evaluate({"k_off": 6.0, "K_D": 10.0})["o.k_off"] == 6


def test_of_two_rows_with_when_the_one_with_more_conditions_holds():
    t = table(rule("o.x", "1"), rule("o.y", "1"), rule("o.z", "0*x"), *(rule("o.z", n, when=w) for n, w in WHENS))
    assert [float(t.evaluate(dict.fromkeys(g, 5.0))["o.z"]) for g in ("", "x", "y", "xy")] == [0, 10, 20, 30]


WHENS = [("10", ("x",)), ("20", ("y",)), ("30", ("x", "y"))]


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=6))
def test_a_batch_is_its_members_one_by_one(values):
    t = table(rule("o.x", "3"), rule("o.y", "max(x, 2)**1.5"), rule("o.z", "exp(-y) + x/(1 + x)"))
    batch = t.evaluate({"x": np.array(values)})
    for i, value in enumerate(values):
        one = t.evaluate({"x": value})
        assert all(np.broadcast_to(batch[n], len(values))[i] == pytest.approx(float(one[n]), rel=1e-14) for n in t)


@given(st.floats(0.2, 5), st.sampled_from(["sqrt(x)*exp(-x)", "log(1 + x)/x**2", "max(x, 0.1)*min(x, 9)", "2**x - x"]))
def test_the_complex_step_derivative_equals_the_difference_quotient(x, text):
    t = table(rule("o.x", "1"), rule("o.y", f"10 + {text}"))
    step, h = 1e-30, 1e-5 * x
    derivative = t.evaluate({"x": np.array([x + 1j * step])})["o.y"].imag[0] / step
    quotient = np.diff(t.evaluate({"x": np.array([x - h, x + h])})["o.y"])[0] / (2 * h)
    assert derivative == pytest.approx(quotient, rel=1e-6, abs=1e-8)


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=2, max_size=4), st.floats(0.1, 10))
def test_prepared_values_are_those_of_evaluate_at_every_call(values, fixed):
    t = table(
        rule("o.x", "3"), rule("o.y", "max(x, w)**1.5"), rule("o.z", "exp(-y) + v"), rule("o.v", "2*w", bound=">0"),
        rule("o.w", "1"), rule("o.u", "w + 1"), rule("o.u", "7*x", when=("x", "w")), rule("o.t", "u + v"),
    )  # fmt: skip
    again = t.prepared({"w": fixed}, ["x"])
    for x, imaginary in values:
        for given_x in (x, np.array([x, 2 * x]), np.array([x + 1e-20j * imaginary])):
            want, found = t.evaluate({"w": fixed, "x": given_x}), again({"x": given_x})
            assert set(found) == set(want)
            assert all(np.array_equal(found[n], want[n]) for n in want)


def test_prepared_values_are_refused_as_evaluate_refuses_them():
    t = table(rule("o.x", "3", bound=">0"), rule("o.y", "5 - x", bound=">0"), rule("o.w", "1"))
    again = t.prepared({"w": 2.0}, ["x"])
    again({"x": 1.0})
    for bad in (-1.0, 6.0, np.array([1.0, np.nan])):
        with pytest.raises(ModelError) as want:
            t.evaluate({"w": 2.0, "x": bad})
        with pytest.raises(ModelError) as found:
            again({"x": bad})
        assert str(found.value) == str(want.value)


def test_rows_of_other_scopes_stay_only_where_a_rule_needs_them():
    t = table(rule("o.x", "gone.y"), rule("gone.y", "2*z"), rule("gone.z", "4"), rule("gone.unused", "1"))
    assert set(t) == {"o.x", "gone.y", "gone.z"}
    assert t.evaluate()["o.x"] == 8


def test_numbers_are_parameters_with_their_source_and_derived_quantities_are_not():
    t = table(rule("o.x", "3", "L", distribution="lognormal", sd=0.3), rule("o.y", "2*x", "L"))
    assert list(t.parameters) == ["o.x"]
    p = t.parameters["o.x"]
    assert (p.value, p.unit, p.status, p.source, p.distribution, p.sd) == (3, "L", "assumed", "test", "lognormal", 0.3)


def test_sources_of_a_quantity_are_all_it_follows_from():
    t = table(rule("o.x", "3"), rule("o.y", "2*x"), rule("o.z", "y + w"), rule("o.w", "1"))
    assert t.sources("z") == {"o.z", "o.y", "o.x", "o.w"}
    assert t.sources("z", ["y"]) == {"o.z", "o.y", "o.w"}


def test_a_name_is_found_by_its_full_name_by_another_name_and_by_a_last_part_that_only_one_has():
    t = table(
        rule("body.weight", "75", "kg", also=("BW", "body_weight")), rule("o.v", "1"), rule("p.v", "2"), rule("p.TER", "3")
    )
    assert [t.resolve(n) for n in ("body.weight", "BW", "weight", "TER", "p.v")] == [
        "body.weight",
        "body.weight",
        "body.weight",
        "p.TER",
        "p.v",
    ]
    with pytest.raises(ModelError, match=r"v belongs to 2 organs.*o\.v, p\.v"):
        t.resolve("v")
    with pytest.raises(ModelError, match=r"no quantity named 'TRE'.*TER"):
        t.evaluate({"TRE": 1.0})


@pytest.mark.parametrize(
    ("rules", "kind", "words"),
    [
        ([rule("o.x", "2*y")], "model.quantity", r"o\.x = 2\*y needs y.*add a row o\.y"),
        ([rule("o.x", "y"), rule("o.y", "z"), rule("o.z", "1 + x")], "model.cycle", r"o\.[xyz] <- o\.[xyz]"),
        ([rule("o.x", "1"), rule("o.x", "2")], "model.rule", r"o\.x is declared twice"),
        ([rule("o.x", "1 +")], "model.rule", r"o\.x does not parse"),
        ([rule("o.x", "__import__('os')")], "model.rule", r"o\.x holds"),
        ([rule("o.x", "open('f')")], "model.rule", r"o\.x holds"),
        ([rule("o.x", "True")], "model.rule", r"o\.x holds 'True'"),
        ([rule("o.x", "1 if 2 else 3")], "model.rule", r"o\.x holds"),
        ([rule("o.x", "'a'")], "model.rule", r"o\.x holds"),
        ([rule("o.x", "sum(nobody.f)")], "model.quantity", r"o\.x sums over nobody"),
        ([rule("o.x", "1/0")], "model.value", r"o\.x = inf"),
        ([rule("o.x", "log(0 - 1)")], "model.value", r"o\.x = nan"),
        ([rule("o.x", "-2", "L", bound=">0")], "model.value", r"o\.x = -2 L.*above 0"),
        ([rule("o.x", "0", "L", bound=">0")], "model.value", r"o\.x = 0 L"),
        ([rule("o.x", "1.5", bound="[0,1]")], "model.value", r"from 0 to 1"),
        ([rule("o.x", "1", "L"), rule("o.y", "2*x", "kg")], "model.unit", r"o\.y = 2\*x is in 0\.001 m3.*kg"),
        ([rule("o.x", "1", "mL"), rule("o.y", "2*x", "L")], "model.unit", r"o\.y = 2\*x"),
        ([rule("o.x", "1", "L"), rule("o.y", "1 + x", "L")], "model.unit", r"joins 1 and"),
        ([rule("o.x", "1", "L"), rule("o.y", "exp(x)")], "model.unit", r"exp of something in"),
        ([rule("o.x", "1", "L"), rule("o.y", "2**x")], "model.unit", r"exponent is in"),
        ([rule("o.x", "1", "furlong")], "model.unit", r"furlong"),
        ([rule("o.x", "1", when=("x",))], "model.rule", r"only when"),
        ([rule("o.x", "2"), rule("o.x", "z", when=("w",)), rule("o.y", "x"), rule("o.z", "y"), rule("o.w", "1")],
         "model.cycle", r"o\.[xyz] <- o\.[xyz]"),
    ],
)  # fmt: skip
def test_bad_rows_are_refused_with_the_row_on_construction(rules, kind, words):
    with pytest.raises(ModelError, match=words) as caught:
        table(*rules)
    assert caught.value.kind == kind


def test_a_missing_unit_is_refused_with_the_row():
    with pytest.raises(ModelError, match=r"o\.x = 3 has no unit.*row o\.x") as caught:
        rule("o.x", "3", " ")
    assert caught.value.kind == "model.unit"
    with pytest.raises(UnitError):
        parse_unit("")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"x": -1.0}, r"o\.x = -1 L.*0 or more.*correct o\.x"),
        ({"x": np.array([1.0, np.nan])}, r"o\.x = nan L, in member 1"),
        ({"x": 5.0}, r"o\.y = -1 L, which follows from w - x.*correct o\.x"),
        ({"x": np.array([1.0, 2.0, 7.0])}, r"o\.y = -3 L, which follows from w - x, in member 2.*correct o\.x"),
        ({"x": "1"}, r"x is given as str"),
        ({"x": True}, r"x is given as bool"),
        ({"x": np.ones((2, 2))}, r"shape \(2, 2\)"),
        ({"x": np.ones(2), "w": np.ones(3)}, r"2 members \(o\.x\) and 3 members \(o\.w\)"),
        ({"x": 1.0, "o.x": 1.0}, r"x and o\.x give the same quantity"),
    ],
)
def test_bad_values_are_refused_with_the_quantity_the_value_and_the_remedy(overrides, words):
    t = table(rule("o.x", "1", "L"), rule("o.w", "4", "L"), rule("o.y", "w - x", "L"))
    with pytest.raises(ModelError, match=words):
        t.evaluate(overrides)


@pytest.mark.parametrize(
    ("one", "other"),
    [("L/min", "mL/min"), ("nmol/L", "nmol"), ("m2", "m"), ("1/min", "1/h"), ("kg", "g"), ("L", "kg")],
)
def test_units_that_differ_are_told_apart(one, other):
    assert not parse_unit(one).same(parse_unit(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [("L/nmol/min", "L/min/nmol"), ("mL/min/{1.73_m2}", "mL/min"), ("1/min", "min-1"), ("g/L", "mg/mL"), ("cm.m", "cm.m")],
)
def test_units_that_say_the_same_are_the_same(one, other):
    assert parse_unit(one).same(parse_unit(other))
