"""Several ligands of one receptor in one body: shared physiology and receptors, and each ligand's own rates.

Every ligand is the model with that ligand's rows of `pbrpk_ligands.csv`; what has no row, or a ligand that has none at all, is
as in the model. Parameters go to all ligands, or to one where the name has it in front:

    kidneys.R_density, ligand.lambda_int        of all
    PSMA-11/ligand.K_D                          of PSMA-11 alone, before one that is given for all
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from tdt_core.errors import ModelError
from tdt_core.kinetics.ligands import ligands as known_ligands
from tdt_core.kinetics.network import Network
from tdt_core.kinetics.pbrpk import PBRPK
from tdt_core.kinetics.rules import Quantities
from tdt_core.kinetics.structure import Species, Structure


@dataclass(frozen=True)
class Together:
    """A whole-body model with several ligands at once.

    Raises
    ------
    ModelError `model.ligand` where a ligand binds to another receptor than the model's.
    """

    base: PBRPK
    ligands: tuple[str, ...]

    def __post_init__(self) -> None:
        self.members  # noqa: B018 - every ligand has a model

    @cached_property
    def members(self) -> Mapping[str, PBRPK]:
        """Ligand -> the model with its rows."""
        return {n: self.base.with_ligand(n) if n in known_ligands() else self.base for n in self.ligands}

    @property
    def structure(self) -> Structure:
        """Flows and sites, which all ligands share."""
        return self.base.structure

    @property
    def regions(self) -> tuple[str, ...]:
        """As of the model."""
        return self.base.regions

    @property
    def entry(self) -> tuple[str, str]:
        """As of the model."""
        return self.base.entry

    def network(self, labels: Sequence[str] = (), occupying: Sequence[str] | None = None) -> Network:
        """The total of each ligand; of these alone there is a network by label, see `Structure.network` for more."""
        if wrong := [n for n in (*labels, *(occupying or ())) if n not in self.ligands]:
            raise ModelError(f"a label {wrong[0]}", expected=f"one of {', '.join(self.ligands)}", kind="model.label")
        return self.structure.network([Species(n, n, occupies=True) for n in labels or self.ligands])

    def _split(self, name: str) -> tuple[str, str]:
        """Ligand that a parameter is given for, empty for all, and the parameter."""
        ligand, slash, rest = name.partition("/")
        if slash and ligand in self.ligands:
            return ligand, rest
        if slash and ligand in known_ligands():
            raise ModelError(
                f"{name} is of a ligand that the schedule does not give",
                expected=f"one of {', '.join(self.ligands)}",
                remedy="correct the ligand, or leave the parameter out",
                kind="model.quantity",
            )
        return "", name

    def _values(self, overrides: Mapping[str, Any] | None) -> Mapping[str, Quantities]:
        """Ligand -> every quantity."""
        given = [(*self._split(name), value) for name, value in (overrides or {}).items()]
        out = {}
        for ligand, model in self.members.items():
            shared = {model.resolve(name): value for owner, name, value in given if not owner}
            own = {model.resolve(name): value for owner, name, value in given if owner == ligand}
            out[ligand] = model.quantities({**shared, **own})
        first, *others = self.ligands
        for ligand in others:
            for name in self._one_body:
                a, b = out[first][name], out[ligand][name]
                if not np.all(a == b):
                    raise ModelError(
                        f"{name} is {np.ravel(np.real(a))[0]:g} for {first} and {np.ravel(np.real(b))[0]:g} for {ligand}",
                        expected="one value: receptors, volumes and blood flow belong to the patient",
                        remedy="give it without a ligand's name",
                        kind="model.value",
                    )
        return out

    @cached_property
    def _one_body(self) -> tuple[str, ...]:
        """Quantities that cannot differ between ligands."""
        flows, sites = self.structure.flows, self.structure.sites
        names = [f.volume for f in flows] + [f.amount for f in flows if f.blood] + [s.capacity for s in sites]
        if self.structure.turnover == "explicit":
            names += [f"{s.name}.k_turnover" for s in sites if s.into == "bound"]
        return tuple(dict.fromkeys(filter(None, names)))

    def quantities(self, overrides: Mapping[str, Any] | None = None) -> Quantities:
        """Every quantity as `ligand/name`, and as `name` where all ligands have the same value."""
        values = self._values(overrides)
        out = {f"{ligand}/{name}": v for ligand, own in values.items() for name, v in own.items()}
        first, *others = values.values()
        return out | {n: v for n, v in first.items() if all(np.all(v == own[n]) for own in others)}

    def resolve(self, name: str) -> str:
        """Full name of a quantity, with the ligand where one is given."""
        ligand, rest = self._split(name)
        return f"{ligand}/{self.members[ligand].resolve(rest)}" if ligand else self.base.resolve(rest)

    def coefficients(self, overrides: Mapping[str, Any] | None = None) -> Quantities:
        """Coefficients by name with the ligand in front; those of sites, receptors and free daughters without one."""
        out: dict[str, Any] = {}
        for ligand, values in self._values(overrides).items():
            rates = self.members[ligand].coefficients_of(values)
            out |= rates if not out else {}
            out |= {f"{ligand}/{name}": value for name, value in rates.items()}
        return out


@lru_cache(maxsize=32)
def together(model: PBRPK, ligands: tuple[str, ...]) -> Together:
    """The model with these ligands; equal arguments give the same object."""
    return Together(model, ligands)
