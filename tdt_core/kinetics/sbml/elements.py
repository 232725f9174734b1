"""Elements of an SBML Level 3 document: units, parameters, reactions, events, rules, notes. No model is known here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import libsbml

from tdt_core.errors import ModelError
from tdt_core.kinetics.sbml.names import identifier_of, printable

UNITS: Mapping[str, tuple[tuple[int, int, int, float], ...]] = {
    # id -> (kind, exponent, scale, multiplier)
    "nmol": ((libsbml.UNIT_KIND_MOLE, 1, -9, 1.0),),
    "min": ((libsbml.UNIT_KIND_SECOND, 1, 0, 60.0),),
    "per_min": ((libsbml.UNIT_KIND_SECOND, -1, 0, 60.0),),
    "per_nmol_per_min": ((libsbml.UNIT_KIND_MOLE, -1, -9, 1.0), (libsbml.UNIT_KIND_SECOND, -1, 0, 60.0)),
    "nmol_per_min": ((libsbml.UNIT_KIND_MOLE, 1, -9, 1.0), (libsbml.UNIT_KIND_SECOND, -1, 0, 60.0)),
    "nmol_min": ((libsbml.UNIT_KIND_MOLE, 1, -9, 1.0), (libsbml.UNIT_KIND_SECOND, 1, 0, 60.0)),
}


class Elements:
    """A document in the making; `taken` are identifiers that are used, or kept for something."""

    def __init__(self, name: str, taken: Iterable[str]) -> None:
        self.taken = set(taken)
        self.document = libsbml.SBMLDocument(3, 1)
        self.model = self.document.createModel()
        done(self.model.setId(identifier_of(name, set())), name)
        done(self.model.setName(printable(name)), name)
        for setter, unit in (
            (self.model.setSubstanceUnits, "nmol"),
            (self.model.setExtentUnits, "nmol"),
            (self.model.setTimeUnits, "min"),
            (self.model.setVolumeUnits, "litre"),
        ):
            done(setter(unit), unit)
        for identifier, parts in UNITS.items():
            definition = self.model.createUnitDefinition()
            done(definition.setId(identifier), identifier)
            for kind, exponent, scale, multiplier in parts:
                one = definition.createUnit()
                one.setKind(kind)
                one.setExponent(exponent)
                one.setScale(scale)
                one.setMultiplier(multiplier)

    def new(self, hint: str) -> str:
        """An identifier that is free, and is taken from now on."""
        return identifier_of(hint, self.taken)

    def parameter(self, identifier: str, name: str, value: float, unit: str, *, constant: bool = True, note: str = "") -> None:
        """A parameter with its value."""
        one = self.model.createParameter()
        done(one.setId(identifier), name)
        done(one.setName(printable(name)), name)
        done(one.setUnits(unit), name)
        one.setValue(float(value))
        one.setConstant(constant)
        annotate(one, [note] if note else [])

    def reaction(
        self, hint: str, name: str, source: str | None, target: str | None, law: str, modifiers: Sequence[str]
    ) -> None:
        """An irreversible reaction of one reactant and one product, or of one of them."""
        one = self.model.createReaction()
        done(one.setId(self.new(hint)), name)
        done(one.setName(printable(name)), name)
        one.setReversible(False)
        one.setFast(False)
        for create, species in ((one.createReactant, source), (one.createProduct, target)):
            if species is not None:
                reference = create()
                done(reference.setSpecies(species), name)
                reference.setStoichiometry(1.0)
                reference.setConstant(True)
        for species in modifiers:
            done(one.createModifier().setSpecies(species), name)
        done(one.createKineticLaw().setMath(parsed(law)), name)

    def event(self, hint: str, at_min: float, assignments: Mapping[str, str]) -> None:
        """Variables take new values at a time, min."""
        when, identifier = self.new(f"{hint}_time"), self.new(hint)
        self.parameter(when, f"time of {identifier}", at_min, "min")
        event = self.model.createEvent()
        done(event.setId(identifier), identifier)
        event.setUseValuesFromTriggerTime(True)
        trigger = event.createTrigger()
        trigger.setInitialValue(True)
        trigger.setPersistent(True)
        done(trigger.setMath(parsed(f"time >= {when}")), identifier)
        for variable, formula in assignments.items():
            one = event.createEventAssignment()
            done(one.setVariable(variable), identifier)
            done(one.setMath(parsed(formula)), identifier)

    def rate_rule(self, variable: str, formula: str) -> None:
        """d variable / dt."""
        rule = self.model.createRateRule()
        done(rule.setVariable(variable), variable)
        done(rule.setMath(parsed(formula)), variable)


def tag(element: str, **attributes: str) -> str:
    """An element of the annotation."""
    return f"<tdt:{element} {' '.join(f'{name}={quoteattr(printable(value))}' for name, value in attributes.items())}/>"


def parsed(formula: str) -> Any:
    """A formula of SBML Level 3 as MathML."""
    tree = libsbml.parseL3Formula(formula)
    if tree is None:
        raise ModelError(
            f"the formula {formula!r} does not parse: {libsbml.getLastParseL3Error()}",
            remedy="report this as a defect of the exporter",
            kind="model.sbml",
        )
    return tree


def done(code: int, name: str) -> None:
    """Refuse to go on after a call that libSBML declined: it says so only by its return value."""
    if code != libsbml.LIBSBML_OPERATION_SUCCESS:
        reason = libsbml.OperationReturnValue_toString(code)
        raise ModelError(
            f"libSBML declines {name!r}: {reason}", expected="a name that XML can hold", remedy="rename it", kind="model.sbml"
        )


def annotate(element: Any, lines: Sequence[str]) -> None:
    """Notes, a paragraph for each line."""
    if lines:
        text = "".join(f"<p>{escape(printable(line))}</p>" for line in lines)
        done(element.setNotes(f'<body xmlns="http://www.w3.org/1999/xhtml">{text}</body>'), "notes")
