"""Decay chains: how many decays of each progeny follow one decay of the parent.

Branching of the chains used in therapy and imaging stands in `data/decay_chains.csv`; any other nuclide is looked up in
`radioactivedecay` (ICRP 107), which is imported only then because its import takes seconds.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Literal, get_args

from tdt_core.errors import ModelError
from tdt_core.nuclides.icrp107 import half_life_h, is_listed, normalise_name, record
from tdt_core.parameters import packaged_csv

Progeny = Literal["equilibrium", "none", "all"]


@cache
def _packaged_branches() -> dict[str, tuple[tuple[str, float], ...]]:
    found: dict[str, list[tuple[str, float]]] = {}
    for row in packaged_csv("decay_chains.csv"):
        branches = found.setdefault(row["parent"], [])
        if row["progeny"] != "stable":
            branches.append((row["progeny"], float(row["branching"])))
    return {parent: tuple(branches) for parent, branches in found.items()}


def branches(name: str) -> tuple[tuple[str, float], ...]:
    """Radioactive progeny of one decay and their branching fractions; stable progeny are left out."""
    canonical = normalise_name(name)
    packaged = _packaged_branches()
    if canonical in packaged:
        return packaged[canonical]
    record(canonical)  # an unknown name gets this project's error
    return branches_from_radioactivedecay(canonical)


def branches_from_radioactivedecay(canonical: str) -> tuple[tuple[str, float], ...]:
    """As `branches`, from the package `radioactivedecay`."""
    import radioactivedecay

    nuclide = radioactivedecay.Nuclide(canonical)
    pairs = zip(nuclide.progeny(), nuclide.branching_fractions(), strict=True)
    return tuple((child, float(p)) for child, p in pairs if child != "SF" and _is_radioactive(child))


def _is_radioactive(name: str) -> bool:
    import radioactivedecay

    return radioactivedecay.Nuclide(name).half_life() != float("inf")


def decays_per_parent_decay(name: str, progeny: Progeny = "equilibrium") -> dict[str, float]:
    """Decays of the nuclide and of each progeny per decay of the parent, all at the parent's site.

    A progeny that lives longer than the head of the chain never comes into equilibrium with it: the chain is cut there
    (Tc-99 after Tc-99m, Bi-207 after At-211). With "all" nothing is cut: what follows a daughter whose long-lived parent feeds
    it, such as Pb-209 after the Bi-213 of Ac-225. The counts are total decays, so they hold for time-integrated activity.
    """
    if progeny not in get_args(Progeny):
        raise ModelError(f"progeny={progeny!r}", expected=f"one of {get_args(Progeny)}", kind="model.name")
    head = normalise_name(name)
    limit_h = half_life_h(head) if progeny == "equilibrium" else math.inf
    counts: dict[str, float] = {head: 1.0}
    pending = [(head, 1.0)] if progeny != "none" else []
    while pending:
        parent, decays = pending.pop(0)
        for child, fraction in branches(parent):
            if not is_listed(child) or half_life_h(child) >= limit_h:
                continue
            counts[child] = counts.get(child, 0.0) + decays * fraction
            pending.append((child, decays * fraction))
    return counts
