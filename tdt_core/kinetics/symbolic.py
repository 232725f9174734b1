"""From a network to index tables: an elimination order, the static pattern of its LU factors, and where every number goes.

The matrix of a Rosenbrock stage is I/(h gamma) - J, whose pattern never changes. It is diagonally dominant in columns (what a
state loses, others gain), so Gaussian elimination needs no pivoting, and the fill is known once and for all. The order is
chosen greedily for little work (Markowitz 1957): the state whose elimination touches the fewest entries goes first, so sinks
and inner compartments go before the blood.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tdt_core.kinetics.network import Network

Int32 = npt.NDArray[np.int32]


class Tables(NamedTuple):
    """Index tables of one network, states in elimination order; every array is int32.

    order : (n,) position in the network of the state that is eliminated i-th; place : its inverse.
    linear_row, linear_col : entries of the transfer matrix M.
    fill_entry, fill_coefficient, fill_sign : contributions of coefficients to the entries of M.
    bind_source, bind_target, bind_rate, bind_pool : per binding; pool_capacity, pool_ptr, pool_member : per pool.
    lu_size, diagonal : entries of the factors; position of each diagonal entry, (n,).
    lu_of_linear : position in the LU storage of each entry of M.
    lu_of_binding_ptr, lu_of_binding : per binding, positions of (source, source), (target, source), then per member of its pool
        (source, member), (target, member).
    row_ptr, lower_at, lower_to, lower_from : eliminations by row: position of L_ik, i and k. update_ptr, update_to,
        update_from : per elimination the pairs a_ij -= l_ik a_kj.
    upper_at, upper_to, upper_from : position, i and j of U_ij, last row first.
    """

    order: Int32
    place: Int32
    linear_row: Int32
    linear_col: Int32
    fill_entry: Int32
    fill_coefficient: Int32
    fill_sign: Int32
    bind_source: Int32
    bind_target: Int32
    bind_rate: Int32
    bind_pool: Int32
    pool_capacity: Int32
    pool_ptr: Int32
    pool_member: Int32
    lu_size: int
    diagonal: Int32
    lu_of_linear: Int32
    lu_of_binding_ptr: Int32
    lu_of_binding: Int32
    row_ptr: Int32
    lower_at: Int32
    lower_to: Int32
    lower_from: Int32
    update_ptr: Int32
    update_to: Int32
    update_from: Int32
    upper_at: Int32
    upper_to: Int32
    upper_from: Int32


def pattern(network: Network) -> npt.NDArray[np.bool_]:
    """(n, n) where the Jacobian may be non-zero, diagonal included."""
    n = len(network.states)
    out = np.eye(n, dtype=bool)
    for t in network.transfers:
        if t.target is not None:
            out[network.index[t.target], network.index[t.source]] = True
    for produced in network.productions:
        out[network.index[produced.target], network.index[produced.source]] = True
    members = {p.name: [network.index[m] for m in p.members] for p in network.pools}
    for b in network.bindings:
        source, target = network.index[b.source], network.index[b.target]
        out[target, source] = True
        out[source, members[b.pool]] = True
        out[target, members[b.pool]] = True
    return out


def elimination_order(nonzero: npt.NDArray[np.bool_]) -> list[int]:
    """Greedy order by least (row entries - 1)(column entries - 1) at each elimination; ties by position."""
    work = nonzero.copy()
    left = list(range(len(work)))
    order = []
    while left:
        inside = np.array(left)
        block = work[np.ix_(inside, inside)]
        cost = (block.sum(axis=1) - 1) * (block.sum(axis=0) - 1)
        pivot = left.pop(int(np.argmin(cost)))
        order.append(pivot)
        rows = [i for i in left if work[i, pivot]]
        columns = [j for j in left if work[pivot, j]]
        work[np.ix_(rows, columns)] = True
    return order


def _filled(nonzero: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    out = nonzero.copy()
    for k in range(len(out)):
        rows = k + 1 + np.flatnonzero(out[k + 1 :, k])
        out[np.ix_(rows, k + 1 + np.flatnonzero(out[k, k + 1 :]))] = True
    return out


def _csr(rows: Sequence[Sequence[int]]) -> tuple[Int32, Int32]:
    return _int(np.cumsum([0, *(len(r) for r in rows)])), _int([c for r in rows for c in r])


def _int(values: object) -> Int32:
    return np.ascontiguousarray(np.asarray(values, dtype=np.int32).reshape(-1))


def tables(network: Network) -> Tables:
    """Index tables of a network; pure structure, no number of any patient."""
    order = elimination_order(pattern(network))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    filled = _filled(pattern(network)[np.ix_(order, order)])
    n = len(order)
    at = {(int(i), int(j)): p for p, (i, j) in enumerate(np.argwhere(filled))}

    state = {name: int(place[i]) for name, i in network.index.items()}
    coefficient = {name: i for i, name in enumerate(network.coefficients)}
    contributions: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for t in network.transfers:
        source = state[t.source]
        contributions.setdefault((source, source), []).append((coefficient[t.rate], -1))
        if t.target is not None:
            contributions.setdefault((state[t.target], source), []).append((coefficient[t.rate], 1))
    for produced in network.productions:
        contributions.setdefault((state[produced.target], state[produced.source]), []).append((coefficient[produced.rate], 1))
    entries = sorted(contributions)
    fill = [(e, c, s) for e, key in enumerate(entries) for c, s in contributions[key]]

    pools = {p.name: k for k, p in enumerate(network.pools)}
    members = [[state[m] for m in p.members] for p in network.pools]
    pool_ptr, pool_member = _csr(members)
    bound = []
    for b in network.bindings:
        source, target = state[b.source], state[b.target]
        columns = [source, *members[pools[b.pool]]]
        bound.append([at[row, column] for column in columns for row in (source, target)])
    binding_ptr, binding_at = _csr(bound)

    lower = [[k for k in range(i) if filled[i, k]] for i in range(n)]
    flat = [(i, k) for i, row in enumerate(lower) for k in row]
    updates = [[(at[i, j], at[k, j]) for j in range(k + 1, n) if filled[k, j]] for i, k in flat]
    upper = [(i, j) for i in range(n - 1, -1, -1) for j in range(i + 1, n) if filled[i, j]]
    return Tables(
        order=_int(order),
        place=_int(place),
        linear_row=_int([r for r, _ in entries]),
        linear_col=_int([c for _, c in entries]),
        fill_entry=_int([f[0] for f in fill]),
        fill_coefficient=_int([f[1] for f in fill]),
        fill_sign=_int([f[2] for f in fill]),
        bind_source=_int([state[b.source] for b in network.bindings]),
        bind_target=_int([state[b.target] for b in network.bindings]),
        bind_rate=_int([coefficient[b.rate] for b in network.bindings]),
        bind_pool=_int([pools[b.pool] for b in network.bindings]),
        pool_capacity=_int([coefficient[p.capacity] for p in network.pools]),
        pool_ptr=pool_ptr,
        pool_member=pool_member,
        lu_size=len(at),
        diagonal=_int([at[i, i] for i in range(n)]),
        lu_of_linear=_int([at[key] for key in entries]),
        lu_of_binding_ptr=binding_ptr,
        lu_of_binding=binding_at,
        row_ptr=_int(np.cumsum([0, *(len(row) for row in lower)])),
        lower_at=_int([at[key] for key in flat]),
        lower_to=_int([i for i, _ in flat]),
        lower_from=_int([k for _, k in flat]),
        update_ptr=_int(np.cumsum([0, *(len(u) for u in updates)])),
        update_to=_int([a for u in updates for a, _ in u]),
        update_from=_int([b for u in updates for _, b in u]),
        upper_at=_int([at[key] for key in upper]),
        upper_to=_int([i for i, _ in upper]),
        upper_from=_int([j for _, j in upper]),
    )
