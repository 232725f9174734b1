"""Where priors come from: the population, or the last state carried to the next cycle.

theta' = m + phi (theta - m) + trend + w, w ~ N(0, Q): a random walk with mean reversion toward the population (an
Ornstein-Uhlenbeck process, so that two intervals in a row are one of their length) and, for lesion uptake, the published fall
over cycles. Forgetting the drift is the largest error of such a loop, so Q errs wide.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tdt_core.assimilation.learned import LearnedRung, learned_of, with_learned
from tdt_core.assimilation.problem import Prior
from tdt_core.assimilation.relations import common_share, keys_of, organ_and_quantity, relation
from tdt_core.assimilation.transitions import Transition
from tdt_core.errors import EstimationError
from tdt_core.kinetics import UPTAKE, KineticModel, covariates_of, rung_for
from tdt_core.parameters import packaged_csv
from tdt_core.reproducible import one_blas_thread
from tdt_core.twin import Decision, Posterior, TwinState

FloatArray = npt.NDArray[np.float64]

LESIONS = "lesions"

CYCLE_H = 6 * 7 * 24.0
"""The interval that `drift_sd` and `reversion` are stated for."""


def population_prior(rung: KineticModel) -> Prior:
    """Population medians and spreads, correlated between regions of one organ; learned ones where `rung` has them."""
    if isinstance(rung, LearnedRung):
        return rung.population
    table = list(rung.parameters.values())
    mean = np.array([p.unconstrained for p in table])
    sd = np.array([p.sd for p in table])
    share = common_share(rung)
    return Prior(tuple(rung.parameters), mean, _organ_covariance(rung, sd, share), "population")


def transition(rung: KineticModel, cycle: int, dt_h: float, treated: bool) -> Transition:
    """How `rung`'s parameters move from `cycle` to the next one, dt_h later.

    From cycle 0 (pre-therapy imaging) nothing but time passes: no drift. An untreated interval has no treatment effect on
    lesions. Raises EstimationError on dt_h < 0.
    """
    if dt_h < 0:
        raise EstimationError(f"the next cycle starts {-dt_h:.1f} h before this one", expected="cycles in order of time")
    names = tuple(rung.parameters)
    n = len(names)
    if cycle == 0:
        return Transition(names, np.ones(n), np.zeros(n), np.zeros((n, n)))
    rows = [relation(rung, name) for name in names]
    share = np.array([float(r["common_share"]) for r in rows])
    stated, drift = (np.array([float(r[column]) for r in rows]) for column in ("reversion", "drift_sd"))
    intervals = max(dt_h, 1.0) / CYCLE_H  # a drift without any variance could not be learned from (process_noise)
    phi = stated**intervals
    with np.errstate(invalid="ignore"):
        grown = np.where(stated < 1.0, (1.0 - phi**2) / (1.0 - stated**2), intervals)  # variance over that of one interval
    walk = drift * np.sqrt(grown)
    if isinstance(rung, LearnedRung):
        walk = walk * np.sqrt(rung.noise)
    shift = np.array([_trend(rung, name, cycle) if treated else 0.0 for name in names])
    offset = (1.0 - phi) * population_prior(rung).mean + shift
    return Transition(names, phi, offset, _organ_covariance(rung, walk, share))


def evolve(state: TwinState, decision: Decision | None, dt_h: float, inflation: float = 1.0) -> Prior:
    """The prior of the next cycle over the regions of `state`.

    Science follows what was given: lesions respond to the therapy of `state`'s own cycle, whatever was decided about the next
    one: a decision changes nothing here, but one on another state is refused (EstimationError), as is dt_h < 0. `inflation`
    multiplies the variance of the drift (`inflation.py`).
    """
    if decision is not None and decision.state != state.id:
        raise EstimationError(
            f"the decision answers the state {decision.state[:12]}",
            expected=f"one that answers {state.id[:12]}",
            kind="estimation.decision",
        )
    step = transition(state_model(state), state.cycle, dt_h, treated=was_treated(state))
    return next_prior(state.posterior, step.widened(inflation), state.id)


def next_prior(posterior: Posterior, step: Transition, origin: str) -> Prior:
    """The prior that a posterior becomes by a transition; its nuisances stay behind."""
    n = len(step.names)
    mean, covariance = step.moments(posterior.mean[:n], posterior.covariance[:n, :n])
    return Prior(step.names, mean, covariance, origin)


def was_treated(state: TwinState) -> bool:
    """Whether the state's cycle holds a therapy administration."""
    return any(a.intent == "therapy" for a in state.evidence.administrations)


