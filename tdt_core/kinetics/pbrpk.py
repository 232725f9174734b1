"""Whole-body physiologically based radiopharmacokinetic models (PBRPK) as data.

Organs are rows of `tdt_core/data/pbrpk_organs.csv`; their quantities follow by the rules of `pbrpk_<model>.csv`. A row's
template says which sub-compartments an organ has and which rules it takes:

    vascular -- interstitial -- bound -- internalised       V, I, B, N; in the kidney I is the lumen, X the cells

    dV/dt = F (A/a - V/v) - PS (V/v - I/i)
    dI/dt = PS (V/v - I/i) - (k_on/i) I (R0 - B) + k_off B [+ lambda_rel N if release is recycled]
    dB/dt = (k_on/i) I (R0 - B) - (k_off + lambda_int) B
    dN/dt = lambda_int B - lambda_rel N                     to the sink if release is lost

Kidney, with filtered flow g phi, of which the share f is excreted: V loses g phi V/v to I; I loses g phi f I/i to the sink and
g phi (1 - f) I/i to X; X returns g phi (1 - f) X/x to V. Where a model has the quantity `trapped_share` s of kidneys, s of what
is taken up stays in the cells of the tubules, as T: dT/dt = s g phi (1 - f) I/i - lambda_trapped T, to where released ligand
goes; 1 - s of it passes through X. Amounts in nmol of a label's ligand, decay-free; time in min, volumes in L, flows of
serum in L/min.

Options: `release`, and `plasma_binding` to proteins. As a free fraction, V and I count free and bound ligand together, and PS,
g phi into the lumen and k_on are multiplied by the free fraction of where they take ligand from. As albumin, V and I count free
ligand, and each vascular space and tumour interstitium also holds its complex with albumin:

    d(complex)/dt = (k_on,alb/v) V (albumin - complex) - k_off,alb complex, and what the blood brings and takes
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

from tdt_core.errors import ModelError
from tdt_core.kinetics.anatomy import (
    ARTERIAL,
    SINK,
    TEMPLATES,
    VENOUS,
    Organ,
    Template,
    check_places,
    organ_of_row,
    outflow,
    rules_given,
    rules_of,
)
from tdt_core.kinetics.daughters import births, elements, scopes
from tdt_core.kinetics.ligands import laid_over, receptor_of
from tdt_core.kinetics.network import Network, checked_labels
from tdt_core.kinetics.rules import Array, Quantities, Rule, RuleTable, rule_of_row
from tdt_core.kinetics.structure import COMPLEX, TRAPPED, Daughters, Flow, PlasmaBinding, Release, Species, Structure, Turnover
from tdt_core.parameters import Parameter, ParameterTable, packaged_csv

COMMON = ("body", "blood", "ligand")

TABLES: Mapping[str, tuple[str, ...]] = {
    "psma_reference": ("pbrpk_psma_reference.csv",),
    "psma": ("pbrpk_psma_reference.csv", "pbrpk_psma.csv"),
    "sstr": ("pbrpk_psma_reference.csv", "pbrpk_psma.csv", "pbrpk_sstr.csv"),
}
"""Model -> its tables of quantities; a later one replaces rows of the earlier ones."""

LIGAND: Mapping[str, str] = {"sstr": "DOTATATE"}
"""Model -> the ligand that it starts with; the others' tables hold a PSMA ligand's rows themselves."""

VARIANTS: dict[str, tuple[str, Callable[[PBRPK], PBRPK]]] = {}
"""Model -> the one of TABLES that it is made from, and how; see `lumping`."""

OPTIONS: Mapping[str, Mapping[str, str]] = {
    "release": {"lost": "", "recycled": ""},
    "plasma_binding": {"none": "", "free_fraction": "pbrpk_plasma_binding.csv", "albumin": "pbrpk_albumin.csv"},
    "turnover": {"none": "", "explicit": "pbrpk_turnover.csv"},
    "daughters": {"none": "", "followed": "pbrpk_daughters.csv"},
}
"""Option -> its choices, and the table of rules that each of them adds."""


@dataclass(frozen=True)
class PBRPK:
    """A whole-body model: organs, the rules of their quantities, the fate of released ligand.

    Attributes
    ----------
    rules : rows of the model's tables, `[set].quantity` among them.
    release : internalised ligand that is let go is `lost` to the sink or `recycled` to the interstitium (kidney: lumen).
    plasma_binding : how ligand binds to proteins: not at all, as a `free_fraction` in plasma and interstitium (linear, in
        equilibrium), or explicitly to `albumin`.
    turnover : a receptor that goes inside with its ligand is replaced at once (`none`), or at a rate (`explicit`).
    daughters : they stay with their parent (`none`), or those of `pbrpk_daughters.csv` are `followed` on and off the ligand.
    targets : receptors that the ligand binds to.
    left_out : organs that the model is without; their rules stay where another organ's need them.
    ligand : the one of `pbrpk_ligands.csv` whose rows replace the model's, or none: see `with_ligand`.

    Raises
    ------
    ModelError on construction
        `model.organ` an unknown template, a doubled organ, an outflow that leads nowhere, no lungs or pools; `model.receptor`
        receptors without a ligand; and what `RuleTable` refuses.
    """

    name: str
    organs: tuple[Organ, ...]
    rules: tuple[Rule, ...]
    release: Release = "lost"
    targets: tuple[str, ...] = ("PSMA",)
    left_out: tuple[Organ, ...] = ()
    plasma_binding: PlasmaBinding = "none"
    ligand: str = ""
    turnover: Turnover = "none"
    daughters: Daughters = "none"

    def __post_init__(self) -> None:
        for option, choices in OPTIONS.items():
            if (chosen := getattr(self, option)) not in choices:
                raise ModelError(f"{option} is {chosen!r}", expected=f"one of {', '.join(choices)}", kind="model.option")
        names = [o.name for o in self.organs]
        for name in names:
            if names.count(name) > 1 or name in (SINK, *COMMON):
                raise ModelError(f"organ {name} is declared twice", remedy="give it another name", kind="model.organ")
        for needed, template in ((ARTERIAL, "pool"), (VENOUS, "pool"), ("lungs", "lungs")):
            if [o.name for o in self.organs if o.template == template and o.name == needed] != [needed]:
                raise ModelError(f"the model has no {needed}", expected="both pools and the lungs", kind="model.organ")
        check_places(self.organs, self.targets)
        self.quantities()  # the rules hold and the flows balance

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # once: models are keys of caches that are asked for every solve
        options = (self.targets, self.ligand, *(getattr(self, option) for option in OPTIONS))
        return hash((self.name, self.organs, self.rules, self.left_out, options))

    # quantities

    @cached_property
    def table(self) -> RuleTable:
        """Rules of all quantities of this model, organ by organ."""
        sets: dict[str, list[Rule]] = {}
        added = [_packaged_rules(choices[getattr(self, option)]) for option, choices in OPTIONS.items()]
        all_rules = (*laid_over(self.rules, self.ligand, self.name), *(rule for rules in added for rule in rules))
        for rule in all_rules:
            sets.setdefault(rule.scope, []).append(rule)
        members = [m for o in self.organs for m in o.members]
        known = {o.name for o in (*self.organs, *members, *self.left_out)}
        rules = [r for r in all_rules if not r.scope.startswith("[") and r.scope not in known]
        rules += [r for organ in self.left_out for r in rules_of(organ, sets) if not r.when]
        rules += [r for organ in members for r in rules_of(organ, sets)]
        for organ in self.organs:
            rules += rules_of(organ, sets)
            if organ.template != "pool":
                upstream = [o.name for o in self.organs if o.drains_to == organ.name]
                rules.append(outflow(organ.name, upstream))
        common = (*COMMON, *scopes()) if self.daughters == "followed" else COMMON
        groups: dict[str, list[str]] = {g: [] for t in TEMPLATES.values() for g in t.groups}
        for organ in [m for o in self.organs for m in o.members or (o,)]:
            for group in TEMPLATES[organ.template].groups:
                groups[group].append(organ.name)
        return RuleTable(rules, scopes=[o.name for o in self.organs], common=common, groups=groups)

    @property
    def parameters(self) -> ParameterTable:
        """The quantities that are given, not derived, with status, source and spread."""
        return self.table.parameters

    @property
    def regions(self) -> tuple[str, ...]:
        """Organs and pools in the order of the table, then the sink."""
        return (*(o.name for o in self.organs), SINK)

    @property
    def entry(self) -> tuple[str, str]:
        """Region and part that administrations enter."""
        return (VENOUS, "pool")

    def quantities(self, overrides: Mapping[str, Any] | None = None) -> Quantities:
        """Every quantity by full name, each () or (m,), where those in `overrides` are given.

        Raises
        ------
        ModelError
            What `RuleTable.evaluate` refuses, and `model.flow` where the flows into and out of a vascular space differ.
        """
        values = self.table.evaluate(overrides)
        self.structure.check_balance(values, [self.table.resolve(o) for o in overrides or {}])
        return values

    def prepared(self, fixed: Mapping[str, Any], varying: Iterable[str]) -> Callable[[Mapping[str, Any]], Quantities]:
        """`quantities` for many values of the same quantities beside the same fixed ones: see `RuleTable.prepared`."""
        names = list(varying)
        evaluate = self.table.prepared(fixed, names)
        given = [self.table.resolve(n) for n in (*fixed, *names)]

        def quantities(values: Mapping[str, Any]) -> Quantities:
            found = evaluate(values)
            self.structure.check_balance(found, given)
            return found

        return quantities

    def resolve(self, name: str) -> str:
        """Full name of a quantity from that, an alias, or a bare name that only one organ has."""
        return self.table.resolve(name)

    def coefficients(self, overrides: Mapping[str, Any] | None = None) -> Quantities:
        """Every coefficient of the networks by name, each () or (m,): what `Network.gather` takes."""
        return self.coefficients_of(self.quantities(overrides))

    def coefficients_of(self, values: Quantities) -> Quantities:
        """Coefficients from every quantity."""
        rates = {rate: values[a] / values[v] if v else values[a] for rate, a, v in self.structure.coefficients}
        return rates if self.daughters == "none" else {**rates, **births(values)}

    # structure

    @cached_property
    def structure(self) -> Structure:
        """Flows and binding sites of the organs, as names of quantities."""
        traps = tuple(o.name for o in self.organs if f"{o.name}.trapped_flow" in self.table)
        free = elements() if self.daughters == "followed" else ()
        return Structure(self.organs, self.release, self.plasma_binding, traps, self.turnover, free)

    @property
    def flows(self) -> tuple[Flow, ...]:
        """Everything first order, of any one label."""
        return self.structure.flows

    def network(self, labels: Sequence[str] = ("ligand",), occupying: Sequence[str] | None = None) -> Network:
        """States, transfers and receptor pools of one or several labels.

        Parameters
        ----------
        labels : ligand species that are counted apart (hot and cold; the vials of several days), with equal kinetics.
        occupying : those of them that take up receptors; all by default. Tracers of a solved total: `("total", "vial:1")` with
            `occupying=("total",)`, so that they bind to what the total leaves free.

        The same arguments give the same object.
        """
        key = checked_labels(labels, occupying)
        if key not in self._networks:
            self._networks[key] = self.structure.network([Species(label, occupies=label in key[1]) for label in key[0]])
        return self._networks[key]

    @cached_property
    def _networks(self) -> dict[tuple[tuple[str, ...], tuple[str, ...]], Network]:
        return {}

    # variants

    def with_options(
        self,
        *,
        release: Release | None = None,
        plasma_binding: PlasmaBinding | None = None,
        turnover: Turnover | None = None,
        daughters: Daughters | None = None,
    ) -> PBRPK:
        """The same model with other choices; None leaves an option."""
        chosen = {"release": release, "plasma_binding": plasma_binding, "turnover": turnover, "daughters": daughters}
        return replace(self, **{option: choice for option, choice in chosen.items() if choice})  # type: ignore[arg-type]

    def with_ligand(self, ligand: str) -> PBRPK:
        """The model with the rows of a ligand of `pbrpk_ligands.csv` in place of its own; what these leave out stays.

        Raises
        ------
        ModelError `model.ligand` for an unknown ligand, or one of another receptor than the model's.
        """
        receptor = receptor_of(ligand)
        if receptor not in self.targets:
            raise ModelError(
                f"{ligand} binds to {receptor}; the model {self.name} has receptors for {', '.join(self.targets)}",
                expected=f"a ligand of {', '.join(self.targets)}",
                remedy=_remedy_for(receptor),
                kind="model.ligand",
            )
        return replace(self, ligand=ligand)

    def with_organ(
        self,
        name: str,
        template: str,
        quantities: Mapping[str, float | str | Parameter],
        *,
        drains_to: str = VENOUS,
        receptor: str = "",
    ) -> PBRPK:
        """The model with one more organ. `quantities`: numbers, rules, or `Parameter`s with their own source."""
        rules = rules_given(name, template, quantities, self.rules)
        return self._with((Organ(name, template, drains_to, receptor, rules),))

    def with_lesions(self, lesions: Mapping[str, Mapping[str, float | str | Parameter]]) -> PBRPK:
        """The model with an organ `lesion/<id>` for each lesion; its flow, the lungs' and the receptors follow.

        Parameters
        ----------
        lesions : id -> quantities: `volume` (L) at least; what is left out follows by the rules of tumours.

        Raises
        ------
        ModelError `model.organ` for a lesion without a volume or of an id that is taken, `model.quantity` for one that tumours
        have not.
        """
        organs = []
        for identity, quantities in lesions.items():
            name = identity if identity.startswith("lesion/") else f"lesion/{identity}"
            if "volume" not in quantities:
                raise ModelError(
                    f"{name} has no volume", expected="volume in L", remedy="give its segmented volume", kind="model.organ"
                )
            rules = rules_given(name, "tumour", quantities, self.rules)
            organs.append(Organ(name, "tumour", VENOUS, self.targets[0], rules))
        return self._with(organs)

    def _with(self, organs: Sequence[Organ]) -> PBRPK:
        names = {o.name for o in organs}
        return replace(self, organs=(*organs, *self.organs), left_out=tuple(o for o in self.left_out if o.name not in names))

    def without(self, *organs: str) -> PBRPK:
        """The model without these organs; the rest of the body takes over their volume and flow."""
        unknown = [o for o in organs if o not in self.regions]
        if unknown:
            merged = {m.name: o.name for o in self.organs for m in o.members}
            raise ModelError(
                f"the model has no organ {', '.join(unknown)}",
                expected=f"one of {', '.join(self.regions)}",
                remedy="; ".join(
                    f"{merged[o]} holds {o}: leave it out before organs are merged" for o in unknown if o in merged
                ),
                kind="model.organ",
            )
        gone = tuple(o for o in self.organs if o.name in organs)
        return replace(self, organs=tuple(o for o in self.organs if o.name not in organs), left_out=(*self.left_out, *gone))


# --- rows ------------------------------------------------------------------------------------------------------------


def assemble(name: str, organ_rows: Iterable[Mapping[str, str]], tables: Iterable[Iterable[Mapping[str, str]]]) -> PBRPK:
    """A model from rows of the organ table and of its tables of quantities, of which a later one replaces the earlier ones'."""
    rules: dict[tuple[str, tuple[str, ...]], Rule] = {}
    for table in tables:
        layer: dict[tuple[str, tuple[str, ...]], Rule] = {}
        for rule in map(rule_of_row, table):
            key = (rule.name, rule.when)
            if key in layer:
                raise ModelError(f"{rule.name} is declared twice", remedy="keep one row of each name", kind="model.rule")
            layer[key] = rule
        rules |= layer
    rows = tuple(rules.values())
    organs = tuple(organ_of_row(r, rows) for r in organ_rows if name in r["models"].split())
    if name not in LIGAND:
        return PBRPK(name, organs, rows)
    return PBRPK(name, organs, rows, targets=(receptor_of(LIGAND[name]),), ligand=LIGAND[name])


