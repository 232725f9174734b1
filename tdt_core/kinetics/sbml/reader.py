"""A subset of SBML (Level 2 Version 4 and Level 3) as a model that `simulate` takes.

Read are compartments, species as amounts or concentrations, parameters, initial assignments, assignment rules and reactions of
mass action, one way or reversible:

    k S                     first order, from S to the product or out of the model
    k S (c - B1 - B2)       second order with free sites as an expression or an assignment rule, also as k S (1 - B1/c)
    k S R                   second order with a species R of free sites, where R + what it binds stays constant

Everything else is refused by name. Amounts start at 0, except at the entry: administrations come with the schedule.
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import libsbml

from tdt_core.errors import ModelError
from tdt_core.kinetics.network import Binding, Network, Pool, State, Transfer, labelled
from tdt_core.kinetics.rules import Quantities, Rule, RuleTable
from tdt_core.kinetics.sbml import document
from tdt_core.kinetics.sbml.document import outside
from tdt_core.kinetics.sbml.laws import Affine, Form, NotMassAction, Scalar, constant, form_of, name
from tdt_core.kinetics.sbml.moves import Move, Place, Sites, merged, moves_of
from tdt_core.parameters import ParameterTable

LIGAND = "ligand"
_INITIAL, _VALUE, _COEFFICIENT = "initial", "sbml", "coefficient"


@dataclass(frozen=True, eq=False)
class SbmlModel:
    """A model read from SBML: a network of one label, and rules of what its coefficients follow from.

    Attributes
    ----------
    base : the network of the label `ligand`.
    rules : parameters, compartment sizes and initial values as `sbml.<id>` and `initial.<species id>`, in the file's units.
    rates : coefficient -> its quantity, and the factor from the file's units to nmol and min.
    initial_nmol : what the file puts into the entry at time 0. `simulate` gives what its schedule says instead.
    options, given : of a file that `export` wrote, the options of its model, and the parameters that were given to it. Both
        already act in `rates`.
    """

    name: str
    regions: tuple[str, ...]
    entry: tuple[str, str]
    base: Network
    rules: tuple[Rule, ...]
    rates: Mapping[str, tuple[str, float]]
    initial_nmol: float
    options: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def table(self) -> RuleTable:
        """Quantities by rule; a parameter can be given by its id, or by its name where only one has it."""
        return _table(self.rules)

    @property
    def parameters(self) -> ParameterTable:
        """The quantities that are numbers in the file."""
        return self.table.parameters

    def quantities(self, overrides: Mapping[str, Any] | None = None) -> Quantities:
        """Every quantity, each () or (m,), in the file's units, where those in `overrides` are given."""
        return self.table.evaluate(overrides)

    def coefficients(self, overrides: Mapping[str, Any] | None = None) -> Quantities:
        """Coefficients of the network in nmol and min, each () or (m,)."""
        values = self.quantities(overrides)
        return {coefficient: values[quantity] * factor for coefficient, (quantity, factor) in self.rates.items()}

    def network(self, labels: Sequence[str] = (LIGAND,), occupying: Sequence[str] | None = None) -> Network:
        """The network once for each label; those in `occupying` (all by default) take up binding sites."""
        return labelled(self.base, labels, occupying)


def _table(rules: Sequence[Rule]) -> RuleTable:
    return RuleTable(rules, scopes=(_COEFFICIENT,), common=(_VALUE, _INITIAL))


def read(
    source: str | bytes,
    *,
    entry: str | None = None,
    labels: Sequence[str] | None = None,
    time_unit: str | None = None,
) -> SbmlModel:
    """A model from SBML.

    Parameters
    ----------
    source : what a file holds: text, or bytes in UTF-8.
    entry : id of the species that administrations enter; files that `export` wrote name it themselves.
    labels : of a file that counts radioactive and cold ligand apart: the words that tell their species by name, radioactive
        ones first and the cold one last, such as `("hot", "cold")`. All must move alike, and each radioactive amount must
        decay into the cold one in the same place; their total is read, since `simulate` brings decay and labels itself.
    time_unit : `s`, `min`, `h` or `d`, for files whose rates are per minute while their time is, by default, in seconds.

    Returns
    -------
    SbmlModel; regions are the compartments (by name where they have one), parts the species in them.

    Raises
    ------
    ModelError `model.sbml` for what is outside the subset: the element, what was expected, the remedy; and what
    `Network.gather` refuses, such as a negative rate.
    """
    parsed = document.parse(source)
    try:
        model = _Reader(parsed.getModel(), time_unit).read(entry, tuple(labels or ()))
    except RecursionError:
        raise outside("a formula of too many levels", "a formula of mass action", "simplify it") from None
    model.network().gather(model.coefficients())
    return model


