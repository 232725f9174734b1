"""Preconditioned Crank-Nicolson moves of an ensemble about a standard normal (Rudolf and Sprungk 2018,
Found Comput Math 18:309).

    u' = sqrt(1 - b^2) u + b e,   accepted with min(1, w(u') / w(u)),   w = target / N(0, I)

They leave the target as it is, whatever the Gaussian; the nearer that is, the longer the steps. Moves go on until the members
have gone, on average, a share of the squared distance between a member now and another one at the start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

ACCEPTANCE = 0.3


@dataclass(frozen=True, eq=False)
class Moved:
    """u (m, p) after `made` moves; carried (m,) there; step b of the next move; whether the members are mixed."""

    u: FloatArray
    carried: FloatArray
    step: float
    made: int
    mixed: bool


def crank_nicolson(
    evaluate: Callable[[FloatArray], tuple[FloatArray, FloatArray]],
    u: FloatArray,
    rng: np.random.Generator,
    *,
    mixed: float,
    most: int,
    step: float = 0.5,
    known: tuple[FloatArray, FloatArray] | None = None,
    visit: Callable[[FloatArray], None] | None = None,
) -> Moved:
    """Move (m, p) members until they are mixed, or `most` times.

    Parameters
    ----------
    evaluate : (m, p) -> ln w (m,), -inf where the target has no density, and what else to keep of each place (m,).
    known : what `evaluate` gives of the first places, where that is known.
    mixed : squared distance gone that is enough, as a share of that between independent members now and at the start.
    visit : is told the places after each move.
    """
    start = u
    density, carried = known or evaluate(u)
    for made in range(1, most + 1):
        trial = np.sqrt(1.0 - step**2) * u + step * rng.standard_normal(u.shape)
        there, kept = evaluate(trial)
        with np.errstate(invalid="ignore"):  # from nowhere to nowhere: not accepted
            accepted = np.log(rng.random(len(u))) < there - density
        u = np.where(accepted[:, None], trial, u)
        density, carried = np.where(accepted, there, density), np.where(accepted, kept, carried)
        step = float(np.clip(step * np.exp(accepted.mean() - ACCEPTANCE), 0.02, 0.98))
        if visit:
            visit(u)
        if np.square(u - start).sum(axis=1).mean() >= mixed * _apart(u, start):
            return Moved(u, carried, step, made, True)
    return Moved(u, carried, step, most, False)


def _apart(a: FloatArray, b: FloatArray) -> float:
    """Mean squared distance between members (m, p) of two ensembles that know nothing of each other."""
    shift = a.mean(axis=0) - b.mean(axis=0)
    return float(a.var(axis=0).sum() + b.var(axis=0).sum() + shift @ shift)
