"""Organs of whole-body models: what kinds there are, and the rules that a row of `pbrpk_organs.csv` brings.

A template says which sub-compartments an organ has and which sets of rules it takes:

    vascular -- interstitial -- bound -- internalised       V, I, B, N; in the kidney I is the lumen, X the cells
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tdt_core.errors import ModelError
from tdt_core.kinetics.rules import Rule, number_text
from tdt_core.parameters import Parameter

ARTERIAL, VENOUS, SINK = "arterial_pool", "venous_pool", "excreted_or_lost"


@dataclass(frozen=True)
class Template:
    """What organs of one kind share.

    Attributes
    ----------
    parts : sub-compartments, from inner to outer: eliminated in this order the Jacobian hardly fills.
    sets : sets of rules (`[set].quantity` in the tables), of which a later one replaces an earlier one's.
    groups : groups that its organs belong to, for `sum(group.quantity)`.
    """

    parts: tuple[str, ...]
    sets: tuple[str, ...]
    groups: tuple[str, ...] = ()


_EXCHANGE = ("interstitial", "vascular")
_RECEPTOR = ("internalised", "bound", *_EXCHANGE)
_KIDNEY = ("internalised", "bound", "intracellular", *_EXCHANGE)
_NORMAL = ("normal", "systemic")

TEMPLATES: Mapping[str, Template] = {
    "exchange": Template(_EXCHANGE, ("vessels", "organ", "permeable", "exchange"), _NORMAL),
    "receptor": Template(_RECEPTOR, ("vessels", "organ", "permeable", "solid", "receptor"), _NORMAL),
    "tumour": Template(_RECEPTOR, ("vessels", "organ", "permeable", "solid", "receptor", "tumour"), ("tumours",)),
    "kidney": Template(_KIDNEY, ("vessels", "organ", "solid", "receptor", "kidney"), _NORMAL),
    "paired_kidney": Template(
        _KIDNEY, ("vessels", "organ", "solid", "receptor", "kidney", "paired_kidney"), (*_NORMAL, "kidneys")
    ),
    "gland": Template(_RECEPTOR, ("vessels", "organ", "permeable", "solid", "receptor", "gland"), _NORMAL),
    "rest": Template(_EXCHANGE, ("vessels", "organ", "permeable", "rest")),
    "lungs": Template(_EXCHANGE, ("vessels", "permeable", "exchange", "lungs"), ("normal",)),
    "pool": Template(("pool",), ("pool",)),
}


@dataclass(frozen=True)
class Organ:
    """One row of the organ table; `rules` are those that stand in the row itself.

    `members` are organs that it stands for (see `lumping`): they have no states, but their rules stay, and sums over groups
    run over them in its place.
    """

    name: str
    template: str
    drains_to: str = ""
    receptor: str = ""
    rules: tuple[Rule, ...] = ()
    members: tuple[Organ, ...] = ()

    def __post_init__(self) -> None:
        if self.template not in TEMPLATES:
            raise ModelError(
                f"organ {self.name} has the template {self.template!r}",
                expected=f"one of {', '.join(TEMPLATES)}",
                remedy=f"correct the row {self.name}",
                kind="model.organ",
            )
        if self.binds != bool(self.receptor):
            found = f"the receptor {self.receptor}" if self.receptor else "no receptor"
            raise ModelError(
                f"organ {self.name} of the template {self.template} has {found}",
                expected="a receptor in those of its organs that bind, and only there",
                remedy=f"correct the row {self.name}",
                kind="model.receptor",
            )

    @property
    def parts(self) -> tuple[str, ...]:
        """Sub-compartments, from inner to outer."""
        return TEMPLATES[self.template].parts

    @property
    def binds(self) -> bool:
        """Whether it has receptors."""
        return "bound" in self.parts


def check_places(organs: Sequence[Organ], targets: Sequence[str]) -> None:
    """Raise ModelError where an organ drains to nowhere, or has a receptor that is none of the ligand's `targets`."""
    spaces = {o.name for o in organs if o.template not in ("lungs", "pool")}
    for organ in organs:
        allowed = {"pool": {""}, "lungs": {ARTERIAL}}.get(organ.template, {VENOUS, *spaces} - {organ.name})
        if organ.drains_to not in allowed:
            raise ModelError(
                f"organ {organ.name} drains to {organ.drains_to or 'nothing'!r}",
                expected=f"one of {', '.join(sorted(allowed))}" if any(allowed) else "no outflow of a pool",
                remedy=f"correct drains_to of the row {organ.name}, or add that organ",
                kind="model.organ",
            )
        if organ.receptor and organ.receptor not in targets:
            raise ModelError(
                f"organ {organ.name} has the receptor {organ.receptor}, to which no ligand binds",
                expected=f"one of {', '.join(targets)}",
                remedy="name a ligand that binds to it, or give the organ the template exchange",
                kind="model.receptor",
            )


