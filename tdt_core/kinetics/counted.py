"""What a run counts apart: each ligand's total, each nuclide on it, and daughters on and off their ligand."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from tdt_core.kinetics.daughters import daughters_of, element_of, productions
from tdt_core.kinetics.network import Network, Production, Transfer
from tdt_core.kinetics.schedules import administered
from tdt_core.kinetics.structure import Species, Structure
from tdt_core.twin import Administration

TOTAL = "total"


@dataclass(frozen=True)
class Counted:
    """A species and what it counts.

    Attributes
    ----------
    nuclide : that decays; empty for a ligand's total.
    origin : administered nuclide in whose units it travels: itself, or the parent of a daughter.
    ligand : that carries it; empty for a free daughter.
    """

    species: Species
    nuclide: str = ""
    origin: str = ""
    ligand: str = ""

    @property
    def label(self) -> str:
        """Label of its states."""
        return self.species.label

    @property
    def is_daughter(self) -> bool:
        """Whether it was born in the body."""
        return self.nuclide != self.origin


def counted(given: Sequence[Administration], followed: bool) -> tuple[Counted, ...]:
    """Totals, then nuclides on each ligand, then daughters, on the ligand and free, where they are `followed`."""
    ligands = tuple(dict.fromkeys(a.ligand for a in given))
    several = len(ligands) > 1
    out = [Counted(Species(n if several else TOTAL, n if several else "", occupies=True), ligand=n) for n in ligands]
    carriers = []
    for ligand, nuclide in dict.fromkeys((a.ligand, a.nuclide) for a in given if a.nuclide):
        species = Species(f"{ligand}:{nuclide}", ligand) if several else Species(nuclide)
        carriers.append(Counted(species, nuclide, nuclide, ligand))
    out += carriers
    if not followed:
        return tuple(out)
    for c in carriers:
        out += [Counted(Species(f"{c.label}>{d}", c.species.ligand), d, c.nuclide, c.ligand) for d in daughters_of(c.nuclide)]
    for nuclide in administered(given):
        out += [Counted(Species(f"{nuclide}>{d} free", element=element_of(d)), d, nuclide) for d in daughters_of(nuclide)]
    return tuple(out)


def network_of(model: Hashable, entries: Sequence[Counted]) -> Network:
    """States and flows of everything that is counted, with decay and births."""
    structure = getattr(model, "structure", None)
    if isinstance(structure, Structure):
        base = structure.network([c.species for c in entries])
    else:
        base = model.network(tuple(c.label for c in entries), occupying=(TOTAL,))  # type: ignore[attr-defined]
    nuclide = {c.label: c.nuclide for c in entries if c.nuclide}
    decays = tuple(Transfer(s.name, None, f"decay/{nuclide[s.label]}") for s in base.states if s.label in nuclide)
    born: list[Production] = []
    if isinstance(structure, Structure):
        for on in (c for c in entries if c.is_daughter and c.ligand):
            carrier = next(c for c in entries if (c.nuclide, c.ligand) == (on.origin, on.ligand) and not c.is_daughter)
            free = next(c for c in entries if (c.nuclide, c.origin, c.ligand) == (on.nuclide, on.origin, ""))
            born += productions(structure, on.origin, on.nuclide, carrier.species, on.species, free.species)
    return Network(base.states, base.transfers + decays, base.pools, base.bindings, (*base.productions, *born))
