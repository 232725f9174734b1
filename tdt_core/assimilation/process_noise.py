"""How much parameters really drift between cycles: the process noise that a cohort's chains make most probable.

A chain is a patient's treated cycles: what each cycle's data say (its posterior over its prior, a Gaussian factor) and how the
packaged transition carries it on. The noise of each group of organs is the packaged one times a factor q; q is estimated by EM
on the Kalman smoother of all chains, which climbs the likelihood of the innovations (Shumway and Stoffer 1982), with a penalty
that counts as a number of transitions with the packaged drift. Exact where data and posteriors are Gaussian.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tdt_core.assimilation.problem import Prior, gained
from tdt_core.assimilation.relations import group_of
from tdt_core.assimilation.transitions import Transition
from tdt_core.errors import EstimationError
from tdt_core.reproducible import one_blas_thread

FloatArray = npt.NDArray[np.float64]

ITERATIONS, TOLERANCE = 200, 1e-4


@dataclass(frozen=True, eq=False)
class Link:
    """One cycle of a chain: what its data say, exp(information' x - x' precision x / 2), and the transition to the next."""

    precision: FloatArray
    information: FloatArray
    onward: Transition | None = None


@dataclass(frozen=True, eq=False)
class Chain:
    """A patient's treated cycles over the parameters that all of them have.

    patient : a name that orders patients. keys (n,). mean (n,), covariance (n, n) : prior of the first of the cycles.
    """

    patient: str
    keys: tuple[str, ...]
    mean: FloatArray
    covariance: FloatArray
    links: tuple[Link, ...]

    def __post_init__(self) -> None:
        if len(self.links) < 2 or any(x.onward is None for x in self.links[:-1]):
            raise EstimationError("a chain without a transition", expected="two cycles or more", kind="estimation.chain")


def link_of(
    prior: Prior, mean: FloatArray, covariance: FloatArray, keep: Sequence[int], onward: Transition | None, least: float = 0.0
) -> Link:
    """What a cycle's posterior, mean (n,) and covariance (n, n), adds to its prior, over the parameters `keep`.

    The others are integrated out under the prior and under the posterior. `least` as `least_gain` has it.
    """
    at = np.asarray(keep, dtype=int)
    block = np.ix_(at, at)
    white, narrow, gain = gained(prior.covariance[block], covariance[block], least)
    told = np.where(gain > 0, (white @ (mean[at] - prior.mean[at])) / narrow, 0.0)
    precision = white.T @ (gain[:, None] * white)
    if onward is not None:
        onward = Transition(tuple(onward.names[i] for i in at), onward.phi[at], onward.offset[at], onward.noise[np.ix_(at, at)])
    return Link(precision, white.T @ told + precision @ prior.mean[at], onward)


@one_blas_thread
def learn_noise(chains: Sequence[Chain], strength: float = 0.0) -> dict[str, float]:
    """Group -> factor on the packaged variance of the drift; without chains nothing. Their order does not matter.

    strength : number of transitions with the packaged drift that count beside the cohort's.
    """
    ordered = sorted(chains, key=lambda c: c.patient)
    groups = sorted({group_of(k) for c in ordered for k in c.keys})
    factors = dict.fromkeys(groups, 1.0)
    for _ in range(ITERATIONS if groups else 0):
        sums, counts = dict.fromkeys(groups, 0.0), dict.fromkeys(groups, 0)
        for chain in ordered:
            for group, (total, number) in _expected(chain, factors).items():
                sums[group] += total
                counts[group] += number
        size = {g: counts[g] / max(sum(len(c.links) - 1 for c in ordered if g in map(group_of, c.keys)), 1) for g in groups}
        new = {g: (strength * size[g] + sums[g]) / (strength * size[g] + counts[g]) for g in groups}
        moved = max(abs(np.log(new[g] / factors[g])) for g in groups)
        factors = new
        if moved < TOLERANCE:
            break
    return factors


def noise_of_cohort(chains: Sequence[Chain], strength: float, folds: int) -> tuple[dict[str, float], str]:
    """The factors that a cohort teaches where held-out chains agree, else none (the packaged drift); and the reason in words.

    Each fold's innovations are predicted by what the others teach; neither the mean nor the median gain in ln density may be
    below zero.
    """
    ordered = sorted(chains, key=lambda c: c.patient)
    if len(ordered) < folds:
        return {}, f"the drift stays as packaged: {len(ordered)} patients with two treated cycles or more"
    gains = []
    for fold in range(folds):
        factors = learn_noise([c for i, c in enumerate(ordered) if i % folds != fold], strength)
        gains += [innovation_density(c, factors) - innovation_density(c, {}) for c in ordered[fold::folds]]
    mean, median = float(np.mean(gains)), float(np.median(gains))
    told = f"ln density of held-out innovations {mean:+.2f} in the mean, {median:+.2f} in the median of {len(gains)} patients"
    if min(mean, median) < 0:
        return {}, f"the drift stays as packaged: {told}"
    return learn_noise(ordered, strength), f"the drift is learned: {told}"


@one_blas_thread
def innovation_density(chain: Chain, factors: Mapping[str, float]) -> float:
    """ln density of a chain's data given its first cycle's, but for a constant that no noise changes."""
    total, mean, covariance = 0.0, chain.mean, chain.covariance
    for k, link in enumerate(chain.links):
        inner = np.eye(mean.size) + covariance @ link.precision
        posterior = np.linalg.solve(inner, covariance)
        residual = link.information - link.precision @ mean
        if k:
            quadratic = 0.5 * residual @ posterior @ residual + (link.information - 0.5 * link.precision @ mean) @ mean
            total += float(quadratic - 0.5 * np.linalg.slogdet(inner)[1])
        mean, covariance = mean + posterior @ residual, 0.5 * (posterior + posterior.T)
        if link.onward is not None:
            mean, covariance = scaled(link.onward, chain.keys, factors).moments(mean, covariance)
    return total


def scaled(step: Transition, keys: Sequence[str], factors: Mapping[str, float]) -> Transition:
    """The transition with each group's noise variance times its factor, 1 where there is none."""
    root = np.sqrt([factors.get(group_of(k), 1.0) for k in keys])
    return replace(step, noise=root[:, None] * step.noise * root)


