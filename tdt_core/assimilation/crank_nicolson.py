"""Preconditioned Crank-Nicolson moves of an ensemble about a standard normal (Rudolf and Sprungk 2018,
Found Comput Math 18:309).

    u' = sqrt(1 - b^2) u + b e,   accepted with min(1, w(u') / w(u)),   w = target / N(0, I)

They leave the target as it is, whatever the Gaussian; the nearer that is, the longer the steps. Moves go on until the members
have gone, on average, a share of the squared distance between a member now and another one at the start. Where the Gaussian is
far off in some coordinates, and the members begin there as the target has it, these stay in every other move, lest they hold
up the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

ACCEPTANCE = 0.3
"""Share of accepted proposals that steps adapt to: fewer waste solves, more mean short steps. Assumed."""


@dataclass(frozen=True, eq=False)
class Moved:
    """u (m, p) after `made` moves; carried (m,) there; step b of the next move of all; whether the members are mixed."""

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
    staying: int = 0,
    adapt: bool = True,
) -> Moved:
    """Move (m, p) members until they are mixed, or `most` times.

    Parameters
    ----------
    evaluate : (m, p) -> ln w (m,), -inf where the target has no density, and what else to keep of each place (m,).
    known : what `evaluate` gives of the first places, where that is known.
    mixed : squared distance gone that is enough, as a share of that between independent members now and at the start.
    visit : is told the places after each move.
    adapt : whether the step follows the share that is accepted; with a fixed one an odd number of moves is reversible.
    staying : number of last coordinates that stay in every other move; whether members are mixed is judged by the others.
    """
    start, free = u, u.shape[1] - staying
    steps = [step, step]
    density, carried = known or evaluate(u)
    for made in range(1, most + 1):
        kind = made % 2 if staying else 0
        trial = np.sqrt(1.0 - steps[kind] ** 2) * u + steps[kind] * rng.standard_normal(u.shape)
        if kind:
            trial[:, free:] = u[:, free:]
        there, kept = evaluate(trial)
        with np.errstate(invalid="ignore"):  # from nowhere to nowhere: not accepted
            accepted = np.log(rng.random(len(u))) < there - density
        u = np.where(accepted[:, None], trial, u)
        density, carried = np.where(accepted, there, density), np.where(accepted, kept, carried)
        if adapt:
            steps[kind] = float(np.clip(steps[kind] * np.exp(accepted.mean() - ACCEPTANCE), 0.02, 0.98))
        if visit:
            visit(u)
        if np.square(u - start)[:, :free].sum(axis=1).mean() >= mixed * _apart(u[:, :free], start[:, :free]):
            return Moved(u, carried, steps[0], made, True)
    return Moved(u, carried, steps[0], most, False)


def _apart(a: FloatArray, b: FloatArray) -> float:
    """Mean squared distance between members (m, p) of two ensembles that know nothing of each other."""
    shift = a.mean(axis=0) - b.mean(axis=0)
    return float(a.var(axis=0).sum() + b.var(axis=0).sum() + shift @ shift)
