"""An SBML document that is valid and inside the subset, and its units.

Function definitions are expanded and local parameters made global, so that later steps meet neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import libsbml

from tdt_core.errors import ModelError

ANNOTATION = "urn:theranostic-digital-twin:sbml:2"
"""Namespace of the element `model` in a model's annotation. Its children: `entry`, the `species` that administrations enter;
`option`s and `given` parameters by `name` and `value`; of several ligands, or with daughters, each `label` that is counted
`apart`."""

TIME_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
"""Seconds."""

Net = Mapping[str, float]
"""Species -> change per extent of a reaction."""


def outside(found: str, expected: str, remedy: str) -> ModelError:
    """The error for what is outside the subset."""
    return ModelError(found, expected=expected, remedy=remedy, kind="model.sbml")


def parse(source: str | bytes) -> Any:
    """The libSBML document of a text. Keep it as long as its model is in use."""
    text = _decoded(source).lstrip("\ufeff \t\r\n")
    if not text.startswith("<"):
        raise outside("a text that is no XML", "the text of an SBML document", "read the file, and pass what it holds")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise outside("a document type definition", "plain SBML", "remove the DOCTYPE; entities are not expanded")
    document = libsbml.readSBMLFromString(text)
    _check_errors(document)
    if document.getModel() is None:
        raise outside("a document without a model", "one model", "give an SBML document")
    level, version = document.getLevel(), document.getVersion()
    if (level, version) < (2, 4):
        raise outside(
            f"SBML Level {level} Version {version}",
            "Level 2 Version 4 or Level 3",
            "convert it, for example with libSBML's setLevelAndVersion",
        )
    for category in (libsbml.LIBSBML_CAT_UNITS_CONSISTENCY, libsbml.LIBSBML_CAT_MODELING_PRACTICE):
        document.setConsistencyChecks(category, False)
    document.checkConsistency()
    _check_errors(document)
    for conversion in ("expandFunctionDefinitions", "promoteLocalParameters"):
        options = libsbml.ConversionProperties()
        options.addOption(conversion, True)
        if document.convert(options) != libsbml.LIBSBML_OPERATION_SUCCESS:
            raise outside(f"libSBML fails at {conversion}", "a valid document", "validate the file")
    _check_subset(document.getModel())
    return document


def _decoded(source: str | bytes) -> str:
    if isinstance(source, str):
        return source
    if not isinstance(source, bytes):
        raise outside(f"a {type(source).__name__}", "the text of an SBML document", "read the file, and pass what it holds")
    try:
        return source.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise outside("bytes that are not encoded in UTF-8", "XML in UTF-8", "save the file in UTF-8") from None


def _check_errors(document: Any) -> None:
    for i in range(document.getNumErrors()):
        error = document.getError(i)
        if error.getSeverity() >= libsbml.LIBSBML_SEV_ERROR:
            said = " ".join(error.getMessage().split())
            raise outside(
                f"line {error.getLine()}: {error.getShortMessage()}. {said}"[:600],
                "a valid SBML document",
                "correct that line; a validator lists all errors",
            )


def _check_subset(model: Any) -> None:
    if apart := annotated(model, "apart"):
        raise outside(
            f"an export that counts {', '.join(a.get('label', '') for a in apart)} apart",
            "one ligand, without daughters",
            "read the exports of each ligand without followed daughters, or simulate the file with a general SBML tool",
        )
    for event in model.getListOfEvents():
        raise outside(f"the event {event.getId()!r}", "none", "remove it; administrations come with the schedule of simulate")
    for rule in model.getListOfRules():
        if not rule.isAssignment():
            found = f"the rate rule of {rule.getVariable()}" if rule.isRate() else "an algebraic rule"
            raise outside(found, "assignment rules", "write reactions; time integrals come from simulate")
    for element in (model, *model.getListOfSpecies()):
        if model.getLevel() >= 3 and element.isSetConversionFactor():
            raise outside(f"the conversion factor of {element.getId()}", "none", "write all amounts in one unit")
    if not len(model.getListOfReactions()):
        raise outside(f"the model {model.getId()!r} without a reaction", "at least one", "give a model with reactions")
    for reaction in model.getListOfReactions():
        if reaction.getFast():
            raise outside(f"the fast reaction {reaction.getId()}", "reactions with a rate", "give it a finite rate")
        if reaction.getKineticLaw() is None or reaction.getKineticLaw().getMath() is None:
            raise outside(f"the reaction {reaction.getId()} without a kinetic law", "one", "add its kinetic law")


def annotated(model: Any, element: str) -> list[dict[str, str]]:
    """Attributes of each such child of the annotation that `export` writes."""
    top = model.getAnnotation()
    models = [top.getChild(i) for i in range(top.getNumChildren())] if top is not None else []
    children = [m.getChild(i) for m in models if m.getURI() == ANNOTATION for i in range(m.getNumChildren())]
    return [
        {c.getAttrName(i): c.getAttrValue(i) for i in range(c.getAttributesLength())}
        for c in children
        if c.getName() == element
    ]


def given_values(model: Any) -> dict[str, float]:
    """Parameters that the annotation says were given to the exported model."""
    out: dict[str, float] = {}
    for attributes in annotated(model, "given"):
        name, text = attributes.get("name", ""), attributes.get("value", "")
        try:
            out[name] = float(text)
        except ValueError:
            out[name] = math.nan
        if not math.isfinite(out[name]):
            raise outside(f"the annotation gives {name} as {text!r}", "a finite number", "remove the annotation")
    return out


def net_changes(model: Any) -> dict[str, Net]:
    """Reaction -> what it changes. Boundary species and constant ones do not change."""
    assigned = {r.getVariable() for r in model.getListOfRules()}
    out: dict[str, Net] = {}
    for reaction in model.getListOfReactions():
        net: dict[str, float] = {}
        for sign, references in ((-1.0, reaction.getListOfReactants()), (1.0, reaction.getListOfProducts())):
            for reference in references:
                species, count = model.getSpecies(reference.getSpecies()), reference.getStoichiometry()
                changeable = reference.isSetStoichiometryMath() or (reference.isSetId() and reference.getId() in assigned)
                # Level 3 has no default: a stoichiometry that is not set is not a number
                if changeable or not math.isfinite(count):
                    raise outside(f"a stoichiometry in {reaction.getId()} that is no number", "1", "write it as a number")
                if not (species.getBoundaryCondition() or species.getConstant()):
                    net[species.getId()] = net.get(species.getId(), 0.0) + sign * count
        out[reaction.getId()] = {species: change for species, change in net.items() if change}
    return out


# --- units -----------------------------------------------------------------------------------------------------------


class Unit(NamedTuple):
    """`size` x product of SI base units to a power."""

    size: float
    powers: Mapping[str, float]

    def same(self, other: Unit) -> bool:
        """Equal in dimension, and in size as far as files write it."""
        return self.powers == other.powers and math.isclose(self.size, other.size, rel_tol=1e-6)


_SI = {"litre": (1e-3, "metre", 3.0), "liter": (1e-3, "metre", 3.0), "gram": (1e-3, "kilogram", 1.0)}


def _unit_of(definition: Any) -> Unit:
    size, powers = 1.0, dict[str, float]()
    for i in range(definition.getNumUnits()):
        unit = definition.getUnit(i)
        kind, exponent = libsbml.UnitKind_toString(unit.getKind()), unit.getExponentAsDouble()
        scale, base, power = _SI.get(kind, (1.0, kind, 1.0))
        size *= (unit.getMultiplier() * 10.0 ** unit.getScale() * scale) ** exponent
        if base != "dimensionless":
            powers[base] = powers.get(base, 0.0) + power * exponent
    return Unit(size, {base: power for base, power in powers.items() if power})


def _named(model: Any, identifier: str, what: str) -> Unit:
    definition = model.getUnitDefinition(identifier)
    if definition is not None:
        return _unit_of(definition)
    kind = libsbml.UnitKind_forName(identifier)
    if kind == libsbml.UNIT_KIND_INVALID:
        raise outside(f"no unit of {what}", "nmol, min or other units of amount and time", f"declare the unit of {what}")
    scale, base, power = _SI.get(identifier, (1.0, libsbml.UnitKind_toString(kind), 1.0))
    return Unit(scale, {base: power})


def time_unit(model: Any, given: str | None) -> Unit:
    """The file's unit of time, or the given one of `TIME_UNITS`."""
    if given is not None:
        if given not in TIME_UNITS:
            raise outside(f"the time unit {given!r}", f"one of {', '.join(TIME_UNITS)}", "name one of them")
        return Unit(TIME_UNITS[given], {"second": 1.0})
    declared = model.getTimeUnits() if model.getLevel() >= 3 else "time"
    if model.getLevel() < 3 and model.getUnitDefinition("time") is None:
        declared = "second"  # Level 2's own default
    unit = _named(model, declared, "time")
    if unit.powers != {"second": 1.0}:
        raise outside(f"time in {declared}", "a unit of time", "declare seconds, minutes or hours, or pass time_unit")
    return unit


