"""Virtual patients of a whole-body model: what varies between people, as draws of its quantities.

`pbrpk_<model>_population.csv` is a table of rules like those of the models. Rows with a distribution are drawn, jointly normal
in the unconstrained space of each (natural, log or logit) with the correlations of the model's other table,
`pbrpk_<model>_population_correlations.csv`; the other rows follow from them or are shared by all. Rows of the scope
`population` are its own; the rest are given to the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt

from tdt_core.errors import InputError, ModelError
from tdt_core.kinetics.ladder import to_natural
from tdt_core.kinetics.pbrpk import COMMON, PBRPK, VARIANTS, pbrpk
from tdt_core.kinetics.rules import Rule, RuleTable, number_text, rule_of_row
from tdt_core.parameters import ParameterTable, packaged_csv
from tdt_core.twin import Administration

FloatArray = npt.NDArray[np.float64]

OWN = "population"
"""Scope of quantities that are not the model's."""

LIGANDS = {"psma": "PSMA-617", "sstr": "DOTATATE"}
"""Model that has a population -> the ligand that its patients are given."""

NUCLIDE = "Lu-177"
"""What they are given it with."""


@dataclass(frozen=True, eq=False)
class Population:
    """Distribution of a model's quantities between patients.

    Attributes
    ----------
    model : what the draws are for.
    rules : rows of the population's table.
    correlations : (one, other) -> correlation between two drawn quantities, in the space in which they are drawn.
    calibrated : quantity -> {"median" or "sd": row of the clinical levels that it was fitted to}.
    ligand : what the patients are given.

    Raises
    ------
    ModelError on construction
        `model.quantity` a correlation of something that is not drawn, or a row that the model does not have; `model.value`
        correlations that no joint distribution has; and what `RuleTable` refuses.
    """

    model: PBRPK
    rules: tuple[Rule, ...]
    correlations: Mapping[tuple[str, str], float]
    calibrated: Mapping[str, Mapping[str, str]]
    ligand: str

    def __post_init__(self) -> None:
        unknown = [n for n in self.table if not n.startswith(f"{OWN}.") and n not in self.model.table]
        if unknown:
            raise ModelError(
                f"the population draws {', '.join(unknown)}, which the model {self.model.name} does not have",
                expected="quantities of the model, or of the scope population",
                remedy="correct the names in the population's table",
                kind="model.quantity",
            )
        self._root  # noqa: B018 - the correlations hold

    @cached_property
    def table(self) -> RuleTable:
        """The rules, checked and in order."""
        common = (OWN, *COMMON)
        scopes = dict.fromkeys(r.scope for r in self.rules if r.scope not in common)
        return RuleTable(self.rules, scopes=tuple(scopes), common=common)

    @cached_property
    def drawn(self) -> ParameterTable:
        """Quantities that differ between patients, p of them: median (mean where normal), sd, status and source."""
        return ParameterTable([p for p in self.table.parameters.values() if p.distribution != "fixed"])

    @property
    def settings(self) -> ParameterTable:
        """Numbers that all patients share."""
        return ParameterTable([p for p in self.table.parameters.values() if p.distribution == "fixed"])

    @cached_property
    def _root(self) -> FloatArray:
        """(p, p) lower triangle L of the correlations L L^T."""
        at = {name: i for i, name in enumerate(self.drawn)}
        matrix = np.eye(len(at))
        for pair, value in self.correlations.items():
            missing = [n for n in pair if n not in at]
            if missing:
                raise ModelError(
                    f"a correlation of {' and '.join(pair)}", expected=f"{missing[0]} to be drawn", kind="model.quantity"
                )
            matrix[at[pair[0]], at[pair[1]]] = matrix[at[pair[1]], at[pair[0]]] = value
        try:
            return np.asarray(np.linalg.cholesky(matrix))
        except np.linalg.LinAlgError:
            raise ModelError(
                "the correlations contradict each other",
                expected="a positive definite matrix",
                remedy="lower them in the population's table of correlations",
                kind="model.value",
            ) from None

    def draw(self, m: int, seed: int = 0, model: PBRPK | None = None) -> dict[str, FloatArray]:
        """m patients as overrides of a model: quantity -> (m,), for `simulate_batch`.

        Parameters
        ----------
        seed : the same seed gives the same patients; patient k is the same whatever m is.
        model : a variant of the population's model, such as one without an organ; quantities that it lacks are left out.
        """
        if m < 1:
            raise InputError(f"{m} virtual patients", expected="at least one", kind="input.population")
        z = np.random.default_rng(seed).standard_normal((m, len(self.drawn))) @ self._root.T
        return self.overrides(z, model)

    def typical(self, model: PBRPK | None = None, given: Mapping[str, float] | None = None) -> dict[str, float]:
        """The patient with every median, as overrides of a model: for `simulate`.

        Parameters
        ----------
        given : what is known of the patient, by quantity of the model; left out of the result. Where the population has a row
            of it, the population's rules follow it; else what follows from it by the model's rules is left out too.
        """
        table = (model or self.model).table
        known = {table.resolve(n): v for n, v in (given or {}).items()}
        own = {n: v for n, v in known.items() if n in self.table}
        values = self.overrides(np.zeros((1, len(self.drawn))), model, own)
        follows = table.followers([n for n in known if n not in own])
        return {n: float(v[0]) for n, v in values.items() if n not in known and n not in follows}

    def overrides(self, z: FloatArray, model: PBRPK | None, own: Mapping[str, float] | None = None) -> dict[str, FloatArray]:
        """(m, p) deviations in sds -> quantity -> (m,), where rows of the table that are `own` have that value."""
        middle = np.array([p.unconstrained for p in self.drawn.values()])
        sd = np.array([p.sd for p in self.drawn.values()])
        natural = to_natural(self.drawn, middle + sd * z)
        values = self.table.evaluate({name: natural[:, i] for i, name in enumerate(self.drawn)} | dict(own or {}))
        known = (model or self.model).table
        given = {n: v for n, v in values.items() if not n.startswith(f"{OWN}.") and n in known}
        return {n: np.array(np.broadcast_to(v, len(z)), dtype=float) for n, v in given.items()}

    def administration(self, activity_mbq: float | None = None, amount_nmol: float | None = None) -> Administration:
        """The population's usual cycle; the ligand amount follows from the specific activity where it is not given."""
        shared = self.settings
        activity = shared.value(f"{OWN}.activity") if activity_mbq is None else activity_mbq
        amount = activity / shared.value(f"{OWN}.specific_activity") if amount_nmol is None else amount_nmol
        return Administration(0.0, "population", self.ligand, NUCLIDE, activity, amount_nmol=amount)

    def changed(self, medians: Mapping[str, float], sds: Mapping[str, float] | None = None) -> Population:
        """The population with other medians and sds, and the same rules besides."""
        rows = {r.name: r for r in self.rules}
        for name in (n for n in (*medians, *(sds or {})) if n not in rows):
            raise ModelError(f"the population has no row {name}", expected="a row of its table", kind="model.quantity")
        for name, value in medians.items():
            rows[name] = replace(rows[name], rule=number_text(value, name))
        for name, value in (sds or {}).items():
            rows[name] = replace(rows[name], sd=value)
        return replace(self, rules=tuple(rows.values()))