# --- rows ------------------------------------------------------------------------------------------------------------


def outflow(organ: str, upstream: Sequence[str]) -> Rule:
    """Rule of the serum flow (L/min) out of an organ: its arterial flow and the outflow of the organs that drain into it."""
    return Rule(
        f"{organ}.outflow",
        " + ".join(["flow", *(f"{u}.outflow" for u in upstream)]),
        "L/min",
        "literature",
        "conservation of serum: what flows in from arteries and from organs upstream",
    )


def rules_of(organ: Organ, sets: Mapping[str, Sequence[Rule]]) -> list[Rule]:
    """Rules of an organ: those of its template's sets, then of the tables, then of its own row; a later one replaces, an empty
    one withdraws."""
    rows: dict[tuple[str, tuple[str, ...]], Rule] = {}
    names = [f"[{s}]" for s in TEMPLATES[organ.template].sets]
    for rule in [r for n in (*names, organ.name) for r in sets.get(n, ())] + list(organ.rules):
        key = (rule.quantity, rule.when)
        rows.pop(key, None)
        if rule.rule.strip():
            rows[key] = replace(rule, name=f"{organ.name}.{rule.quantity}")
    return sorted(rows.values(), key=lambda r: len(r.when))


def rules_given(
    organ: str, template: str, quantities: Mapping[str, float | str | Parameter], rules: Sequence[Rule]
) -> tuple[Rule, ...]:
    """Rules of quantities that come with an organ; unit and bound are those of the same quantity of other organs."""
    sets = [f"[{s}]" for s in TEMPLATES[template].sets] if template in TEMPLATES else []
    like = {r.quantity: r for r in rules if not r.when}
    like |= {r.quantity: r for s in sets for r in rules if r.scope == s and not r.when}
    out = []
    for name, value in quantities.items():
        if name not in like:
            raise ModelError(
                f"{organ} is given the quantity {name!r}",
                expected=f"one of {', '.join(sorted(like))}",
                remedy="correct its name, or declare it in the model's table",
                kind="model.quantity",
            )
        row = replace(like[name], name=f"{organ}.{name}", also=(), distribution="fixed", sd=0.0)
        if isinstance(value, Parameter):
            if value.unit != row.unit:
                raise ModelError(f"{organ}.{name} is in {value.unit}", expected=row.unit, kind="model.unit")
            row = replace(row, status=value.status, source=value.source, distribution=value.distribution, sd=value.sd)
            value = value.value
        elif isinstance(value, str):
            row = replace(row, status="assumed", source="given with the organ")
        else:
            segmented = name == "volume"
            row = replace(row, status="measured" if segmented else "assumed", source="given with the organ")
        out.append(replace(row, rule=value if isinstance(value, str) else number_text(value, row.name)))
    return tuple(out)


def organ_of_row(row: Mapping[str, str], rules: Sequence[Rule]) -> Organ:
    """A row of `pbrpk_organs.csv`."""
    given: dict[str, float | str | Parameter] = {}
    for item in filter(None, (part.strip() for part in row["quantities"].split(";"))):
        name, _, rule = item.partition("=")
        given[name.strip()] = rule.strip()
    own = rules_given(row["organ"], row["template"], given, rules)
    if own:
        own = tuple(replace(r, status=row["status"], source=row["source"]) for r in own)  # type: ignore[arg-type]
    return Organ(row["organ"], row["template"], row["drains_to"], row["receptor"], own)