class _Reader:
    """One document, once. Symbols become forms of species; parameters get a rule when a formula first needs them."""

    def __init__(self, model: Any, time_unit: str | None) -> None:
        self.sbml = model
        self.compartments = {c.getId(): c for c in model.getListOfCompartments()}
        self.all_species = {s.getId(): s for s in model.getListOfSpecies()}
        self.parameters = {p.getId(): p for p in model.getListOfParameters()}
        self.assigned = {r.getVariable(): r for r in model.getListOfRules()}
        self.initially = {a.getSymbol(): a for a in model.getListOfInitialAssignments()}
        self.net = document.net_changes(model)
        changed = {s for net in self.net.values() for s in net}
        self.states = [s for s in self.all_species if s in changed]
        self.time = document.time_unit(model, time_unit)
        self.amount = document.amount_unit(model, self.states)
        self.source = f"SBML model {model.getName() or model.getId() or 'without a name'}"
        self.rules: dict[str, Rule] = {}
        self.forms: dict[str, Form] = {}

    def read(self, entry: str | None, labels: tuple[str, ...]) -> SbmlModel:
        """The model; see the function `read`."""
        entry = self.entry(entry)
        laws = {}
        for reaction in self.sbml.getListOfReactions():
            try:
                laws[reaction.getId()] = form_of(reaction.getKineticLaw().getMath(), self.symbol)
            except NotMassAction as error:
                raise self.refused(reaction.getId(), f"holds {error}") from None
            document.check_law_unit(reaction, self.amount, self.time)
        moves, sites = moves_of(laws, self.net, self.initial_amount, entry, self.refused)
        places = self.places([s for s in self.states if s not in sites], labels)
        network, rates = self.network(places, merged(moves, places, labels) if labels else moves)
        initial = self.initial_nmol(places, entry)
        table = _table(tuple(self.rules.values()))
        used = {source for quantity, _ in rates.values() for source in table.sources(quantity)}
        rules = tuple(rule for full, rule in self.rules.items() if full in used)  # what has no effect cannot be given
        regions = {s.region for s in network.states}
        return SbmlModel(
            name=self.sbml.getName() or self.sbml.getId() or "sbml",
            regions=tuple(r for r in self.regions.values() if r in regions),
            entry=places[entry][1:],
            base=network,
            rules=rules,
            rates=rates,
            initial_nmol=initial,
            options={a.get("name", ""): a.get("value", "") for a in document.annotated(self.sbml, "option")},
            given=document.given_values(self.sbml),
        )

    def refused(self, reaction: str, why: str) -> ModelError:
        """The error for a law outside the subset."""
        law = libsbml.formulaToL3String(self.sbml.getReaction(reaction).getKineticLaw().getMath())
        return outside(
            f"the law of {reaction}, {law if len(law) < 200 else law[:200] + ' ...'}, {why}",
            "k S, k S (c - B), k S R with free sites R, and differences of these",
            "rewrite the law, or simulate the file with a general SBML tool",
        )

    def entry(self, given: str | None) -> str:
        """Species that administrations enter: the given one, or that of the annotation."""
        if given is None:
            given = next((a.get("species") for a in document.annotated(self.sbml, "entry")), None)
        if given not in self.states:
            some = ", ".join(self.states[:8]) + (", ..." if len(self.states) > 8 else "")
            raise outside(
                f"administrations enter {given or 'an unnamed species'}",
                f"the id of a species that reactions change: {some}",
                "pass entry",
            )
        return str(given)

    # symbols

    @cached_property
    def python(self) -> dict[str, str]:
        """Identifier -> its name in rules, which are written as Python expressions: `lambda` is none."""
        out: dict[str, str] = {}
        taken = {*self.compartments, *self.all_species, *self.parameters}
        for identifier in (*self.compartments, *self.all_species, *self.parameters):
            out[identifier] = identifier
            while keyword.iskeyword(out[identifier]) or (out[identifier] != identifier and out[identifier] in taken):
                out[identifier] += "_"
            taken.add(out[identifier])
        return out

    def symbol(self, identifier: str) -> Form:
        """What an identifier stands for in a kinetic law."""
        if identifier not in self.forms:
            self.forms[identifier] = self._symbol(identifier, self.symbol)
        return self.forms[identifier]

    def at_start(self, identifier: str) -> Form:
        """What an identifier stands for at time 0."""
        if identifier in self.states:
            return constant(self.quantity(identifier))
        return self._symbol(identifier, self.at_start)

    def _symbol(self, identifier: str, look_up: Callable[[str], Form]) -> Form:
        if identifier not in self.python:
            raise NotMassAction(f"{identifier}, which is no species, parameter or compartment")
        if identifier in self.assigned:
            form = form_of(self.assigned[identifier].getMath(), look_up)
            return form if form.scalar is None else constant(self.quantity(identifier))
        if identifier in self.states:
            species = self.all_species[identifier]
            return Form(Affine(terms={identifier: Scalar() if self.in_amounts(species) else Scalar() / self.size(species)}))
        return constant(self.quantity(identifier))

    def in_amounts(self, species: Any) -> bool:
        """Whether the symbol of a species stands for its amount, not its concentration."""
        flat = self.compartments[species.getCompartment()].getSpatialDimensions() == 0
        return bool(species.getHasOnlySubstanceUnits() or flat)

    def size(self, species: Any) -> Scalar:
        """Size of the compartment of a species."""
        size = self.symbol(species.getCompartment()).scalar
        if size is None:
            raise NotMassAction(f"the compartment {species.getCompartment()}, whose size changes")
        return size

    # values

    def quantity(self, identifier: str) -> Scalar:
        """Name of a value that does not change, which gets a rule; of a species without an assignment the initial value."""
        initial = identifier in self.all_species and identifier not in self.assigned
        full = f"{_INITIAL if initial else _VALUE}.{self.python[identifier]}"
        if full not in self.rules:
            others = () if initial else (identifier, self.names.get(identifier, identifier))
            also = tuple(dict.fromkeys(o for o in others if o != self.python[identifier]))
            try:
                text = self._text(identifier)
            except NotMassAction as error:
                raise outside(
                    f"the assignment of {identifier} holds {error}",
                    "arithmetic of values that do not change, exp, ln, log, root, min, max",
                    "rewrite that assignment",
                ) from None
            self.rules[full] = Rule(full, text, "1", "assumed", self.source, bound="none", also=also)
        return name(full if initial else self.python[identifier])

    @cached_property
    def names(self) -> dict[str, str]:
        """Names by which parameters and compartments can be given: those that only one has and that are no identifier."""
        named = {i: e.getName() for i, e in (*self.parameters.items(), *self.compartments.items()) if e.getName()}
        counts = list(named.values())
        return {i: n for i, n in named.items() if counts.count(n) == 1 and n not in self.python}

    def _text(self, identifier: str) -> str:
        """The text of a rule: an initial assignment, an assignment rule, or the number in the file."""
        formula = self.initially.get(identifier) or self.assigned.get(identifier)
        if formula is not None:
            form = form_of(formula.getMath(), self.at_start)
            if form.scalar is None:
                raise NotMassAction("amounts that change")
            return form.scalar.text
        if identifier in self.all_species:
            return self._initial_text(self.all_species[identifier])
        if identifier in self.compartments:
            known, value = self.compartments[identifier].isSetSize(), self.compartments[identifier].getSize()
        else:
            known, value = self.parameters[identifier].isSetValue(), self.parameters[identifier].getValue()
        if not known or not math.isfinite(value):
            raise outside(f"{identifier} has no finite value", "a number", f"give {identifier} a value or an assignment")
        return repr(float(value))

    def _initial_text(self, species: Any) -> str:
        """Initial value in the meaning of the symbol: amount, or concentration."""
        given_amount = species.isSetInitialAmount()
        value = species.getInitialAmount() if given_amount else species.getInitialConcentration()
        if not (given_amount or species.isSetInitialConcentration()) or not math.isfinite(value):
            raise outside(f"the species {species.getId()} has no initial value", "an amount or concentration", "give it one")
        number = Scalar(float(value))
        if value == 0 or given_amount == self.in_amounts(species):
            return number.text
        return (number / self.size(species) if given_amount else number * self.size(species)).text

    def initial_amount(self, identifier: str) -> Scalar:
        """Amount of a species at time 0."""
        value, species = self.quantity(identifier), self.all_species[identifier]
        return value if self.in_amounts(species) else value * self.size(species)

    def initial_nmol(self, places: Mapping[str, Place], entry: str) -> float:
        """nmol at the entry; anything else that does not start at 0 is refused."""
        rules = [
            Rule(f"{_COEFFICIENT}.{i}", self.initial_amount(i).text, "1", "assumed", self.source, bound="none") for i in places
        ]
        values = _table((*self.rules.values(), *rules)).evaluate()
        total = 0.0
        for rule, (identifier, place) in zip(rules, places.items(), strict=True):
            value = float(values[rule.name])
            if value and place[1:] != places[entry][1:]:
                raise outside(
                    f"{identifier} starts at {value:g}",
                    "0, except at the entry",
                    "let amounts enter by administrations, or pass entry",
                )
            total += value
        return total * self.amount.size * 1e9

    # places and network

    @cached_property
    def regions(self) -> dict[str, str]:
        """Compartment -> its name, or its id where the name is not its own."""
        names = [c.getName() for c in self.compartments.values()]
        return {i: c.getName() if c.getName() and names.count(c.getName()) == 1 else i for i, c in self.compartments.items()}

    def places(self, kept: Sequence[str], labels: tuple[str, ...]) -> dict[str, Place]:
        """Label, region and part of each species."""
        out: dict[str, Place] = {}
        for identifier in kept:
            species = self.all_species[identifier]
            text, label = species.getName() or identifier, LIGAND
            if labels:
                found = {
                    w: m for w in labels if (m := re.search(rf"(?<![A-Za-z0-9]){re.escape(w)}(?![A-Za-z0-9])", text, re.I))
                }
                if len(found) != 1:
                    raise outside(
                        f"the species {identifier} ({text}) names {' and '.join(found) or 'none'} of the labels",
                        f"one of {', '.join(labels)}",
                        "correct labels, or the species' name",
                    )
                ((label, match),) = found.items()
                text = re.sub(r"^[\W_]+|[\W_]+$", "", text[: match.start()] + text[match.end() :]) or "pool"
            out[identifier] = (label, self.regions[species.getCompartment()], text)
        twice = [place for place in out.values() if list(out.values()).count(place) > 1]
        return {i: (*place[:2], i) if place in twice else place for i, place in out.items()}

    def network(self, places: Mapping[str, Place], moves: Sequence[Move]) -> tuple[Network, dict[str, tuple[str, float]]]:
        """The network of the total, and its coefficients."""
        minutes, nmol = self.time.size / 60.0, self.amount.size * 1e9
        names = {self.python[i]: n for i, n in self.names.items()}  # a parameter alone goes by its name
        rates: dict[str, tuple[str, float]] = {}
        known: dict[tuple[str, float], str] = {}

        def coefficient(scalar: Scalar, what: str, factor: float) -> str:
            text = scalar.text
            if (text, factor) not in known:
                key = names.get(text, text)
                while key in rates:
                    key += f" [{what}]"
                quantity = f"{_COEFFICIENT}.{what}_{len(rates) + 1}"
                self.rules[quantity] = Rule(quantity, text, "1", "assumed", self.source, bound="none")
                rates[key] = (quantity, factor)
                known[text, factor] = key
            return known[text, factor]

        def state(identifier: str) -> str:
            return State(LIGAND, *places[identifier][1:]).name

        transfers: list[Transfer] = []
        bindings: list[Binding] = []
        pools: dict[Sites, Pool] = {}
        for move in moves:
            if move.target is None or move.sites is None:
                target = None if move.target is None else state(move.target)
                transfers.append(Transfer(state(move.source), target, coefficient(move.rate, "rate", 1 / minutes)))
                continue
            if move.sites not in pools:
                members = tuple(dict.fromkeys(state(s) for s in self.states if s in move.sites.members))
                capacity = coefficient(move.sites.capacity, "capacity", nmol)
                pools[move.sites] = Pool(f"sites {len(pools) + 1} of {members[0]}", capacity, members)
            rate = coefficient(move.rate, "binding", 1 / (minutes * nmol))
            bindings.append(Binding(state(move.source), state(move.target), rate, pools[move.sites].name))
        states = tuple(dict.fromkeys(State(LIGAND, *place[1:]) for place in places.values()))
        return Network(states, tuple(transfers), tuple(pools.values()), tuple(bindings)), rates