def _calibrated(rows: Iterable[Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """The column `calibrated_to`: `median=row; sd=row`."""
    out: dict[str, dict[str, str]] = {}
    for row in rows:
        for item in filter(None, (part.strip() for part in (row["calibrated_to"] or "").split(";"))):
            what, _, level = item.partition("=")
            out.setdefault(row["name"], {})[what.strip()] = level.strip()
    return out


@cache
def population(name: str = "psma") -> Population:
    """The packaged population of a model, with the model as it was calibrated: plasma binding on, released ligand lost.

    A variant that keeps the plasma binding, such as one of merged organs, has the population of its whole body.

    Raises
    ------
    ModelError `model.name`.
    """
    if name in VARIANTS and VARIANTS[name][0] in LIGANDS:
        whole, change = VARIANTS[name]
        people = population(whole)
        if (model := change(people.model)).plasma_binding == people.model.plasma_binding:
            return replace(people, model=model)
    if name not in LIGANDS:
        raise ModelError(f"no population of {name!r}", expected=f"one of {', '.join(LIGANDS)}", kind="model.name")
    rows = packaged_csv(f"pbrpk_{name}_population.csv")
    pairs = packaged_csv(f"pbrpk_{name}_population_correlations.csv")
    return Population(
        pbrpk(name).with_options(plasma_binding="free_fraction"),
        tuple(rule_of_row(row) for row in rows),
        {(pair["one"], pair["other"]): float(pair["correlation"]) for pair in pairs},
        _calibrated(rows),
        LIGANDS[name],
    )


def has_population(name: str) -> bool:
    """Whether a model has virtual patients of its own or of its whole body."""
    try:
        population(name)
    except ModelError:
        return False
    return True


__all__ = ["LIGANDS", "OWN", "Population", "has_population", "population"]
