"""A compartment model as data: states, transfers between them, and receptor pools.

Amounts are in nmol, times in minutes. Every flow leaves one state and enters another (or leaves the model):

    transfer    k y_source                                     first order
    binding     k y_source (capacity - sum of the pool's members)   second order, saturable
    production  k y_source into the target, which the source does not lose: what it leaves behind

and k and capacity are named coefficients, so that one structure serves any number of patients. A pool's members may belong to
several labels (hot, cold, earlier vials) that compete for it; a label may bind to a pool that another one occupies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from tdt_core.errors import ModelError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class State:
    """One amount (nmol): `label` names the ligand species it counts, `region` and `part` where it is."""

    label: str
    region: str
    part: str

    @property
    def name(self) -> str:
        """`label/region/part`."""
        return f"{self.label}/{self.region}/{self.part}"


@dataclass(frozen=True)
class Transfer:
    """First-order flow of `rate` (1/min, a coefficient) x amount of `source`. `target` None: it leaves the model."""

    source: str
    target: str | None
    rate: str


@dataclass(frozen=True)
class Pool:
    """Binding sites: `capacity` (nmol, a coefficient) less the amounts of `members` are free."""

    name: str
    capacity: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class Binding:
    """Second-order flow of `rate` (1/min/nmol, a coefficient) x amount of `source` x free sites of `pool`."""

    source: str
    target: str
    rate: str
    pool: str


@dataclass(frozen=True)
class Production:
    """First-order source of `target`: `rate` (a coefficient) x amount of `source`, which loses nothing by it."""

    source: str
    target: str
    rate: str


@dataclass(frozen=True, eq=False)
class Network:
    """States with their transfers, pools, bindings and productions. Names are checked once, here.

    Raises
    ------
    ModelError
        `model.state` for a doubled state, `model.reaction` for a flow from, to or by something that is not declared, or that
        returns to its own source.
    """

    states: tuple[State, ...]
    transfers: tuple[Transfer, ...]
    pools: tuple[Pool, ...] = ()
    bindings: tuple[Binding, ...] = ()
    productions: tuple[Production, ...] = ()

    def __post_init__(self) -> None:
        names = [s.name for s in self.states]
        doubled = sorted({n for n in names if names.count(n) > 1})
        if doubled:
            raise ModelError(f"states declared twice: {', '.join(doubled)}", remedy="name each once", kind="model.state")
        pools = {p.name for p in self.pools}
        flows: tuple[Transfer | Binding | Production, ...] = (*self.transfers, *self.bindings, *self.productions)
        for flow in flows:
            ends = [flow.source] if flow.target is None else [flow.source, flow.target]
            unknown = [n for n in ends if n not in self.index]
            if unknown:
                raise ModelError(
                    f"a flow by {flow.rate} names {', '.join(unknown)}", expected="declared states", kind="model.reaction"
                )
            if flow.source == flow.target:
                raise ModelError(f"a flow by {flow.rate} from {flow.source} to itself", kind="model.reaction")
        for binding in self.bindings:
            if binding.pool not in pools:
                raise ModelError(
                    f"{binding.source} binds to the pool {binding.pool}", expected="a declared pool", kind="model.reaction"
                )
        for pool in self.pools:
            missing = [m for m in pool.members if m not in self.index]
            if missing:
                raise ModelError(
                    f"pool {pool.name} counts {', '.join(missing)}", expected="declared states", kind="model.reaction"
                )

    @cached_property
    def index(self) -> Mapping[str, int]:
        """State name -> position."""
        return {s.name: i for i, s in enumerate(self.states)}

    @cached_property
    def coefficients(self) -> tuple[str, ...]:
        """Names of all coefficients, each once, in order of first use."""
        used = [t.rate for t in self.transfers] + [b.rate for b in self.bindings] + [p.capacity for p in self.pools]
        used += [p.rate for p in self.productions]
        return tuple(dict.fromkeys(used))

    def gather(self, values: Mapping[str, FloatArray | float]) -> FloatArray:
        """(m, c) coefficients in the order of `coefficients` from values by name, each () or (m,).

        Raises
        ------
        ModelError `model.coefficient` for one that is missing, negative or not finite.
        """
        missing = [c for c in self.coefficients if c not in values]
        if missing:
            raise ModelError(f"no value for {', '.join(missing[:5])}", expected="a value for each", kind="model.coefficient")
        columns = [np.asarray(values[c]) for c in self.coefficients]
        shape = np.broadcast_shapes((1,), *{x.shape for x in columns})
        out = np.empty((*shape, len(columns)), np.result_type(np.float64, *{x.dtype for x in columns}))
        for i, column in enumerate(columns):  # stacking takes three times as long, and fits do this for every batch
            out[..., i] = column
        real = out.real
        bad = ~np.isfinite(real) | (real < 0)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ModelError(
                f"{self.coefficients[column]} is {real[row, column]:g} in member {row}",
                expected="a finite value of 0 or more",
                remedy="correct the parameters that it follows from",
                kind="model.coefficient",
            )
        return out

    def select(self, label: str | None = None, region: str | None = None, part: str | None = None) -> IntArray:
        """Positions of the states with these properties; None admits all."""
        wanted = (label, region, part)
        return np.array(
            [
                i
                for i, s in enumerate(self.states)
                if all(w is None or w == have for w, have in zip(wanted, (s.label, s.region, s.part), strict=True))
            ],
            dtype=np.int64,
        )

    def rate_matrix(self, coefficients: FloatArray) -> FloatArray:
        """(n, n) matrix M of transfers and productions for one (c,) set of coefficients: dy/dt = M y without bindings."""
        at = {name: i for i, name in enumerate(self.coefficients)}
        n = len(self.states)
        out = np.zeros((n, n), dtype=coefficients.dtype)
        for t in self.transfers:
            k, source = coefficients[at[t.rate]], self.index[t.source]
            out[source, source] -= k
            if t.target is not None:
                out[self.index[t.target], source] += k
        for p in self.productions:
            out[self.index[p.target], self.index[p.source]] += coefficients[at[p.rate]]
        return out

    def derivative(self, coefficients: FloatArray, y: FloatArray) -> FloatArray:
        """(n,) dy/dt (nmol/min) at (n,) amounts: the slow, obvious form that the solver is tested against."""
        at = {name: i for i, name in enumerate(self.coefficients)}
        free = {p.name: coefficients[at[p.capacity]] - sum(y[self.index[m]] for m in p.members) for p in self.pools}
        out = self.rate_matrix(coefficients) @ y
        for b in self.bindings:
            flow = coefficients[at[b.rate]] * y[self.index[b.source]] * free[b.pool]
            out[self.index[b.source]] -= flow
            out[self.index[b.target]] += flow
        return np.asarray(out)

    def jacobian(self, coefficients: FloatArray, y: FloatArray) -> FloatArray:
        """(n, n) d(dy/dt)/dy, dense, for tests."""
        at = {name: i for i, name in enumerate(self.coefficients)}
        pools = {p.name: p for p in self.pools}
        out = self.rate_matrix(coefficients)
        for b in self.bindings:
            pool = pools[b.pool]
            k, source, target = coefficients[at[b.rate]], self.index[b.source], self.index[b.target]
            members = [self.index[m] for m in pool.members]
            free = coefficients[at[pool.capacity]] - y[members].sum()
            for row, sign in ((source, -1.0), (target, 1.0)):
                out[row, source] += sign * k * free
                for m in members:
                    out[row, m] -= sign * k * y[source]
        return np.asarray(out)


def states_of(label: str, parts: Mapping[str, Sequence[str]]) -> tuple[State, ...]:
    """States of one label from region -> parts."""
    return tuple(State(label, region, part) for region, names in parts.items() for part in names)


def checked_labels(labels: Sequence[str], occupying: Sequence[str] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Labels, and those of them that take up binding sites; by default all.

    Raises
    ------
    ModelError `model.label` without labels, or where `occupying` names none of them or others.
    """
    taking = tuple(labels if occupying is None else occupying)
    if not labels or not taking or not set(taking) <= set(labels):
        raise ModelError(
            f"labels {tuple(labels)} of which {taking} occupy binding sites",
            expected="at least one label, and at least one of them that occupies",
            kind="model.label",
        )
    return tuple(labels), taking


def labelled(base: Network, labels: Sequence[str], occupying: Sequence[str] | None = None) -> Network:
    """A network of one label, once for each of `labels`; see `checked_labels`. The same arguments give the same object."""
    return _labelled(base, *checked_labels(labels, occupying))


@lru_cache(maxsize=64)
def _labelled(base: Network, labels: tuple[str, ...], taking: tuple[str, ...]) -> Network:
    place = {s.name: s for s in base.states}

    def of(label: str, state: str) -> str:
        return State(label, place[state].region, place[state].part).name

    return Network(
        tuple(State(label, s.region, s.part) for label in labels for s in base.states),
        tuple(
            Transfer(of(label, t.source), None if t.target is None else of(label, t.target), t.rate)
            for label in labels
            for t in base.transfers
        ),
        tuple(Pool(p.name, p.capacity, tuple(of(label, m) for label in taking for m in p.members)) for p in base.pools),
        tuple(Binding(of(label, b.source), of(label, b.target), b.rate, b.pool) for label in labels for b in base.bindings),
        tuple(Production(of(label, p.source), of(label, p.target), p.rate) for label in labels for p in base.productions),
    )