def _remedy_for(receptor: str) -> str:
    """Which packaged models a ligand of this receptor goes with."""
    able = [name for name in TABLES if receptor in pbrpk(name).targets]
    return f"take the model {' or '.join(able)}, or another ligand" if able else "choose another model or another ligand"


@cache
def _packaged_rules(table: str) -> tuple[Rule, ...]:
    return tuple(rule_of_row(row) for row in packaged_csv(table)) if table else ()


@cache
def pbrpk(name: str) -> PBRPK:
    """A packaged model: one of `TABLES` or `VARIANTS`.

    Raises
    ------
    ModelError `model.name`.
    """
    if name in VARIANTS:
        whole, change = VARIANTS[name]
        return change(pbrpk(whole))
    if name not in TABLES:
        known = ", ".join((*TABLES, *VARIANTS))
        raise ModelError(
            f"no whole-body model named {name!r}", expected=f"one of {known}", remedy="correct the name", kind="model.name"
        )
    return assemble(name, packaged_csv("pbrpk_organs.csv"), [packaged_csv(table) for table in TABLES[name]])


__all__ = [
    "ARTERIAL",
    "COMMON",
    "COMPLEX",
    "LIGAND",
    "PBRPK",
    "SINK",
    "TABLES",
    "TEMPLATES",
    "TRAPPED",
    "VARIANTS",
    "VENOUS",
    "Array",
    "Organ",
    "Template",
    "assemble",
    "pbrpk",
]
