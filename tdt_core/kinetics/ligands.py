"""Ligands by `tdt_core/data/pbrpk_ligands.csv`: receptor, family, molar mass, and rules that whole-body models take."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from tdt_core.errors import InputError, ModelError
from tdt_core.kinetics.rules import Rule, rule_of_row
from tdt_core.parameters import packaged_csv

NEEDED = ("receptor", "family")
"""Rows that every ligand has; their `rule` is a name."""
MOLAR_MASS = "molar_mass"
PEPTIDE_RECEPTORS = ("PSMA", "SSTR2")
"""Receptors whose ligands are small enough to reach all of the marrow's fluid."""


@cache
def _ligands() -> dict[str, dict[str, Mapping[str, str]]]:
    """Ligand -> quantity -> row."""
    out: dict[str, dict[str, Mapping[str, str]]] = {}
    for row in packaged_csv("pbrpk_ligands.csv"):
        rows = out.setdefault(row["ligand"], {})
        if row["quantity"] in rows:
            raise ModelError(f"{row['quantity']} of {row['ligand']} is declared twice", kind="model.rule")
        rows[row["quantity"]] = row
    for ligand, rows in out.items():
        if missing := [n for n in NEEDED if n not in rows]:
            raise ModelError(
                f"the ligand {ligand} has no {' and no '.join(missing)}",
                expected="a row of each",
                remedy="add it to pbrpk_ligands.csv",
                kind="model.ligand",
            )
    return out


def ligands() -> tuple[str, ...]:
    """All ligands that have parameters."""
    return tuple(_ligands())


def _rows(ligand: str) -> Mapping[str, Mapping[str, str]]:
    known = _ligands()
    if ligand not in known:
        lower = {n.lower(): n for n in known}
        close = [lower[n] for n in difflib.get_close_matches(ligand.lower(), lower, n=3)]
        raise ModelError(
            f"no kinetic parameters for ligand {ligand!r}",
            expected=f"one of {', '.join(sorted(known))}" + (f"; near it {', '.join(close)}" if close else ""),
            remedy="name the ligand in the administration record as listed, or add its parameters",
            kind="model.ligand",
        )
    return known[ligand]


def family(ligand: str) -> str:
    """Family of a ligand, whose parameters the simpler rungs use. Raises ModelError for one that has no parameters.

    A ligand other than the family's own borrows its parameters: an assumption that outputs show.
    """
    return _rows(ligand)["family"]["rule"]


def receptor_of(ligand: str) -> str:
    """Receptor that a ligand binds to. Raises as `family`."""
    return _rows(ligand)["receptor"]["rule"]


def is_peptide(ligand: str) -> bool:
    """Whether a ligand is a small one of PSMA or SSTR, as its table says; a ligand that is in no table is not known to be."""
    return ligand in _ligands() and receptor_of(ligand) in PEPTIDE_RECEPTORS


def ligand_rules(ligand: str) -> tuple[Rule, ...]:
    """What a whole-body model takes from a ligand. Raises as `family`."""
    rows = _rows(ligand)
    return tuple(rule_of_row({"name": q, **row}) for q, row in rows.items() if q not in (*NEEDED, MOLAR_MASS))


def laid_over(rules: tuple[Rule, ...], ligand: str, model: str) -> tuple[Rule, ...]:
    """A model's rules, of which a ligand's replace those of the same name; bound and other names stay. No ligand: unchanged."""
    if not ligand:
        return rules
    rows = {(r.name, r.when): r for r in rules}
    for rule in ligand_rules(ligand):
        if (rule.name, ()) not in rows:
            raise ModelError(
                f"the ligand {ligand} has a row of {rule.name}, which the model {model} does not have",
                expected="quantities of the model",
                remedy="correct that row of pbrpk_ligands.csv, or declare the quantity in the model's table",
                kind="model.quantity",
            )
        own = rows[rule.name, ()]
        rows[rule.name, ()] = replace(rule, bound=own.bound, also=own.also)
    return tuple(rows.values())


def has_own_parameters(ligand: str) -> bool:
    """Whether a number of the ligand's is from the literature, not borrowed or assumed. Raises as `family`."""
    return any(
        row["status"] != "assumed" and row["quantity"] in ("ligand.k_on", "ligand.K_D") for row in _rows(ligand).values()
    )


def nmol_of_ug(ligand: str, mass_ug: float) -> float:
    """Amount (nmol) of a mass (ug) of ligand, by its molar mass without metal.

    Raises
    ------
    ModelError `model.ligand` for a ligand without a molar mass; InputError `input.amount` for a mass that is none.
    """
    rows = _rows(ligand)
    if MOLAR_MASS not in rows:
        known = [n for n, r in _ligands().items() if MOLAR_MASS in r]
        raise ModelError(
            f"the molar mass of {ligand} is not in the tables",
            expected=f"one of {', '.join(known)}",
            remedy="give the amount in nmol, or add a row molar_mass to pbrpk_ligands.csv",
            kind="model.ligand",
        )
    if not (math.isfinite(mass_ug) and mass_ug >= 0):
        raise InputError(f"a ligand mass of {mass_ug} ug", expected="a finite value of 0 or more", kind="input.amount")
    return 1000.0 * mass_ug / float(rows[MOLAR_MASS]["rule"])
