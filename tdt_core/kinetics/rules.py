"""Quantities by rule: each is a number or an arithmetic expression of other quantities, with unit, status and source.

    kidneys.GFR = TER/3*201/151          `TER`: of the same scope (kidneys), else of the scopes that all share
    prostate.R_density = 0.1*tumour_rest.R_density
    body.F_tot = CO + sum(tumours.flow)  the quantity `flow` of every member of the group `tumours`

A quantity that is given from outside is taken as given; what follows from it is recomputed, everything else keeps its value.
A second row of the same name with `when` replaces the first where the quantities that `when` names are given: k_off = K_D*k_on
when K_D is given. Values are () or (m,) for m patients, and may be complex, so that complex-step derivatives work.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any, cast

import numpy as np

from tdt_core.errors import ModelError, UnitError
from tdt_core.kinetics.expressions import Array, Node, Quantities, compiled, parse
from tdt_core.kinetics.expressions import unit as unit_of
from tdt_core.kinetics.units import Unit, parse_unit
from tdt_core.parameters import Distribution, Parameter, ParameterTable, Status

BOUNDS = {
    ">0": "a finite value above 0",
    ">=0": "a finite value of 0 or more",
    "[0,1]": "a value from 0 to 1",
    "none": "any value",  # of a figure for the reader, such as K_D, which is infinite without association
}


@dataclass(frozen=True)
class Rule:
    """One row: how a quantity follows, and where the rule comes from.

    Attributes
    ----------
    name : `scope.quantity`; the scope is an organ (`lesion/<id>` for a lesion) or shared by all (`body`).
    rule : a number or an expression.
    unit : of the value; `1` for a pure number.
    bound : key of `BOUNDS`.
    when : the row holds only where all of these quantities are given from outside.
    also : other names by which the quantity can be given.
    distribution, sd : spread between patients where the rule is a number, as in `Parameter`.
    """

    name: str
    rule: str
    unit: str
    status: Status
    source: str
    bound: str = ">=0"
    when: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    distribution: Distribution = "fixed"
    sd: float = 0.0

    def __post_init__(self) -> None:
        if not all(self.name.rpartition(".")):
            raise ModelError(f"a quantity is named {self.name!r}", expected="scope.quantity", kind="model.rule")
        if not self.unit.strip():
            raise ModelError(
                f"{self.name} = {self.rule} has no unit",
                expected="a unit, 1 for a pure number",
                remedy=f"fill in the unit of the row {self.name}",
                kind="model.unit",
            )
        if self.bound not in BOUNDS:
            raise ModelError(
                f"{self.name} has the bound {self.bound!r}", expected=f"one of {', '.join(BOUNDS)}", kind="model.rule"
            )

    @property
    def scope(self) -> str:
        """What stands before the last dot."""
        return self.name.rpartition(".")[0]

    @property
    def quantity(self) -> str:
        """What stands after the last dot."""
        return self.name.rpartition(".")[2]


def rule_of_row(row: Mapping[str, str]) -> Rule:
    """A CSV row with the columns name, rule, unit, bound, when, also, distribution, sd, status, source."""
    return Rule(
        name=row["name"],
        rule=row["rule"],
        unit=row["unit"],
        status=cast(Status, row["status"]),
        source=row["source"],
        bound=row.get("bound") or ">=0",
        when=tuple((row.get("when") or "").split()),
        also=tuple((row.get("also") or "").split()),
        distribution=cast(Distribution, row.get("distribution") or "fixed"),
        sd=float(row.get("sd") or 0.0),
    )


# --- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """A rule with its tree; `when` by full name."""

    rule: Rule
    tree: Node
    compute: Callable[[Quantities], Array]
    when: frozenset[str]


@dataclass(frozen=True)
class _Plan:
    """What to recompute, in order, where certain quantities are given."""

    entries: tuple[_Entry, ...]
    graph: Mapping[str, frozenset[str]] = field(repr=False)  # name -> what it is computed from
    checked: tuple[Rule, ...] = field(repr=False)  # of what is given and what is computed, in that order


class RuleTable(Mapping[str, Rule]):
    """Quantities by full name, with their default rules, checked on construction.

    Parameters
    ----------
    rules : rows; a doubled (name, when) is refused.
    scopes : scopes whose quantities all belong to the table, such as the organs of a model. Rows of other scopes are kept only
        where a kept rule names them: the prostate keeps its density of a tenth of tumour_rest's when that organ is left out.
    common : scopes that all share (`body`): their quantities need no scope in rules and overrides.
    groups : name -> scopes, for `sum(group.quantity)`.

    Raises
    ------
    ModelError
        `model.rule` a rule that does not parse, `model.quantity` one that names an unknown quantity, `model.cycle` rules that
        follow from each other, `model.unit` a rule whose unit is not the declared one, `model.value` a bad default value.
    """

    def __init__(
        self,
        rules: Iterable[Rule],
        *,
        scopes: Sequence[str],
        common: Sequence[str] = (),
        groups: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._common = tuple(common)
        self._groups = groups or {}
        rows: dict[str, list[Rule]] = {}
        for rule in rules:
            if any(r.when == rule.when for r in rows.get(rule.name, ())):
                raise ModelError(f"{rule.name} is declared twice", remedy="keep one row of each name", kind="model.rule")
            rows.setdefault(rule.name, []).append(rule)
        self._entries: dict[str, tuple[_Entry, ...]] = {}
        todo = [n for n, r in reversed(rows.items()) if r[0].scope in {*scopes, *common}]
        while todo:
            name = todo.pop()
            if name not in self._entries:
                self._entries[name] = tuple(self._entry(rule, rows) for rule in rows[name])
                todo += [n for e in self._entries[name] for n in sorted(e.tree.names | e.when) if n not in self._entries]
        self._entries = {n: self._entries[n] for n in rows if n in self._entries}
        for name, entries in self._entries.items():
            if entries[0].when:
                raise ModelError(
                    f"{name} has a rule only when {', '.join(entries[0].when)} is given",
                    remedy="put a row without `when` first",
                    kind="model.rule",
                )
        self._check_units()
        self._plans: dict[frozenset[str], _Plan] = {}
        self._active = {n: e[0] for n, e in self._entries.items()}
        base = self._ordered(frozenset(), set(self._entries))
        self._base = self._run(base, {}, {})
        for when in {e.when for entries in self._entries.values() for e in entries if e.when}:
            chosen = self._rows(when)
            graph = {n: row.tree.names for n, row in chosen.items()}
            # a new circle goes through a row that is new
            if any(n in _reached(graph[n], graph) for n, row in chosen.items() if row is not self._active[n]):
                self._ordered(when, set())

    # construction

    def _entry(self, rule: Rule, rows: Mapping[str, list[Rule]]) -> _Entry:
        def resolve(written: str) -> str:
            candidates = (
                [written] if "." in written else [f"{rule.scope}.{written}", *(f"{scope}.{written}" for scope in self._common)]
            )
            for full in candidates:
                if full in rows:
                    return full
            close = difflib.get_close_matches(candidates[0], rows, n=3)
            raise ModelError(
                f"{rule.name} = {rule.rule} needs {written}, which nothing declares",
                expected=f"one of {', '.join(close)}" if close else "a declared quantity",
                remedy=f"add a row {candidates[0]}, or correct the row {rule.name}",
                kind="model.quantity",
            )

        def members(group: str) -> Sequence[str]:
            if group not in self._groups:
                raise ModelError(
                    f"{rule.name} sums over {group}",
                    expected=f"one of {', '.join(sorted(self._groups))}",
                    kind="model.quantity",
                )
            return self._groups[group]

        tree = parse(rule.name, rule.rule, resolve, members)
        return _Entry(rule, tree, compiled(tree), frozenset(resolve(w) for w in rule.when))

    def _check_units(self) -> None:
        units: dict[str, Unit] = {}
        for name, entries in self._entries.items():
            for entry in entries:
                try:
                    unit = parse_unit(entry.rule.unit)
                except UnitError as error:
                    raise ModelError(f"{name}: {error.found}", expected=error.expected, kind="model.unit") from None
                if not unit.same(units.setdefault(name, unit)):
                    raise ModelError(f"{name} has rows in {unit} and {units[name]}", kind="model.unit")
        for name, entries in self._entries.items():
            for entry in (e for e in entries if e.tree.names):
                row = f"{name} = {entry.rule.rule}"
                try:
                    found = unit_of(entry.tree, units.__getitem__)
                except UnitError as error:
                    raise ModelError(f"{row}: {error.found}", remedy=f"correct the row {name}", kind="model.unit") from None
                if found is not None and not found.same(units[name]):
                    raise ModelError(
                        f"{row} is in {found}",
                        expected=f"{entry.rule.unit}, which is {units[name]}",
                        remedy=f"correct the rule or the unit of the row {name}",
                        kind="model.unit",
                    )

    # plans

    def _choose(self, name: str, given: frozenset[str]) -> _Entry:
        """The row that holds where `given` are given: the one with most conditions, of these the last."""
        return max((e for e in self._entries[name] if e.when <= given), key=lambda e: len(e.when))

    @cached_property
    def _conditional(self) -> tuple[str, ...]:
        """Quantities with more than one row."""
        return tuple(n for n, entries in self._entries.items() if len(entries) > 1)

    def _rows(self, given: frozenset[str]) -> dict[str, _Entry]:
        """Row of each quantity that is computed where `given` are given."""
        rows = {n: row for n, row in self._active.items() if n not in given}
        return rows | {n: self._choose(n, given) for n in self._conditional if n not in given}

    def _ordered(self, given: frozenset[str], wanted: set[str]) -> _Plan:
        """What to compute of `wanted` where `given` are given."""
        entries = self._rows(given)
        graph = {n: e.tree.names for n, e in entries.items()}
        try:
            order = tuple(TopologicalSorter(graph).static_order())
        except CycleError as error:
            cycle = " <- ".join(error.args[1])
            raise ModelError(
                f"quantities follow from each other: {cycle}",
                expected="rules without a circle",
                remedy=f"make one of {', '.join(sorted(set(error.args[1])))} a number",
                kind="model.cycle",
            ) from None
        chosen = tuple(entries[n] for n in order if n in wanted and n in entries)
        return _Plan(chosen, graph, (*(self._choose(n, given).rule for n in given), *(e.rule for e in chosen)))

    def _plan(self, given: frozenset[str]) -> _Plan:
        if given not in self._plans:
            if len(self._plans) > 1000:
                self._plans.clear()
            rows = self._rows(given)
            changed = [n for n, row in rows.items() if row is not self._active[n]]
            reached = _reached((*changed, *given), _followers({n: row.tree.names for n, row in rows.items()}))
            self._plans[given] = self._ordered(given, reached - given)
        return self._plans[given]

    def _run(self, plan: _Plan, start: Quantities, given: Quantities) -> dict[str, Array]:
        values = {**start, **given}
        with np.errstate(all="ignore"):  # judged right below
            for entry in plan.entries:
                values[entry.rule.name] = entry.compute(values)
        for rule in plan.checked:
            values[rule.name] = value = np.asarray(values[rule.name])
            if not _plainly_inside(rule.bound, value):
                self._check(rule, value, plan, given)
        return values

    def _check(self, rule: Rule, value: Array, plan: _Plan, given: Quantities) -> None:
        if rule.bound == "none":
            return
        real = value.real
        bad = ~np.isfinite(value)
        if rule.bound == ">0":
            bad |= real <= 0
        elif rule.bound == "[0,1]":
            bad |= (real < 0) | (real > 1)
        else:
            bad |= real < 0
        if not bad.any():
            return
        name, at = rule.name, np.flatnonzero(bad)[0]
        follows = "" if name in given else f", which follows from {rule.rule}"
        raise ModelError(
            f"{name} = {np.atleast_1d(real)[at]:g} {rule.unit}{follows}" + (f", in member {at}" if value.ndim else ""),
            expected=BOUNDS[rule.bound],
            remedy=f"correct {name if name in given else self._causes(name, at, plan, given)}",
            kind="model.value",
        )

    def _causes(self, name: str, member: int, plan: _Plan, given: Quantities) -> str:
        """What is given and a quantity follows from, the three that are furthest from their usual value."""
        found = []
        for cause in (n for n in given if n in _reached([name], plan.graph)):
            value = float(np.ravel(np.real(given[cause]))[member if given[cause].size > 1 else 0])
            usual = float(np.real(self._base[cause]))
            far = abs(math.log(value / usual)) if value > 0 and usual > 0 else math.inf
            found.append((far, f"{cause} = {value:g} {self._entries[cause][0].rule.unit} (usually {usual:g})"))
        furthest = [words for _, words in sorted(found, key=lambda f: -f[0])[:3]]
        return ", ".join(furthest) or name

    # use

    def followers(self, given: Iterable[str]) -> frozenset[str]:
        """What follows from these quantities where they are given from outside."""
        return frozenset(e.rule.name for e in self._plan(frozenset(map(self.resolve, given))).entries)

    def acting(self, name: str, given: Iterable[str]) -> Rule:
        """The rule of a quantity that holds where these are given from outside."""
        return self._choose(self.resolve(name), frozenset(map(self.resolve, given))).rule

    def resolve(self, name: str) -> str:
        """Full name of a quantity from its full name, another name of it, or its last part where only one has it.

        Raises
        ------
        ModelError `model.quantity`, with near names.
        """
        if name in self._entries:
            return name
        if name in self._other_names:
            return self._other_names[name]
        found = self._by_last_part.get(name, ())
        shared = [n for n in found if self._entries[n][0].rule.scope in self._common]
        if len(shared or found) == 1:
            return (shared or found)[0]
        if found:
            raise ModelError(
                f"{name} belongs to {len(found)} organs",
                expected=f"one of {', '.join(found)}",
                remedy="name the organ too",
                kind="model.quantity",
            )
        known = [*self._entries, *self._other_names, *self._by_last_part]
        close = difflib.get_close_matches(name, known, n=4)
        raise ModelError(
            f"no quantity named {name!r}",
            expected=f"a quantity of the model{', such as ' + ', '.join(close) if close else ''}",
            remedy="correct the name, or declare the quantity",
            kind="model.quantity",
        )

    @cached_property
    def _other_names(self) -> dict[str, str]:
        out: dict[str, str] = {}
        for name, entries in self._entries.items():
            for other in (o for e in entries for o in e.rule.also):
                if out.setdefault(other, name) != name or other in self._entries:
                    raise ModelError(f"{other} names two quantities", remedy="correct the column `also`", kind="model.rule")
        return out

    @cached_property
    def _by_last_part(self) -> dict[str, tuple[str, ...]]:
        out: dict[str, tuple[str, ...]] = {}
        for name, entries in self._entries.items():
            last = entries[0].rule.quantity
            out[last] = (*out.get(last, ()), name)
        return out

    def _given(self, overrides: Mapping[str, Any]) -> dict[str, Array]:
        given: dict[str, Array] = {}
        written: dict[str, str] = {}
        for key, raw in overrides.items():
            name = self.resolve(key)
            if name in given:
                raise ModelError(f"{written[name]} and {key} give the same quantity {name}", remedy="give one of them")
            value = np.asarray(raw)
            if value.dtype.kind not in "iufc" or value.ndim > 1:
                raise ModelError(
                    f"{key} is given as {type(raw).__name__} of shape {value.shape}",
                    expected="a number, or one number for each member",
                    kind="model.value",
                )
            given[name] = value if value.dtype.kind in "fc" else value.astype(float)
            written[name] = key
        sizes = {v.size: n for n, v in given.items() if v.size != 1}
        if len(sizes) > 1:
            raise ModelError(
                "quantities are given for " + " and ".join(f"{size} members ({n})" for size, n in sizes.items()),
                expected="one number of members",
                kind="model.value",
            )
        return given

    def evaluate(self, overrides: Mapping[str, Any] | None = None) -> dict[str, Array]:
        """All quantities by full name, each () or (m,), where those in `overrides` are given.

        Raises
        ------
        ModelError
            `model.quantity` an unknown name, `model.value` a value that is not finite or outside its bound, given or derived,
            or given for different numbers of members.
        """
        given = self._given(overrides or {})
        if not given:
            return dict(self._base)
        return self._run(self._plan(frozenset(given)), self._base, given)

    def prepared(self, fixed: Mapping[str, Any], varying: Iterable[str]) -> Callable[[Mapping[str, Any]], dict[str, Array]]:
        """`evaluate` for many values of the same quantities beside the same fixed ones.

        The function takes values of `varying`, all of them, and gives what `evaluate({**fixed, **values})` gives; from the
        second call on it computes only what follows from them.
        """
        names = frozenset(map(self.resolve, varying))
        given = names | frozenset(map(self.resolve, fixed))
        full = self._plan(given)
        moving = _reached(names, _followers(full.graph))
        again = self._ordered(given, moving)
        again = replace(again, checked=tuple(r for r in again.checked if r.name in moving))
        start: dict[str, Array] = {}

        def evaluate(values: Mapping[str, Any]) -> dict[str, Array]:
            if not start:
                found = self._run(full, self._base, self._given({**fixed, **values}))
                start.update({n: v for n, v in found.items() if n not in moving})
                return found
            return self._run(again, start, self._given(values))

        return evaluate

    @cached_property
    def parameters(self) -> ParameterTable:
        """The quantities that are numbers and not rules, with their spread."""
        out = []
        for name, (entry, *_) in self._entries.items():
            if not entry.tree.names:
                rule, value = entry.rule, float(self._base[name])
                out.append(Parameter(name, value, rule.unit, rule.status, rule.source, rule.distribution, rule.sd))
        return ParameterTable(out)

    def sources(self, name: str, overrides: Iterable[str] = ()) -> frozenset[str]:
        """Everything that a quantity follows from where `overrides` are given, itself included."""
        given = frozenset(self.resolve(o) for o in overrides)
        graph = self._plan(given).graph if given else self._ordered(given, set()).graph
        return frozenset(_reached([self.resolve(name)], graph))

    def __getitem__(self, name: str) -> Rule:
        return self._entries[self.resolve(name)][0].rule

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _plainly_inside(bound: str, value: Array) -> bool:
    """Whether a value is inside its bound at first sight: most are, and they are many."""
    if value.dtype.kind != "f" or value.size == 0:
        return False
    low, high = (value.item(),) * 2 if value.size == 1 else (value.min(), value.max())
    return bool(low > 0 and high <= 1) if bound == "[0,1]" else bool(low > 0 and high < math.inf)


def _reached(names: Iterable[str], edges: Mapping[str, Iterable[str]]) -> set[str]:
    """These names and everything that edges lead to from them."""
    reached: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += edges.get(name, ())
    return reached


def _followers(graph: Mapping[str, frozenset[str]]) -> dict[str, list[str]]:
    """What is computed from each name; `graph` name -> what it is computed from."""
    followers: dict[str, list[str]] = {}
    for name, sources in graph.items():
        for source in sources:
            followers.setdefault(source, []).append(name)
    return followers


def number_text(value: float, name: str) -> str:
    """A number as the text of a rule. Raises ModelError where it is not finite."""
    if not math.isfinite(value):
        raise ModelError(f"{name} = {value}", expected="a finite number", remedy=f"correct {name}", kind="model.value")
    return repr(float(value))


__all__ = ["BOUNDS", "Array", "Quantities", "Rule", "RuleTable", "number_text", "rule_of_row"]
