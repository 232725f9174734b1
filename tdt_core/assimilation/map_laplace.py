"""MAP in log space by Levenberg-Marquardt with several starts, Laplace covariance, and draws moved on to the posterior itself.

The prior is white in z and (H' H + I) never singular. The Laplace Gaussian is theta* + chol(C) z with C = L (H' H + I)^-1 L'.
Where the posterior is not that Gaussian, draws of it are moved (`crank_nicolson`) until they are draws of the posterior: what
the data hardly tell is skew, and the ranks of the truth among Laplace draws lean by up to a tenth there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import linalg
from scipy.sparse import csgraph

from tdt_core.assimilation.crank_nicolson import crank_nicolson
from tdt_core.assimilation.curves import with_tempered_curves
from tdt_core.assimilation.second_order import expanded
from tdt_core.assimilation.target import Fit, Target, by_halves, check_solved, laplace, with_sample
from tdt_core.assimilation.tempered import NO_SOLUTION, resampled
from tdt_core.errors import EstimationError

FloatArray = npt.NDArray[np.float64]

# how the numbers of moves were found, and what others gave: docs/design/004-moved-draws.md
MAX_ITERATIONS = 60
TOLERANCE = 1e-5
"""A step that lowers the objective by less (nats) is the last."""
STARTS = 4
"""Local searches, the first from the prior mean."""
MEMBERS = 500
"""Draws that are moved, at the least; they give the posterior's mean and covariance."""
MOST_MOVES = 60
"""After so many moves no further round begins."""
ROUND, MIXED, STILL = 30, 0.95, 0.25
"""A round of moves ends when draws have gone this share of the squared distance between independent ones, or after `ROUND`
moves; the last one is that whose mean and sd differ from those of the Gaussian moved about by less than `STILL` sd."""
ROUND_NEAR, MOST_NEAR, WIDE = 60, 120, 1.3
"""The same under the expansion to second order, where a move takes 1 to 3 ms: always all of them, about a Gaussian of so many
times the variance, lest tails be reached too seldom."""
EXACT, WITHIN, ENOUGH = 6, 19, 0.2
"""Moves by the posterior itself after that, each with this many (odd, so that they are reversible) under the expansion as its
proposal; with a smaller share accepted the expansion is no help, and members do not count as mixed."""
GAUSSIAN = 0.05
"""With a smaller sd of ln (posterior / Laplace Gaussian) over its draws (nats) the two are the same, and nothing is moved."""
APART = 1.0
"""Posterior sd between ends of searches that are optima of their own; nearer ones are one. Assumed."""


def map_posterior(target: Target, rng: np.random.Generator, members: int | None = None, most_moves: int = MOST_MOVES) -> Fit:
    """The default estimator: the optimum, and at least `MEMBERS` draws moved from its Laplace Gaussian to the posterior."""
    best = target.best or fit_map(target, rng)
    return moved(target, best, rng, members or max(MEMBERS, target.draws), most_moves)


def fit_map(target: Target, rng: np.random.Generator, starts: int = STARTS) -> Fit:
    """Best of `starts` local optima: the prior mean and draws m + 0.7 L z.

    Raises
    ------
    EstimationError : no start reached a finite objective.
    """
    p = target.size
    # a model without solution at the prior mean says why; later ones are steps too far
    target.problem.predict(target.problem.mean)
    others = starts - 1 if target.sd.size else 0
    objectives, places = descents(target, np.concatenate([np.zeros((1, p)), 0.7 * rng.standard_normal((others, p))]))
    if not np.isfinite(objectives).any():
        raise EstimationError(
            f"none of {len(objectives)} starts of the fit reached a finite objective",
            expected="a model with a solution at the prior mean",
            remedy="use a simpler rung, or narrow the prior",
            kind="estimation.diverged",
        )
    best = int(np.argmin(objectives))
    fit = laplace(target, places[best], objectives=tuple(objectives.tolist()))
    return replace(fit, distinct_optima=optima(places[np.isfinite(objectives)], fit.whitened_jacobian))


def optima(places: FloatArray, h: FloatArray) -> int:
    """How many groups the ends (s, p) of searches form: within a group each is at most `APART` from another one.

    Distances are in sds of the Laplace Gaussian whose whitened Jacobian is `h` (d, p).
    """
    between = places[:, None] - places[None]
    squared = np.square(between @ h.T).sum(axis=-1) + np.square(between).sum(axis=-1)
    return int(csgraph.connected_components(squared <= APART**2, directed=False)[0])


def descend(target: Target, z: FloatArray) -> tuple[float, FloatArray]:
    """`descents` from one place z (p,): its objective and where it ends."""
    values, places = descents(target, z[None])
    return float(values[0]), places[0]