def _expected(chain: Chain, factors: Mapping[str, float]) -> dict[str, tuple[float, int]]:
    """Group -> expected sum over transitions of w' N^-1 w with the packaged N, and the number of its terms."""
    filtered, predicted = [], []
    mean, covariance = chain.mean, chain.covariance
    steps = [scaled(x.onward, chain.keys, factors) for x in chain.links[:-1] if x.onward is not None]
    for k, link in enumerate(chain.links):
        posterior = np.linalg.solve(np.eye(mean.size) + covariance @ link.precision, covariance)
        mean, covariance = mean + posterior @ (link.information - link.precision @ mean), 0.5 * (posterior + posterior.T)
        filtered.append((mean, covariance))
        if k < len(steps):
            mean, covariance = steps[k].moments(mean, covariance)
            predicted.append((mean, covariance))
    position: dict[str, list[int]] = {}
    for i, key in enumerate(chain.keys):
        position.setdefault(group_of(key), []).append(i)
    found = dict.fromkeys(position, (0.0, 0))
    after, spread = filtered[-1]
    for k in range(len(steps) - 1, -1, -1):
        step, packaged = steps[k], chain.links[k].onward
        assert packaged is not None  # checked by Chain
        (before, own), (ahead, wide) = filtered[k], predicted[k]
        gain = np.linalg.solve(wide, (own * step.phi).T).T
        smooth, narrow = before + gain @ (after - ahead), own + gain @ (spread - wide) @ gain.T
        moved = after - step.phi * smooth - step.offset
        cross = (step.phi[:, None] * gain) @ spread
        square = spread + step.phi[:, None] * narrow * step.phi - cross - cross.T + np.outer(moved, moved)
        for group, at in position.items():
            block = np.ix_(at, at)
            total, number = found[group]
            found[group] = (total + float(np.trace(np.linalg.solve(packaged.noise[block], square[block]))), number + len(at))
        after, spread = smooth, narrow
    return found
