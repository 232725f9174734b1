"""Every rung of the ladder on the same evidence: fits with their cost and score, refusals with their reason, the average."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from tdt_core.assimilation.estimators import assimilate
from tdt_core.assimilation.evolution import population_prior
from tdt_core.assimilation.selection import Basis, Score, Weights, average, score, weigh
from tdt_core.errors import EstimationError, TwinError
from tdt_core.kinetics import KineticModel, covariates_of, rung_for
from tdt_core.kinetics.ladder import Separable
from tdt_core.twin import Administration, Evidence, Posterior, Region

FloatArray = npt.NDArray[np.float64]


Clock = Callable[[], float]


def _stopped() -> float:
    return 0.0


@dataclass(frozen=True, eq=False)
class Candidate:
    """A rung fitted to the evidence from its own population prior.

    Attributes
    ----------
    tia_mbq_h : (draws, regions) time-integrated activity of the administration asked for.
    seconds : of building and fitting by the caller's clock, scoring not included; a first call may hold compilation.
    gradients : places at which the model's gradient was evaluated, by all searches, the expansion and the diagnostics.
    """

    model: KineticModel
    posterior: Posterior
    score: Score
    tia_mbq_h: FloatArray
    seconds: float
    gradients: int


@dataclass(frozen=True, eq=False)
class Ladder:
    """Candidates by rung, reasons of those that refused, weights, and the (draws, regions) average."""

    regions: tuple[str, ...]
    candidates: Mapping[str, Candidate]
    refused: Mapping[str, str]
    weights: Weights
    tia_mbq_h: FloatArray


class _Counted:
    """A model that counts how often its gradient is asked for."""

    def __init__(self, model: KineticModel) -> None:
        self._model, self.gradients = model, 0

    def log_jacobian(self, theta: FloatArray, *given: Any) -> FloatArray:
        self.gradients += len(np.atleast_2d(theta))
        return self._model.log_jacobian(theta, *given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _CountedSeparable(_Counted):
    """The same of a rung with curves of their own, said by name: from Python 3.12 on `isinstance` does not see delegation."""

    @property
    def separable(self) -> tuple[Region, ...]:
        return cast(Separable, self._model).separable

    def of_regions(self, regions: Sequence[Region]) -> KineticModel:
        return cast(Separable, self._model).of_regions(regions)


def fit_rung(
    name: str,
    ligand: str,
    evidence: Evidence,
    given: Administration,
    *,
    seed: tuple[int, ...] = (0,),
    n_draws: int = 500,
    clock: Clock = _stopped,
) -> Candidate:
    """Fit one rung to the evidence from its population prior, score it, integrate `given`. Raises what the rung raises."""
    started = clock()
    model = rung_for(name, ligand, evidence.regions, covariates_of(evidence))
    counted = _CountedSeparable(model) if isinstance(model, Separable) else _Counted(model)
    prior = population_prior(model)
    imaged = {d.nuclide for d in evidence.activities}
    for administration in (*(a for a in evidence.administrations if a.nuclide in imaged), given):
        # at the median first: what a rung lacks it says itself, where a fit only finds that it has no solution
        model.time_integrated_activity(prior.mean[None], administration)
    posterior = assimilate(prior, evidence, cast(KineticModel, counted), seed=seed, n_draws=n_draws)
    seconds = clock() - started
    tia = model.time_integrated_activity(posterior.draws[:, : len(prior.names)], given)
    if [r.name for r in model.regions] != [r.name for r in evidence.regions] or not np.isfinite(tia).all():
        raise EstimationError(
            f"the rung {name} gives {len(model.regions)} regions with {int((~np.isfinite(tia)).sum())} values that are none",
            expected=f"finite time-integrated activities of the {len(evidence.regions)} regions of the evidence",
            kind="estimation.selection",
        )
    return Candidate(model, posterior, score(prior, evidence, model, posterior), tia, seconds, counted.gradients)


def climb(
    names: Sequence[str],
    ligand: str,
    evidence: Evidence,
    given: Administration,
    *,
    basis: Basis = "evidence",
    seed: tuple[int, ...] = (0,),
    n_draws: int = 500,
    clock: Clock = _stopped,
) -> Ladder:
    """Fit every rung that applies to the images, weigh and average them.

    Samples of blood and excreta are left out: not every rung can say what they would show, and scores compare on the same data
    only.

    Parameters
    ----------
    given : administration whose time-integrated activity is averaged.
    basis : what the weights rest on; see `weigh`.
    clock : seconds of now, for `Candidate.seconds`; without one they are 0.

    Raises
    ------
    EstimationError : every rung refused the evidence.
    """
    evidence = replace(evidence, samples=())
    candidates: dict[str, Candidate] = {}
    refused: dict[str, str] = {}
    for name in names:
        try:
            candidates[name] = fit_rung(name, ligand, evidence, given, seed=seed, n_draws=n_draws, clock=clock)
        except TwinError as error:
            refused[name] = str(error)
        except np.linalg.LinAlgError as error:
            refused[name] = f"The fit has no covariance: {error}."
    most = max((c.score.n_data for c in candidates.values()), default=0)
    for name in [n for n, c in candidates.items() if c.score.n_data < most]:
        refused[name] = f"It holds {candidates.pop(name).score.n_data} of the {most} data, so its score compares with no other."
    if not candidates:
        raise EstimationError(
            "no rung takes this evidence: " + " ".join(f"{n}: {r}" for n, r in refused.items()), kind="estimation.selection"
        )
    weights = weigh({n: c.score for n, c in candidates.items()}, basis)
    mixed = average({n: c.tia_mbq_h for n, c in candidates.items()}, weights.by_rung, n_draws, seed)
    return Ladder(tuple(r.name for r in evidence.regions), candidates, refused, weights, mixed)
