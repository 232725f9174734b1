"""Any ODE model as SBML Level 3 Version 1.

Amounts are species in nmol (`hasOnlySubstanceUnits`), regions are compartments, every coefficient is a parameter with its
value, every transfer, binding and production is one irreversible reaction:

    transfer    k S                          k in 1/min
    binding     k S (capacity - members)     k in 1/(nmol min), capacity in nmol
    production  k S, without taking from S   k in 1/min
    decay       lambda S                     from a radioactive label to the cold one in the same place
    birth       lambda yield S               a daughter, by the decay of its parent, which another reaction takes off

Time is in minutes after the first administration (time 0 without a schedule), because many tools start at 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import libsbml
import numpy as np

from tdt_core.errors import ModelError
from tdt_core.kinetics.parameter_tables import options_of
from tdt_core.kinetics.pbrpk import PBRPK
from tdt_core.kinetics.sbml.counts import Counts, counts_of
from tdt_core.kinetics.sbml.document import ANNOTATION
from tdt_core.kinetics.sbml.doses import Dose, dose_of
from tdt_core.kinetics.sbml.elements import Elements, annotate, done, tag
from tdt_core.kinetics.sbml.names import named, printable
from tdt_core.kinetics.schedules import check_schedule, decay_per_min, in_order
from tdt_core.kinetics.simulation import OdeModel
from tdt_core.twin import Administration


def export(
    model: OdeModel,
    parameters: Mapping[str, Any] | None = None,
    schedule: Sequence[Administration] | None = None,
    *,
    labels: Sequence[str] | None = None,
    nuclide: str | None = None,
    integrals: bool = False,
) -> str:
    """A model as the text of an SBML Level 3 Version 1 document.

    Parameters
    ----------
    parameters : values by name for whatever differs from the model's own, as in `simulate`; one patient.
    schedule : administrations. Boluses become initial amounts (at time 0) and events, infusions zero-order reactions that
        events start and end. Without a schedule all amounts start at 0.
    labels : one name: the total ligand, decay-free, of which `simulate` makes activities by the hot-fraction law. Several:
        radioactive ligands and last the cold one, which compete for receptors; each radioactive amount decays into the cold
        one in the same place. A radioactive label is the name of its nuclide, or anything else (`hot`) where there is only one.
        By default the total, `ligand`; or, where the schedule gives several ligands, or nuclides whose daughters the model
        follows, every nuclide, cold ligand and daughter (`counts`).
    nuclide : nuclide of the radioactive label, or of the weights of the time integrals; default that of the schedule.
    integrals : time integrals by region as parameters under rate rules: dQ/dt = exp(-lambda t) x total amounts for one label,
        dQ/dt = radioactive amounts for several. nmol min.

    Raises
    ------
    ModelError
        `model.sbml` a model that is no ODE, labels without a nuclide or where the schedule says them, followed daughters
        without a schedule; `model.batch` parameters of several patients; `model.amount` an administration with more radioactive
        ligand than ligand; and what the model's `coefficients` refuses.
    InputError : what `schedules.check_schedule` refuses.
    """
    if not isinstance(model, OdeModel):
        raise ModelError(
            f"{type(model).__name__} is no system of differential equations",
            expected="a model with a network of states and flows",
            remedy="export a compartment rung, such as psma_reference",
            kind="model.sbml",
        )
    given = in_order(schedule or ())
    if schedule is not None:
        check_schedule(given, several=isinstance(model, PBRPK))
    counts = counts_of(model, labels, None if schedule is None else given, nuclide, integrals)
    coefficients = counts.model.coefficients(parameters)
    values = counts.network.gather(coefficients)
    if len(values) != 1:
        raise ModelError(f"{len(values)} sets of parameters", expected="one", remedy="export one patient", kind="model.batch")
    doses = tuple(dose_of(a, counts.given, counts.cold, given[0].time_h) for a in given)
    writer = _Writer(model, counts)
    quantities = getattr(counts.model, "quantities", None)
    writer.compartments({} if quantities is None else quantities(parameters))
    writer.species(doses)
    writer.coefficients(dict(zip(counts.network.coefficients, values[0].tolist(), strict=True)))
    writer.flows()
    writer.decays()
    writer.births(counts.yields(coefficients))
    writer.administrations(doses)
    if integrals:
        writer.integrals()
    writer.describe(parameters or {}, given)
    return str(libsbml.writeSBMLToString(writer.document))


# --- the document ----------------------------------------------------------------------------------------------------


def _number(value: float) -> str:
    return f"{float(value):.6g}"


def _scalar(value: Any) -> float:
    return float(np.real(np.asarray(value)).reshape(-1)[0])


class _Writer(Elements):
    """The document of a model. The methods run in the order in which `export` calls them."""

    def __init__(self, model: OdeModel, counts: Counts) -> None:
        self.source, self.counts, self.network = model, counts, counts.network
        self.labels = counts.labels
        self.ids = named(model, counts.network, counts.labels)
        super().__init__(
            str(getattr(model, "name", type(model).__name__)),
            (identifier for table in self.ids for identifier in table.values()),
        )
        self.constants: dict[str, str] = {}
        self.entry = {label: self.ids.states[counts.entry_of(label)] for label in counts.labels}

    def compartments(self, quantities: Mapping[str, Any]) -> None:
        """One per region; a region of no volume, such as the sink, has no dimension."""
        for region in self.source.regions:
            one = self.model.createCompartment()
            done(one.setId(self.ids.regions[region]), region)
            done(one.setName(printable(region)), region)
            one.setConstant(True)
            volume = quantities.get(f"{region}.volume")
            one.setSpatialDimensions(0 if volume is None else 3)
            one.setUnits("dimensionless" if volume is None else "litre")
            if volume is not None:
                one.setSize(_scalar(volume))

    def species(self, doses: Sequence[Dose]) -> None:
        """One per state. What is given at time 0 at once stands in the entry from the start."""
        start = {self.entry[label]: 0.0 for label in self.labels}
        for dose in doses:
            if dose.start_min == 0 and dose.duration_min <= 0:
                for label, amount in dose.amounts.items():
                    start[self.entry[label]] += amount
        for state in self.network.states:
            one = self.model.createSpecies()
            identifier = self.ids.states[state.name]
            name = state.part if len(self.labels) == 1 else f"{state.label} {state.part}"
            done(one.setId(identifier), state.name)
            done(one.setName(printable(name)), state.name)
            done(one.setCompartment(self.ids.regions[state.region]), state.name)
            done(one.setSubstanceUnits("nmol"), state.name)
            one.setInitialAmount(start.get(identifier, 0.0))
            one.setHasOnlySubstanceUnits(True)
            one.setBoundaryCondition(False)
            one.setConstant(False)

    def coefficients(self, values: Mapping[str, float]) -> None:
        """Parameters with what they follow from as notes."""
        units = {t.rate: "per_min" for t in self.network.transfers}
        units |= {p.rate: "per_min" for p in self.network.productions}
        units |= {b.rate: "per_nmol_per_min" for b in self.network.bindings}
        units |= {p.capacity: "nmol" for p in self.network.pools}
        for name, value in values.items():
            rules, own = self.counts.rules_of(name)
            parts = [rules[part] for part in own.split(" / ") if part in rules]
            note = "; ".join(f"{r.name} = {r.rule} ({r.unit}; {r.status}: {r.source})" for r in parts)
            self.parameter(
                self.ids.coefficients[name], name, value, units[name], note=f"By the model's rules: {note}" if note else ""
            )

    def flows(self) -> None:
        """Transfers and bindings, one reaction each."""
        places = {s.name: s for s in self.network.states}
        for t in self.network.transfers:
            source, target = places[t.source], places[t.target] if t.target is not None else None
            to = f"{target.region} {target.part}" if target is not None else "outside"
            name = f"{source.label}: {source.region} {source.part} to {to}"
            law = f"{self.ids.coefficients[t.rate]} * {self.ids.states[t.source]}"
            ends = self.ids.states[t.source], None if t.target is None else self.ids.states[t.target]
            self.reaction(f"flow_{name}", name, *ends, law, ())
        for p in self.network.productions:
            source, target = places[p.source], places[p.target]
            name = f"{source.label}: {source.region} {source.part} makes {target.label} {target.region} {target.part}"
            law = f"{self.ids.coefficients[p.rate]} * {self.ids.states[p.source]}"
            self.reaction(f"flow_{name}", name, None, self.ids.states[p.target], law, [self.ids.states[p.source]])
        pools = {p.name: p for p in self.network.pools}
        for b in self.network.bindings:
            pool, source = pools[b.pool], places[b.source]
            members = [self.ids.states[m] for m in pool.members]
            free = " - ".join([self.ids.coefficients[pool.capacity], *members])
            ends = self.ids.states[b.source], self.ids.states[b.target]
            name = f"{source.label}: {source.region} {source.part} binds to {pool.name}"
            law = f"{self.ids.coefficients[b.rate]} * {self.ids.states[b.source]} * ({free})"
            hint = f"binding_{source.label}_{source.region}_{source.part}"
            self.reaction(hint, name, *ends, law, [m for m in members if m not in ends])

    def decay_constant(self, nuclide: str) -> str:
        """Identifier of the parameter, which is made when it is first needed."""
        if nuclide not in self.constants:
            self.constants[nuclide] = self.new(f"decay_constant_{nuclide}")
            name, note = f"decay constant of {nuclide}", "ICRP Publication 107"
            self.parameter(self.constants[nuclide], name, decay_per_min(nuclide), "per_min", note=note)
        return self.constants[nuclide]

    def decays(self) -> None:
        """Each radioactive amount into the cold one in the same place; that of a daughter is counted no more."""
        for state in self.network.states:
            if state.label in self.counts.nuclides:
                source, into = self.ids.states[state.name], self.counts.becomes[state.label]
                target = self.ids.states[f"{into}/{state.region}/{state.part}"] if into else None
                law = f"{self.decay_constant(self.counts.nuclides[state.label])} * {source}"
                name = f"{state.label}: {state.region} {state.part} decays"
                self.reaction(f"decay_{state.name}", name, source, target, law, ())

    def births(self, yields: Mapping[str, Any]) -> None:
        """What the decay of a nuclide makes of its daughters, place by place: decay constant x yield x amount."""
        ids = {rate: self.new(f"yield_{rate}") for rate in yields}
        for rate, value in yields.items():
            pair, _, where = rate.partition(" ")
            note = f"Daughters per decay of the parent, {where}: the branching of ICRP Publication 107 x the model's share."
            self.parameter(ids[rate], f"yield of {pair} {where}", _scalar(value), "dimensionless", note=note)
        places = {s.name: s for s in self.network.states}
        for p in self.counts.births:
            source, target = places[p.source], places[p.target]
            constant, parent = self.decay_constant(self.counts.nuclides[source.label]), self.ids.states[p.source]
            name = f"{source.label}: {source.region} {source.part} makes {target.label} {target.part}"
            law = f"{constant} * {ids[p.rate]} * {parent}"
            self.reaction(f"birth_{name}", name, None, self.ids.states[p.target], law, [parent])

    def administrations(self, doses: Sequence[Dose]) -> None:
        """Boluses after time 0 as events, infusions as reactions."""
        later: dict[float, list[tuple[str, str]]] = {}
        for k, dose in enumerate(doses, 1):
            if dose.duration_min > 0:
                self._infusion(f"infusion_{k}", dose)
            elif dose.start_min > 0:
                for label, amount in dose.amounts.items():
                    identifier = self.new(f"bolus_{k}_{label}")
                    self.parameter(identifier, f"{label} of administration {k}", amount, "nmol")
                    later.setdefault(dose.start_min, []).append((self.entry[label], identifier))
        for k, (at_min, parts) in enumerate(later.items(), 1):
            sums: dict[str, list[str]] = {}
            for species, given in parts:
                sums.setdefault(species, [species]).append(given)
            self.event(f"bolus_event_{k}", at_min, {species: " + ".join(terms) for species, terms in sums.items()})

    def _infusion(self, hint: str, dose: Dose) -> None:
        """Total ligand at a constant rate; its radioactive part decays in the syringe as it does in the body."""
        total = self.new(f"{hint}_rate")
        rates = {total: sum(dose.amounts.values()) / dose.duration_min}
        self.parameter(total, f"{hint}: ligand given", 0.0, "nmol_per_min", constant=False)
        flows = dict.fromkeys(dose.amounts, total)
        for label, nuclide in dose.nuclides.items():
            rate = self.new(f"{hint}_{label}_rate")
            rates[rate] = dose.amounts[label] / dose.duration_min
            self.parameter(rate, f"{hint}: {label} given", 0.0, "nmol_per_min", constant=False)
            self.rate_rule(rate, f"-{self.decay_constant(nuclide)} * {rate}")
            flows[label] = rate
            flows[dose.cold] = f"{total} - {rate}"
        for label, law in flows.items():
            self.reaction(f"{hint}_{label}", f"{hint} of {label}", None, self.entry[label], law, ())
        if dose.start_min > 0:
            # numbers as parameters, so that they carry their unit
            names = {rate: self.new(f"{rate}_at_start") for rate in rates}
            for rate, value in rates.items():
                self.parameter(names[rate], f"{rate} at the start", value, "nmol_per_min")
            self.event(f"{hint}_starts", dose.start_min, names)
        else:
            for rate, value in rates.items():
                self.model.getParameter(rate).setValue(value)
        self.event(f"{hint}_ends", dose.start_min + dose.duration_min, dict.fromkeys(rates, "0 nmol_per_min"))

    def integrals(self) -> None:
        """Time integrals of each radioactive label, or of the total weighted by decay."""
        for label, nuclide in self.counts.integrals.items():
            for region in self.source.regions:
                identifier = self.ids.integrals[label, region]
                states = [self.ids.states[s.name] for s in self.network.states if (s.label, s.region) == (label, region)]
                total = " + ".join(states) if states else "0 nmol"
                weight = f"exp(-{self.decay_constant(nuclide)} * time) * " if len(self.labels) == 1 else ""
                self.parameter(identifier, f"time integral: {label} in {region}", 0.0, "nmol_min", constant=False)
                self.rate_rule(identifier, f"{weight}({total})")

    def describe(self, parameters: Mapping[str, Any], given: Sequence[Administration]) -> None:
        """Notes for the reader, and where administrations enter."""
        lines = ["Research use only. Not a medical device.", "Amounts in nmol, time in min, volumes in L."]
        lines += self.counts.in_words()
        options = options_of(self.source)
        lines += [f"Option {name.replace('_', ' ')}: {value}." for name, value in options.items()]
        values = {name: _scalar(value) for name, value in parameters.items()}
        lines += [f"Given: {name} = {_number(value)}" for name, value in values.items()]
        if given:
            lines.append(f"Time 0 is the first administration, {given[0].time_h:g} h on the schedule's axis.")
        for a in given:
            how = f"in {a.duration_h:g} h" if a.duration_h > 0 else "at once"
            amount = f"{_number(a.amount_nmol or 0.0)} nmol {a.ligand}"
            vial = f"vial of {_number(a.activity_mbq)} MBq {a.nuclide} and {amount}"
            what = f"{_number(a.net_activity_mbq)} MBq {how}, {vial}" if a.nuclide else f"{amount} without activity {how}"
            lines.append(f"{a.time_h:g} h: {what}.")
        annotate(self.model, lines)
        said = [tag("entry", species=self.entry[label]) for label in self.counts.cold.values()]
        said += [tag("apart", label=label) for label in self.labels if self.counts.is_apart]
        said += [tag("option", name=name, value=value) for name, value in options.items()]
        said += [tag("given", name=name, value=repr(value)) for name, value in values.items()]
        done(self.model.setAnnotation(f'<tdt:model xmlns:tdt="{ANNOTATION}">{"".join(said)}</tdt:model>'), "annotation")