def amount_unit(model: Any, states: Sequence[str]) -> Unit:
    """The one unit of these species, and of the extent of reactions."""
    level = model.getLevel()
    default = "substance" if level < 3 else model.getSubstanceUnits()
    if level < 3 and model.getUnitDefinition("substance") is None:
        default = "mole"  # Level 2's own default
    units = {s: _named(model, model.getSpecies(s).getSubstanceUnits() or default, f"the species {s}") for s in states}
    if level >= 3 and model.isSetExtentUnits():
        units["extent"] = _named(model, model.getExtentUnits(), "extent")
    if not states:
        raise outside("reactions that change no amount", "reactions between species", "give a model with reactions")
    first = states[0]
    for name, unit in units.items():
        if unit.powers != {"mole": 1.0}:
            raise outside(f"{name} is not counted in moles", "mol, nmol or the like", f"declare a unit of substance for {name}")
        if not unit.same(units[first]):
            raise outside(f"{first} and {name} are in different units", "one unit", "write all amounts in one unit")
    return units[first]


def check_law_unit(reaction: Any, amount: Unit, time: Unit) -> None:
    """A law whose symbols all have units must be in amount per time: seconds by default are often meant as minutes."""
    law = reaction.getKineticLaw()
    if law.containsUndeclaredUnits():
        return
    definition = law.getDerivedUnitDefinition()
    if not _unit_of(definition).same(Unit(amount.size / time.size, {"mole": 1.0, "second": -1.0})):
        raise outside(
            f"by the units of its symbols the law of {reaction.getId()} is in"
            f" {libsbml.UnitDefinition.printUnits(definition, True)}",
            f"the file's unit of amount ({amount.size:g} mol) per its unit of time ({time.size:g} s)",
            "declare the unit of time, or pass time_unit; correct the parameters' units",
        )