@one_blas_thread
def smooth_draws(
    posterior: Posterior, step: Transition, next_names: Sequence[str], next_draws: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """Draws of a cycle's parameters given the next cycle's draws: one backward step of the Gaussian smoother.

    Parameters
    ----------
    posterior : filtered posterior of the earlier cycle. step : its transition to the next cycle.
    next_names, next_draws : (k,), (m, k) parameters of the next cycle; those that both cycles share carry information.

    Returns
    -------
    (m, n) draws paired with `next_draws`, so that doses of both cycles add up draw by draw.
    """
    n = len(step.names)
    mean, covariance = posterior.mean[:n], posterior.covariance[:n, :n]
    predicted_mean, predicted_covariance = step.moments(mean, covariance)
    positions = {name: i for i, name in enumerate(next_names)}
    both = [i for i, name in enumerate(step.names) if name in positions]
    cross = (covariance * step.phi)[:, both]
    inner = predicted_covariance[np.ix_(both, both)]
    gain = np.linalg.solve(inner + 1e-12 * np.eye(len(both)), cross.T).T
    residual = next_draws[:, [positions[step.names[i]] for i in both]] - predicted_mean[both]
    rest = covariance - gain @ cross.T
    values, vectors = np.linalg.eigh(0.5 * (rest + rest.T))
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return np.asarray(mean + residual @ gain.T + rng.standard_normal((len(next_draws), n)) @ root.T)


def state_model(state: TwinState) -> KineticModel:
    """The kinetic model that a state was fitted with, with the population prior that it names."""
    rung = rung_for(state.model, state.summary["ligand"], state.evidence.regions, covariates_of(state.evidence))
    return with_learned(rung, learned_of(state.identity))


def adapt(prior: Prior, rung: KineticModel) -> Prior:
    """The prior over another set of regions: new ones are born from the population, vanished ones are marginalised."""
    names = tuple(rung.parameters)
    if prior.names == names:
        return prior
    carry, offset, noise = births(rung, prior.names)
    return Prior(names, carry @ prior.mean + offset, carry @ prior.covariance @ carry.T + noise, prior.origin)


def births(rung: KineticModel, known: Sequence[str]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """A (n, k), b (n,), N (n, n) of theta = A x + b + w, w ~ N(0, N): the parameters of `rung` from `known` ones x (k,).

    What is known stays. What is new has the population's distribution given what is known: the second kidney of a patient is
    expected to be like the first. Known lesions tell of nobody: what therapy did to them it did not do to a lesion that
    appears.
    """
    population, position = population_prior(rung), {name: i for i, name in enumerate(known)}
    keep = [i for i, name in enumerate(population.names) if name in position]
    new = [i for i, name in enumerate(population.names) if name not in position]
    told = [i for i in keep if organ_and_quantity(rung, population.names[i])[0] != LESIONS]
    carry, offset = np.zeros((len(population.names), len(known))), np.zeros(len(population.names))
    noise = np.zeros((len(population.names),) * 2)
    carry[keep, [position[population.names[i]] for i in keep]] = 1.0
    if new:
        c = population.covariance
        slope = np.linalg.lstsq(c[np.ix_(told, told)], c[np.ix_(told, new)], rcond=None)[0].T
        carry[np.ix_(new, [position[population.names[i]] for i in told])] = slope
        offset[new] = population.mean[new] - slope @ population.mean[told]
        noise[np.ix_(new, new)] = c[np.ix_(new, new)] - slope @ c[np.ix_(told, new)]
    return carry, offset, noise


def _organ_covariance(rung: KineticModel, sd: FloatArray, share: FloatArray) -> FloatArray:
    """Variances sd^2; the same quantity in regions of one organ shares a common part."""
    keys = keys_of(rung)
    same = np.array([[a == b for b in keys] for a in keys])
    common = np.sqrt(share[:, None] * share) * same
    np.fill_diagonal(common, 1.0)
    return np.asarray(sd[:, None] * common * sd)


def _trend(rung: KineticModel, parameter: str, cycle: int) -> float:
    """Expected ln change from `cycle` to the next: lesion uptake only."""
    organ, quantity = organ_and_quantity(rung, parameter)
    if organ != LESIONS or quantity not in UPTAKE:
        return 0.0
    relative = [float(r["relative_uptake"]) for r in packaged_csv("lesion_uptake_trend.csv")]
    last = len(relative) - 1
    return float(np.log(relative[min(cycle, last)] / relative[min(cycle - 1, last)]))