def descents(target: Target, z: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Levenberg-Marquardt from each of z (s, p) to a local optimum: objectives (s,) and places; infinite without a solution.

    All searches go on side by side, so that one batch holds their solves.
    """
    z = z.copy()
    residual = target.residuals(z)
    value = _objective(residual, z)
    damping, accepted = np.full(len(z), 1e-3), np.zeros(len(z), dtype=np.intp)
    h = np.empty((*residual.shape, z.shape[1]))
    going = np.isfinite(value)
    arrived = going.copy()  # where the Jacobian is not known yet
    while going.any():
        h[arrived] = by_halves(target.jacobian, z[arrived], *h.shape[1:])
        lost = arrived & ~np.isfinite(h).all(axis=(1, 2))
        value[lost], going[lost] = np.inf, False
        at = np.flatnonzero(going)
        if not at.size:
            break
        trial = np.array([z[s] + _step(h[s], residual[s], z[s], damping[s]) for s in at])
        there = target.residuals(trial)
        new = _objective(there, trial)
        with np.errstate(invalid="ignore"):
            better = np.isfinite(new) & (new <= value[at])
        yes, no = at[better], at[~better]
        drop = value[yes] - new[better]
        z[yes], residual[yes], value[yes] = trial[better], there[better], new[better]
        accepted[yes] += 1
        damping[yes] = np.maximum(damping[yes] / 5.0, 1e-9)
        damping[no] *= 5.0
        going[yes] = (drop >= TOLERANCE) & (accepted[yes] < MAX_ITERATIONS)
        going[no] = damping[no] <= 1e6
        arrived[:] = False
        arrived[yes] = going[yes]
    return value, z


def _objective(residual: FloatArray, z: FloatArray) -> FloatArray:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(0.5 * (np.square(residual).sum(axis=1) + np.square(z).sum(axis=1)))


def _step(h: FloatArray, residual: FloatArray, z: FloatArray, damping: float) -> FloatArray:
    precision = h.T @ h + np.eye(z.size)
    damped = precision + damping * np.diag(np.diag(precision))
    return np.asarray(-linalg.solve(damped, z - h.T @ residual, assume_a="pos", check_finite=False))


def moved(
    target: Target,
    fit: Fit,
    rng: np.random.Generator,
    members: int = MEMBERS,
    most_moves: int = MOST_MOVES,
) -> Fit:
    """The Laplace fit with draws of the posterior and their moments; the same fit where the posterior is the Gaussian.

    Draws of the Laplace Gaussian are moved about a Gaussian fitted to where they are (`_settled`), where the problem has a body
    under its expansion to second order (`second_order`), `MOST_NEAR` cheap moves. These draws are then weighted, resampled and
    moved on by the posterior itself: a proposal is the end of several moves under the expansion, and is accepted by what the
    expansion lacks. Where there is nothing to expand, the moves are those of the posterior from the beginning.

    Moments are those of the places visited, their covariance shrunk toward that of the Gaussian moved about by p / (p + n) for
    p parameters and n members.
    """
    if not most_moves or not target.sd.size:
        return fit
    covariance = np.linalg.inv(fit.whitened_jacobian.T @ fit.whitened_jacobian + np.eye(target.size))
    about = _Gaussian(fit.z, np.linalg.cholesky(covariance))
    u = rng.standard_normal((members, target.size))
    excess = about.excess(target, u)
    check_solved(lost := members - int(np.isfinite(excess).sum()), members)
    if not lost and excess.std() < GAUSSIAN:
        return fit
    theta, drawn = with_tempered_curves(target, target.theta(about.places(u)), rng)
    z, staying = target.white(theta), int(drawn.sum())
    if staying:
        about = about.ordered(np.argsort(drawn, kind="stable"))
        about, _ = about.fitted(about.white(z), members)
    notes: dict[str, Any] = {"draws_without_solution": lost, "members": members}
    near = expanded(target, fit)
    if near is None:
        found = _settled(target, about, z, rng, staying, _Rounds(ROUND, most_moves))
        notes |= {"moves": found.moves, "mixed": found.mixed}
    else:
        found = _settled(near, about, z, rng, staying, _Rounds(ROUND_NEAR, MOST_NEAR, early=False, wide=WIDE))
        found, accepted, lost = _corrected(target, near, found, rng, staying)
        notes["draws_without_solution"] += lost
        notes |= {"moves": EXACT, "mixed": found.mixed, "accepted": accepted, "moves_expanded": found.moves}
    g = found.about
    return with_sample(target, fit, found.z, g.centre, g.root @ g.root.T, notes=notes)


class _Settled(NamedTuple):
    """Members z (m, p), the Gaussian about them, the step of their moves, moves made, whether mixed and standing still."""

    z: FloatArray
    about: _Gaussian
    step: float
    moves: int
    mixed: bool


class _Rounds(NamedTuple):
    """Rounds of `moves`, none that begins after `most`; `early`: no more than it takes; `wide`: variance of the Gaussian that
    members move about over that of where they are."""

    moves: int
    most: int
    early: bool = True
    wide: float = 1.0


def _settled(
    target: Target, about: _Gaussian, z: FloatArray, rng: np.random.Generator, staying: int, rounds: _Rounds
) -> _Settled:
    """Members z (m, p) moved in rounds.

    Each round is about the Gaussian that the round before found. The last `staying` coordinates move every other time only:
    what no Gaussian describes is slow to move about one, and would hold up the rest. With `early` a round ends when members are
    mixed, and the last one is that which leaves its Gaussian standing.
    """
    members, made, step, enough = len(z), 0, 0.5, MIXED if rounds.early else np.inf
    while True:
        visited: list[FloatArray] = []
        wide = about.widened(rounds.wide)
        found = crank_nicolson(
            wide.weighing(target),
            wide.white(z),
            rng,
            mixed=enough,
            most=rounds.moves,
            step=step,
            visit=visited.append,
            staying=staying,
        )
        solved, made, step, z = np.isfinite(found.carried), made + found.made, found.step, wide.places(found.u)
        late = np.concatenate([at[solved] for at in visited[len(visited) // 2 :]])
        about, still = about.fitted(np.sqrt(rounds.wide) * late, members)
        if made >= rounds.most or (rounds.early and still):
            return _Settled(z[solved], about, step, made, still and (found.mixed or not rounds.early))


def _corrected(
    target: Target, near: Target, found: _Settled, rng: np.random.Generator, staying: int
) -> tuple[_Settled, float, int]:
    """Members of the posterior from members of an approximation `near` it, the share of proposals that was accepted, and how
    many of the members had no solution.

    They are resampled by the ratio of the two and moved `EXACT` times. Moves under `near` are reversible there, so that their
    end is accepted with the ratio at the end over that at the beginning.
    """
    about, wide, step = found.about, found.about.widened(WIDE), found.step
    of_near = wide.weighing(near)

    def ratio(z: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore"):
            difference = near.objective(z) - target.objective(z)
        return np.where(np.isnan(difference), -np.inf, difference)

    excess = ratio(found.z)
    check_solved(lost := int((~np.isfinite(excess)).sum()), len(excess))
    chosen = resampled(np.minimum(-excess, NO_SOLUTION), 1.0, rng)
    z, excess = found.z[chosen], excess[chosen]
    visited, shares = [], []
    for _ in range(EXACT):
        moved_ = crank_nicolson(of_near, wide.white(z), rng, mixed=np.inf, most=WITHIN, step=step, staying=staying, adapt=False)
        trial = wide.places(moved_.u)
        there = ratio(trial)
        accepted = np.log(rng.random(len(z))) < there - excess
        z, excess = np.where(accepted[:, None], trial, z), np.where(accepted, there, excess)
        visited.append(about.white(z))
        shares.append(float(accepted.mean()))
    share = float(np.mean(shares))
    about, _ = about.fitted(np.concatenate(visited), len(z))
    return found._replace(z=z, about=about, mixed=found.mixed and share > ENOUGH), share, lost


@dataclass(frozen=True, eq=False)
class _Gaussian:
    """N(centre, root root') of white parameters z = centre + root u."""

    centre: FloatArray
    root: FloatArray

    def ordered(self, order: npt.NDArray[np.intp]) -> _Gaussian:
        """The same Gaussian, z[order[:k]] following from u[:k] alone for any k."""
        root = np.empty_like(self.root)
        root[order] = np.linalg.cholesky((self.root @ self.root.T)[np.ix_(order, order)])
        return _Gaussian(self.centre, root)

    def widened(self, factor: float) -> _Gaussian:
        """The same with `factor` times the covariance."""
        return _Gaussian(self.centre, np.sqrt(factor) * self.root)

    def places(self, u: FloatArray) -> FloatArray:
        return np.asarray(self.centre + u @ self.root.T)

    def white(self, z: FloatArray) -> FloatArray:
        return np.asarray(np.linalg.solve(self.root, (z - self.centre).T).T)

    def excess(self, target: Target, u: FloatArray) -> FloatArray:
        """(m,) ln (posterior / this Gaussian) at u (m, p), but for a constant."""
        return np.asarray(0.5 * np.square(u).sum(axis=1) - target.objective(self.places(u)))

    def weighing(self, target: Target) -> Callable[[FloatArray], tuple[FloatArray, FloatArray]]:
        """`excess` as moves take it, and to keep."""

        def evaluate(u: FloatArray) -> tuple[FloatArray, FloatArray]:
            return (excess := self.excess(target, u)), excess

        return evaluate

    def fitted(self, u: FloatArray, members: int) -> tuple[_Gaussian, bool]:
        """The Gaussian of places u (k, p) that `members` took, shrunk toward this one, and whether it is nearly this one."""
        p = u.shape[1]
        share = p / (p + members)
        mean, covariance = u.mean(axis=0), (1.0 - share) * np.cov(u, rowvar=False) + share * np.eye(p)
        still = np.abs(mean).max() < STILL and np.abs(np.log(np.diag(covariance))).max() < 2.0 * STILL
        return _Gaussian(self.centre + self.root @ mean, self.root @ np.linalg.cholesky(covariance)), bool(still)
