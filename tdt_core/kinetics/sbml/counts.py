"""What a document counts apart: one total, nuclides and cold ligand, ligands that compete, and daughters on and off them.

All are atoms or molecules in nmol. A radioactive molecule and a cold one both fill receptors; what decays becomes the cold
ligand in the same place. A daughter on a ligand rides on a molecule that is counted as cold by then, so it binds to the free
receptors without filling them; free it binds to nothing. A parent's decay makes daughters at its decay constant x a yield.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tdt_core.errors import ModelError
from tdt_core.kinetics.daughters import daughters_of, element_of, productions
from tdt_core.kinetics.network import Network, Production
from tdt_core.kinetics.pbrpk import PBRPK
from tdt_core.kinetics.rules import Rule, RuleTable
from tdt_core.kinetics.sbml.doses import nuclides_of
from tdt_core.kinetics.schedules import administered, decay_per_min
from tdt_core.kinetics.simulation import OdeModel
from tdt_core.kinetics.structure import Species, Structure
from tdt_core.kinetics.together import Together, together
from tdt_core.twin import Administration

TOTAL_LABEL, COLD, FREE = "ligand", "cold", "free"


@dataclass(frozen=True, eq=False)
class Counts:
    """Labels of a document and how they turn into each other.

    Attributes
    ----------
    model : that gives the coefficients of `network`: the exported one, or one with several ligands.
    network : flows of all labels, without decay and births.
    labels : of ligands and nuclides, in order.
    nuclides : nuclide of each label that decays.
    becomes : label that such a one decays into in the same place; "" where it is counted no more.
    cold : ligand -> the label of what does not decay of it; of one ligand under the name "".
    given : (ligand, nuclide) -> label that a vial's activity enters; the ligand "" is any.
    births : what each parent makes; `rate` is the coefficient that the yield follows from.
    integrals : label -> nuclide of the time integrals.
    """

    model: OdeModel
    network: Network
    labels: tuple[str, ...]
    nuclides: Mapping[str, str]
    becomes: Mapping[str, str]
    cold: Mapping[str, str]
    given: Mapping[tuple[str, str], str]
    integrals: Mapping[str, str]
    births: tuple[Production, ...] = ()
    makers: Mapping[str, str] = field(default_factory=dict)
    """Coefficient of births -> the daughter that it makes."""

    @property
    def is_apart(self) -> bool:
        """Whether it counts several ligands or daughters, which `read` does not take."""
        return bool(self.births) or len(self.cold) > 1

    def rules_of(self, coefficient: str) -> tuple[Mapping[str, Rule], str]:
        """The rules that a coefficient follows from, and its name among them, which has no ligand."""
        ligand, _, own = coefficient.partition("/")
        if isinstance(self.model, Together) and ligand in self.model.ligands:
            return self.model.members[ligand].table, own
        table = getattr(self.model.base if isinstance(self.model, Together) else self.model, "table", None)
        return (table if isinstance(table, RuleTable) else {}), coefficient

    def in_words(self) -> list[str]:
        """What the labels are, for a reader."""
        if not self.nuclides:
            return ["Amounts are of the total ligand without decay."]
        into = {label: target for label, target in self.becomes.items() if target}
        lines = [
            f"Radioactive ligand: {', '.join(n for n in into if into[n] == cold)}; it decays into {cold}."
            for cold in self.cold.values()
            if cold in into.values()
        ]
        daughters = [n for n in self.nuclides if n not in into]
        return lines + ([f"Daughters, in atoms: {', '.join(daughters)}."] if daughters else [])

    def entry_of(self, label: str) -> str:
        """Name of the state of a label that administrations enter."""
        return f"{label}/{self.model.entry[0]}/{self.model.entry[1]}"

    def yields(self, coefficients: Mapping[str, Any]) -> dict[str, Any]:
        """Daughters per decay of the parent, by the coefficient of births, which is per minute and in activity."""
        return {rate: coefficients[rate] / decay_per_min(daughter) for rate, daughter in self.makers.items()}


def counts_of(
    model: OdeModel,
    labels: Sequence[str] | None,
    schedule: Sequence[Administration] | None,
    nuclide: str | None = None,
    integrals: bool = False,
) -> Counts:
    """What to count for a schedule.

    Parameters
    ----------
    labels : one name: the total; several: radioactive ones and the cold one last. None: the total, or, where the schedule has
        several ligands or nuclides whose daughters the model follows, every nuclide, cold ligand and daughter.

    Raises
    ------
    ModelError `model.sbml` for labels where these follow from the schedule, and what `doses.nuclides_of` refuses.
    """
    given = tuple(schedule or ())
    ligands = tuple(dict.fromkeys(a.ligand for a in given))
    followed = getattr(model, "daughters", "none") == "followed"
    name = getattr(model, "name", "a model")
    if followed and schedule is None:
        raise ModelError(
            f"{name} follows daughters, and no schedule says of what",
            expected="a schedule: daughters are those of its nuclides",
            remedy='pass schedule, or export model.with_options(daughters="none")',
            kind="model.sbml",
        )
    bears = followed and any(daughters_of(n) for n in administered(given))
    if isinstance(model, PBRPK) and (bears or len(ligands) > 1):
        if labels is not None:
            what = "follows daughters" if bears else f"is given {', '.join(ligands)}"
            raise ModelError(
                f"{name} {what}, and labels {', '.join(labels)} are asked for",
                expected="no labels: every nuclide, cold ligand and daughter is counted apart",
                remedy="leave labels out; sbml.identifiers(model, schedule=...) names the species",
                kind="model.sbml",
            )
        return _apart(model, given, ligands, bears)
    chosen = (TOTAL_LABEL,) if labels is None else tuple(labels)
    hot = nuclides_of(chosen, nuclide, given, integrals)
    radioactive = {label: hot[label] for label in chosen[:-1]}
    return Counts(
        model,
        model.network(chosen),
        chosen,
        radioactive,
        dict.fromkeys(radioactive, chosen[-1]),
        {"": chosen[-1]},
        {("", isotope): label for label, isotope in radioactive.items()},
        hot,
    )


def _apart(model: PBRPK, given: Sequence[Administration], ligands: Sequence[str], bears: bool) -> Counts:
    several = len(ligands) > 1
    cold = {ligand: f"{ligand} {COLD}" if several else COLD for ligand in ligands}
    vials = dict.fromkeys((a.ligand, a.nuclide) for a in given if a.nuclide)
    hot = {(ligand, n): f"{ligand} {n}" if several else n for ligand, n in vials}
    own = {ligand: ligand if several else "" for ligand in ligands}
    species = [Species(label, own[ligand], occupies=True) for (ligand, _), label in hot.items()]
    species += [Species(label, own[ligand], occupies=True) for ligand, label in cold.items()]
    nuclides = {label: n for (_, n), label in hot.items()}
    becomes = {label: cold[ligand] for (ligand, _), label in hot.items()}
    births: list[Production] = []
    makers: dict[str, str] = {}
    if bears:
        daughters = tuple(dict.fromkeys(d for n in administered(given) for d in daughters_of(n)))
        carriers = {(n, d): f"{d} on {n if several else 'ligand'}" for n in ligands for d in daughters}
        on = {
            (ligand, d): Species(carriers[ligand, d], own[ligand])
            for ligand, n in vials
            for d in daughters_of(n)
        }  # fmt: skip
        free = {d: Species(f"{d} {FREE}", element=element_of(d)) for d in daughters}
        species += [*on.values(), *free.values()]
        nuclides |= {s.label: d for (_, d), s in on.items()} | {s.label: d for d, s in free.items()}
        becomes |= dict.fromkeys([*(s.label for s in on.values()), *(s.label for s in free.values())], "")
        carried = {s.label: s for s in species}
        for (ligand, n), label in hot.items():
            for d in daughters_of(n):
                found = productions(model.structure, n, d, carried[label], on[ligand, d], free[d])
                births += found
                makers |= {p.rate: d for p in found}
    whole: OdeModel = together(model, tuple(ligands)) if several else model
    structure: Structure = model.structure
    return Counts(
        whole,
        structure.network(species),
        tuple(s.label for s in species),
        nuclides,
        becomes,
        cold if several else {"": COLD},
        {(ligand if several else "", n): label for (ligand, n), label in hot.items()},
        nuclides,
        tuple(births),
        makers,
    )
