"""Daughters of alpha emitters: what leaves the ligand at a decay, and where it starts its own way.

A pair parent/daughter is a row `leaving` of `pbrpk_daughters.csv`. Of the daughters of a decay, the share 1 - leaving stays on
the ligand and moves with it; the rest is free. Born outside cells (blood, interstitium, lumen, on a receptor, on albumin) it
starts in that space; born inside (internalised, in tubular cells) the share `retained` stays there for good, the rest starts
outside. Nuclides between parent and daughter, and those after the daughter, are in equilibrium with what precedes them.

Daughters are counted in activity and not in atoms: y' = lambda_d b y_parent - lambda_d y, so that a daughter in equilibrium has
the size of its parent; atoms are y / lambda_d.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from tdt_core.kinetics.ladder import to_natural
from tdt_core.kinetics.network import Production
from tdt_core.kinetics.rules import Array, Quantities
from tdt_core.kinetics.schedules import decay_per_min
from tdt_core.kinetics.structure import COMPLEX, TISSUE_COMPLEX, TRAPPED, Species, Structure
from tdt_core.nuclides import decays_per_parent_decay, normalise_name
from tdt_core.parameters import Parameter, ParameterTable, packaged_csv

TABLE = "pbrpk_daughters.csv"
_OUTSIDE = {"bound": "interstitial", TISSUE_COMPLEX: "interstitial"}
"""Part where a free daughter starts, other than where it was born."""
_INSIDE = {"internalised": "internalised", "intracellular": "intracellular", TRAPPED: "intracellular"}
"""Part of a cell that keeps what was born in it."""

DRAWN = 18
"""Stream of random numbers, see `tdt_core.planning.forecast`."""


@cache
def scopes() -> tuple[str, ...]:
    """Pairs and elements of the table, as scopes that organs share."""
    named = (row["name"].rpartition(".")[0] for row in packaged_csv(TABLE))
    return tuple(dict.fromkeys(scope for scope in named if not scope.startswith("[")))


@cache
def _pairs() -> tuple[tuple[str, str], ...]:
    found = (row["name"].rpartition(".") for row in packaged_csv(TABLE))
    pairs = (scope.partition("/") for scope, _, quantity in found if quantity == "leaving")
    return tuple((parent, daughter) for parent, _, daughter in pairs)


def element_of(daughter: str) -> str:
    """Element of a nuclide."""
    return daughter.partition("-")[0]


@cache
def elements() -> tuple[str, ...]:
    """Elements whose free atoms are followed."""
    return tuple(dict.fromkeys(element_of(daughter) for _, daughter in _pairs()))


@cache
def daughters_of(parent: str) -> tuple[str, ...]:
    """Daughters of a nuclide that are followed."""
    return tuple(daughter for name, daughter in _pairs() if name == normalise_name(parent))


@cache
def stated() -> ParameterTable:
    """The numbers of the table, with what is known of their spread; no rules."""
    return ParameterTable(
        [
            Parameter(
                row["name"],
                float(row["rule"]),
                row["unit"],
                row["status"],  # type: ignore[arg-type]
                row["source"],
                row["distribution"] or "fixed",  # type: ignore[arg-type]
                float(row["sd"] or 0.0),
            )
            for row in packaged_csv(TABLE)
            if not row["name"].startswith("[")
        ]
    )


def drawn(count: int) -> dict[str, Array]:
    """(count,) values of each number of the table that has a spread; the first ones of more draws are the same."""
    table = ParameterTable([p for p in stated().values() if p.sd > 0])
    scores = np.random.default_rng(DRAWN).standard_normal((count, len(table)))
    middle, sd = (np.array(x) for x in zip(*((p.unconstrained, p.sd) for p in table.values()), strict=True))
    natural = to_natural(table, middle + sd * scores)
    return {name: np.minimum(natural[:, i], 1.0) for i, name in enumerate(table)}  # all are shares


def births(values: Quantities) -> Quantities:
    """Rates (1/min, see above) at which a parent's activity makes daughters, by `parent/daughter what`."""
    out: dict[str, Array] = {}
    for parent, daughter in _pairs():
        born = decay_per_min(daughter) * decays_per_parent_decay(parent)[daughter]
        leaving, retained = values[f"{parent}/{daughter}.leaving"], values[f"{element_of(daughter)}.retained"]
        out |= {
            f"{parent}/{daughter} on ligand": born * (1.0 - leaving),
            f"{parent}/{daughter} free": born * leaving,
            f"{parent}/{daughter} kept": born * leaving * retained,
            f"{parent}/{daughter} let out": born * leaving * (1.0 - retained),
        }
    return out


def productions(
    structure: Structure, parent: str, daughter: str, carrier: Species, on_ligand: Species, free: Species
) -> Sequence[Production]:
    """What the decay of a nuclide (species `carrier`) adds to its daughter on the ligand and off it, place by place."""
    pair = f"{normalise_name(parent)}/{daughter}"
    out = []
    for region, parts in structure.parts.items():
        outside = {**_OUTSIDE, COMPLEX: parts[-1]}  # vessels, or a pool of blood
        for part in parts:
            born = carrier.at((region, part))
            out.append(Production(born, on_ligand.at((region, part)), f"{pair} on ligand"))
            if part in _INSIDE:
                out.append(Production(born, free.at((region, _INSIDE[part])), f"{pair} kept"))
                out.append(Production(born, free.at((region, "interstitial")), f"{pair} let out"))
            else:
                out.append(Production(born, free.at((region, outside.get(part, part))), f"{pair} free"))
    return out
