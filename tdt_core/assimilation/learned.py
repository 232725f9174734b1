"""A population prior that a site learned from its closed patients: what it holds, and a rung whose parameters come from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from importlib import resources
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from tdt_core.assimilation.hierarchy import (
    Factor,
    Gate,
    Hyper,
    Strength,
    cross_validated,
    extended,
    learn,
    packaged,
    seen_keys,
    shares_of,
)
from tdt_core.assimilation.problem import Prior
from tdt_core.assimilation.process_noise import Chain, noise_of_cohort
from tdt_core.assimilation.relations import common_share, group_of, keys_of
from tdt_core.codec import digest
from tdt_core.errors import EstimationError
from tdt_core.kinetics import KineticModel, Sampled, to_natural
from tdt_core.kinetics.ladder import Separable
from tdt_core.kinetics.ligands import family
from tdt_core.kinetics.progeny import FollowsDaughters, Shift
from tdt_core.parameters import ParameterTable, packaged_csv, packaged_table
from tdt_core.twin import Administration, JsonDict, Region

FloatArray = npt.NDArray[np.float64]

TABLE = "population_learning.csv"
DIGITS = 10
"""Significant digits that are kept, so that a version does not hang on the last bit of a sum."""


@dataclass(frozen=True, eq=False)
class LearnedPrior:
    """A learned population prior of one rung and ligand family. `version` is the SHA-256 of `plain()`.

    Attributes
    ----------
    parent : version that stood when this one was learned; None for the packaged prior.
    states : ids of the states that it was learned from, sorted. patients : their number.
    hyper : the population in packaged sds (`hierarchy`), of what was learned. sd : key -> packaged sd, in unconstrained space.
    base : digest of the packaged numbers that it is counted from. gate : the verdict on held-out patients.
    noise : group -> factor on the packaged variance of the drift, where it was learned. noise_reason : why, or why not.
    """

    model: str
    ligand: str
    parent: str | None
    states: tuple[str, ...]
    patients: int
    hyper: Hyper
    sd: Mapping[str, float]
    base: str
    strength: Strength
    gate: Gate
    noise: Mapping[str, float]
    noise_reason: str = ""

    def plain(self) -> JsonDict:
        """Plain JSON, without its version."""
        return {
            "model": self.model,
            "ligand": self.ligand,
            "parent": self.parent,
            "states": list(self.states),
            "patients": self.patients,
            "keys": list(self.hyper.keys),
            "shift": _rounded(self.hyper.shift),
            "common": _rounded(self.hyper.common[np.tril_indices(len(self.hyper.keys))]),
            "own": _rounded(self.hyper.own),
            "sd": dict(self.sd),
            "base": self.base,
            "strength": asdict(self.strength),
            "gate": asdict(self.gate),
            "noise": {k: float(f"{x:.{DIGITS}g}") for k, x in sorted(self.noise.items())},
            "noise_reason": self.noise_reason,
        }

    @cached_property
    def version(self) -> str:
        """SHA-256 over all that it holds."""
        return digest(self.plain())

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> LearnedPrior:
        """The prior of `plain()`. Raises EstimationError for what is none."""
        try:
            n = len(plain["keys"])
            common = np.zeros((n, n))
            common[np.tril_indices(n)] = plain["common"]
            common = common + np.tril(common, -1).T
            hyper = Hyper(tuple(plain["keys"]), np.array(plain["shift"]), common, np.array(plain["own"]))
            told = {k: plain[k] for k in ("model", "ligand", "parent", "patients", "sd", "base", "noise", "noise_reason")}
            return cls(
                states=tuple(plain["states"]),
                hyper=hyper,
                strength=Strength(**plain["strength"]),
                gate=Gate(**plain["gate"]),
                **told,
            )
        except (KeyError, TypeError, ValueError) as e:
            raise EstimationError(
                f"no learned prior: {e}", expected="what `plain` of a learned prior gives", kind="estimation.learned"
            ) from e


def _rounded(values: FloatArray) -> list[float]:
    return [float(f"{x:.{DIGITS}g}") for x in values.tolist()]


@dataclass(frozen=True, eq=False)
class Taught:
    """What one closed patient teaches: its factor, the rung it was fitted with (packaged parameters), and its state."""

    factor: Factor
    rung: KineticModel
    state: str


def learn_population(
    cohort: Sequence[Taught],
    *,
    standing: LearnedPrior | None = None,
    trusted: Sequence[Taught] = (),
    chains: Sequence[Chain] = (),
) -> LearnedPrior:
    """The prior that closed patients teach, with the verdict of the held-out ones.

    Parameters
    ----------
    cohort : one entry per patient, all of one rung and ligand family; in any order.
    standing : the learned prior in use, which the new one must not predict worse than. Patients whom it knows are predicted
        by what it learns without them, where all of its states are here; else by itself, which is in its favour.
    trusted : patients that nothing is learned from, and that must not be predicted worse either.
    chains : their courses, for the drift.

    Raises
    ------
    EstimationError : fewer patients than `patients.least`, a patient twice, or several rungs or ligands.
    """
    table = packaged_table(TABLE)
    least = int(table.value("patients.least"))
    names = [t.factor.patient for t in (*cohort, *trusted)]
    if len(cohort) < least:
        raise EstimationError(
            f"{len(cohort)} closed patients",
            expected=f"at least {least} (assumed, {TABLE}), so that a spread can be learned and no patient be told from it",
            remedy="wait for more closed patients; the prior in use stays",
            kind="estimation.cohort",
        )
    if len(set(names)) != len(names):
        raise EstimationError("a patient twice in the cohort", expected="one state of each", kind="estimation.cohort")
    scopes = {(t.rung.name, family(t.rung.ligand)) for t in (*cohort, *trusted)}
    if len(scopes) != 1:
        raise EstimationError(
            f"patients of {len(scopes)} rungs or ligands: {', '.join(sorted(f'{m} of {x}' for m, x in scopes))}",
            expected="one rung and one ligand family",
            kind="estimation.cohort",
        )
    ((model, ligand),) = scopes
    rungs = [t.rung for t in (*cohort, *trusted)]
    shares = shares_of(rungs)
    start = packaged(tuple(shares), tuple(shares.values()))
    strength = Strength(table.value("strength.mean"), table.value("strength.spread"))
    factors = [t.factor for t in cohort]

    def seen(some: Sequence[Factor]) -> tuple[str, ...]:
        return seen_keys(some, start, table.value("seen.reduction"), table.value("seen.share"))

    keys = seen(factors)
    gate = cross_validated(
        factors,
        start,
        strength,
        int(table.value("patients.folds")),
        None if standing is None else _standing_without(standing, (*cohort, *trusted), start, seen),
        [t.factor for t in trusted],
        table.value("gate.beyond"),
        seen,
    )
    noise, noise_reason = noise_of_cohort(chains, table.value("strength.noise"), int(table.value("patients.folds")))
    return LearnedPrior(
        model=model,
        ligand=ligand,
        parent=None if standing is None else standing.version,
        states=tuple(sorted(t.state for t in cohort)),
        patients=len(cohort),
        hyper=_of_keys(learn(factors, start, strength, keys), keys),
        sd={k: sd for k, sd in _sds(rungs).items() if k in set(keys)},
        base=packaged_base(),
        strength=strength,
        gate=gate,
        noise=noise,
        noise_reason=noise_reason,
    )


def _standing_without(
    standing: LearnedPrior, known: Sequence[Taught], start: Hyper, seen: Callable[[Sequence[Factor]], tuple[str, ...]]
) -> Callable[[Sequence[Factor]], Hyper]:
    """Held-out patients -> the prior in use, learned without them.

    As it is where some of its patients are not among the known: what it learned without the held-out ones cannot be told then.
    """
    factors = {t.state: t.factor for t in known}
    whole = extended(standing.hyper, start.keys, (np.diag(start.common) / start.variance).tolist())

    def without(held: Sequence[Factor]) -> Hyper:
        names = {f.patient for f in held}
        taught = [factors[s] for s in standing.states if s in factors]
        left = [f for f in taught if f.patient not in names]
        if len(taught) != standing.patients or len(left) == len(taught):
            return whole
        return learn(left, start, standing.strength, seen(left)) if left else start

    return without


def _of_keys(hyper: Hyper, keys: Sequence[str]) -> Hyper:
    at = [hyper.keys.index(k) for k in keys]
    return Hyper(tuple(keys), hyper.shift[at], hyper.common[np.ix_(at, at)], hyper.own[at])


def _sds(rungs: Sequence[KineticModel]) -> dict[str, float]:
    found = {k: p.sd for rung in rungs for k, p in zip(keys_of(rung), rung.parameters.values(), strict=True)}
    return dict(sorted(found.items()))


class LearnedRung:
    """A rung whose population is a learned one; all else is the rung's own."""

    def __init__(self, inner: KineticModel, learned: LearnedPrior) -> None:
        self.inner, self.learned = inner, learned
        self._keys = keys_of(inner)

    def __reduce__(self) -> tuple[Any, ...]:
        return with_learned, (self.inner, (self.learned,))  # its class is made when asked for

    @cached_property
    def population(self) -> Prior:
        """The prior of a patient that nothing is measured of, over this rung's parameters."""
        table = list(self.inner.parameters.values())
        sd = np.array([p.sd for p in table])
        whole = extended(self.learned.hyper, self._keys, common_share(self.inner).tolist())
        shift, covariance = whole.moments(self._keys)
        median = np.array([p.unconstrained for p in table])
        origin = f"population {self.learned.version}"
        return Prior(tuple(self.inner.parameters), median + sd * shift, sd[:, None] * covariance * sd, origin)

    @cached_property
    def parameters(self) -> ParameterTable:
        """The rung's parameters with learned medians and spreads, calibrated by this version."""
        prior = self.population
        natural, spread = to_natural(self.inner.parameters, prior.mean), np.sqrt(np.diag(prior.covariance))
        known = set(self.learned.hyper.keys)
        source = f"population prior {self.learned.version[:12]}, learned from {self.learned.patients} patients"
        found = []
        for i, (key, p) in enumerate(zip(self._keys, self.inner.parameters.values(), strict=True)):
            if key in known:
                value = float(natural[i])
                p = replace(p, value=value, sd=float(spread[i]), status="calibrated", source=f"{source}; packaged: {p.source}")
            found.append(p)
        return ParameterTable(found)

    @cached_property
    def noise(self) -> FloatArray:
        """(n,) factor on the packaged variance of each parameter's drift."""
        return np.array([self.learned.noise.get(group_of(k), 1.0) for k in self._keys])

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def ligand(self) -> str:
        return self.inner.ligand

    @property
    def regions(self) -> tuple[Region, ...]:
        return self.inner.regions

    @property
    def background(self) -> ParameterTable:
        return self.inner.background

    def activity(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        return self.inner.activity(theta, administration, times_h)

    def time_integrated_activity(self, theta: FloatArray, administration: Administration) -> FloatArray:
        return self.inner.time_integrated_activity(theta, administration)

    def log_jacobian(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        return self.inner.log_jacobian(theta, administration, times_h)


class _Samples:
    """What a rung with samples has beyond."""

    inner: KineticModel

    @property
    def compartments(self) -> tuple[str, ...]:
        return cast(Sampled, self.inner).compartments

    def compartment_activity(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        return cast(Sampled, self.inner).compartment_activity(theta, administration, times_h)

    def compartment_log_jacobian(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        return cast(Sampled, self.inner).compartment_log_jacobian(theta, administration, times_h)


class _Daughters:
    """What a rung that follows daughters has beyond."""

    inner: KineticModel

    def daughter_shifts(
        self, theta: FloatArray, administration: Administration, times_h: FloatArray, quantities: Mapping[str, Any]
    ) -> tuple[Shift, ...]:
        return cast(FollowsDaughters, self.inner).daughter_shifts(theta, administration, times_h, quantities)


class _Curves:
    """What a rung with regions of their own curves has beyond."""

    inner: KineticModel

    @property
    def separable(self) -> tuple[Region, ...]:
        return cast(Separable, self.inner).separable

    def of_regions(self, regions: Sequence[Region]) -> KineticModel:
        return cast(Separable, self.inner).of_regions(regions)


_BEYOND: Mapping[type, type] = {Sampled: _Samples, FollowsDaughters: _Daughters, Separable: _Curves}
"""Protocol that some rungs meet -> what a learned rung then has."""


@cache
def _kind(beyond: tuple[type, ...]) -> type[LearnedRung]:
    return type("LearnedRung", (*beyond, LearnedRung), {})


def with_learned(rung: KineticModel, priors: Sequence[LearnedPrior]) -> KineticModel:
    """The rung with the learned prior that is meant for it, or the rung itself where there is none."""
    own = [p for p in priors if (p.model, p.ligand) == (rung.name, family(rung.ligand))]
    if not own or isinstance(rung, LearnedRung):
        return rung
    return _kind(tuple(more for protocol, more in _BEYOND.items() if isinstance(rung, protocol)))(rung, own[-1])


def without_learned(rung: KineticModel) -> KineticModel:
    """The rung with its packaged parameters."""
    return rung.inner if isinstance(rung, LearnedRung) else rung


def learned_of(identity: Mapping[str, Any]) -> tuple[LearnedPrior, ...]:
    """The learned priors that a state's identity names, with their numbers; none for the packaged prior."""
    prior = identity.get("prior")
    found = prior.get("learned", ()) if isinstance(prior, Mapping) else ()
    return tuple(LearnedPrior.of(x) for x in found)


def packaged_base() -> str:
    """Digest of the packaged numbers that kinetic populations rest on, from which a learned prior is counted."""
    tables = sorted(x.name for x in resources.files("tdt_core.data").iterdir() if x.name.startswith(("kinetics_", "pbrpk_")))
    return digest({name: packaged_csv(name) for name in tables})


def check_base(prior: LearnedPrior) -> None:
    """Raises EstimationError when the packaged numbers have changed since a prior was learned."""
    if prior.base != packaged_base():
        raise EstimationError(
            f"the population prior {prior.version[:12]} was learned against other packaged numbers",
            expected="the packaged numbers that it is counted from",
            remedy="learn again (`tdt population learn`), or go back to the packaged prior (`tdt population packaged`)",
            kind="estimation.learned",
        )


def outdated(learned: Iterable[LearnedPrior]) -> list[str]:
    """One line for each learned prior that is counted from other packaged numbers than the present ones."""
    return [
        f"The population prior {x.version[:12]}, which this twin began with, was learned against other packaged numbers "
        f"({x.base[:12]}, now {packaged_base()[:12]}) and is applied to the present ones: learn again, then `tdt refit`."
        for x in learned
        if x.base != packaged_base()
    ]
