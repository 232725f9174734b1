"""Absorbed dose per activity in the next cycle, draw by draw: from the twin, from the population, or carried forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tdt_core.assimilation import population_prior, state_model, transition
from tdt_core.kinetics import KineticModel, source_activity
from tdt_core.planning.outlook import Tissue, effective_g, lea_catcheside_by_region, ledger_names, with_organs
from tdt_core.planning.proposal import OrganOutlook
from tdt_core.reproducible import one_blas_thread
from tdt_core.twin import Administration, DoseLedger, Evidence, Limit, Posterior, Product, TwinState

FloatArray = npt.NDArray[np.float64]

NEXT_CYCLE, MASS, POPULATION = 13, 14, 15
"""Streams of random numbers: (root, cycle, purpose); 11 is the fit, 12 the pattern noise, 16 the smoother, 17 the ladder,
18 daughters (alone), 19 all cycles at once, 20 the design, 21 blood samples, 22 `tdt identify`. Never 0: a trailing zero gives
the stream of the shorter seed."""


def next_administration(product: Product, time_h: float, amount_nmol: float | None) -> Administration:
    """The product's standard administration, for doses per activity."""
    return Administration(
        time_h,
        product.name,
        product.ligand,
        product.nuclide,
        product.standard_activity_mbq,
        amount_nmol=amount_nmol or product.standard_amount_nmol,
    )


def next_parameters(
    rung: KineticModel, posterior: Posterior, cycle: int, dt_h: float, seed: tuple[int, ...], inflation: float = 1.0
) -> FloatArray:
    """(draws, n) the posterior's draws carried to the next cycle, paired with them; `inflation`: of the drift's variance."""
    n = len(rung.parameters)
    step = transition(rung, cycle, dt_h, treated=True).widened(inflation)
    return step.draws(posterior.draws[:, :n], np.random.default_rng([*seed, NEXT_CYCLE]))


def gy_per_mbq(
    rung: KineticModel, theta: FloatArray, administration: Administration, matrix: FloatArray, mass_factors: FloatArray
) -> FloatArray:
    """(ledger names, draws) absorbed dose per administered MBq.

    matrix : (regions, sources) Gy per MBq h, target by source, see `source_activity`.
    mass_factors : (draws, regions) true mass over measured mass.
    """
    dose = (source_activity(rung, theta, administration) @ matrix.T) / mass_factors
    return with_organs(rung.regions, dose.T / administration.net_activity_mbq)


@one_blas_thread
def mass_factor_draws(evidence: Evidence, posterior: Posterior | None, theta: FloatArray, seed: tuple[int, ...]) -> FloatArray:
    """(m, regions) lognormal true mass over measured mass, paired with (m, n) `theta` of the same cycle.

    A contour that is too wide raises a region's mass and its activity together, and absorbed dose moves by their difference
    only. So the contour's shift z is drawn given theta: the posterior tells the region's recovery error r, of which the contour
    is one part (z | r ~ N(r s / (s^2 + p^2), p^2 / (s^2 + p^2)), s and p the budget's segmentation and partial-volume parts),
    and the measured mass is off by exp(`volume_rel_sd` z). Without a posterior z is independent of theta.
    """
    rng = np.random.default_rng([*seed, MASS])
    shift = rng.standard_normal((len(theta), len(evidence.regions)))
    recoveries = {} if posterior is None else _recovery_draws(posterior, theta, rng)
    for i, region in enumerate(evidence.regions):
        for modality in ("SPECT", "PET"):
            parts = [a.budget for a in evidence.activities if a.region == region.name and a.modality == modality]
            recovery = recoveries.get(f"{region.name}.recovery/{modality}")
            if parts and recovery is not None:
                segmentation = float(np.mean([b.segmentation for b in parts]))
                partial = float(np.mean([b.partial_volume for b in parts]))
                shared = max(segmentation**2 + partial**2, 1e-12)
                shift[:, i] = recovery * segmentation / shared + shift[:, i] * partial / np.sqrt(shared)
                break
    sd = np.array([r.volume_rel_sd for r in evidence.regions])
    return np.asarray(np.exp(-sd * shift))


def _recovery_draws(posterior: Posterior, theta: FloatArray, rng: np.random.Generator) -> dict[str, FloatArray]:
    """(m,) draws of each recovery nuisance given the (m, n) model parameters, from the posterior's normal approximation."""
    n = theta.shape[1]
    columns = [i for i, name in enumerate(posterior.names) if ".recovery/" in name]
    if not columns:
        return {}
    covariance = posterior.covariance
    gain = np.linalg.lstsq(covariance[:n, :n], covariance[:n, columns], rcond=1e-12)[0].T
    rest = covariance[np.ix_(columns, columns)] - gain @ covariance[:n, columns]
    values, vectors = np.linalg.eigh(0.5 * (rest + rest.T))
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    mean = posterior.mean[columns] + (theta - posterior.mean[:n]) @ gain.T
    draws = mean + rng.standard_normal((len(theta), len(columns))) @ root.T
    return {posterior.names[c]: draws[:, k] for k, c in enumerate(columns)}


def population_gy_per_mbq(state: TwinState, draws: int, seed: tuple[int, ...]) -> FloatArray:
    """(ledger names, draws) what the population prior forecasts for this patient's regions and masses."""
    rung = state_model(state)
    rng = np.random.default_rng([*seed, POPULATION])
    theta = population_prior(rung).draws(draws, rng)
    factors = mass_factor_draws(state.evidence, None, theta, seed)
    return gy_per_mbq(rung, theta, state.evidence.therapy(), dose_matrix(state), factors)


def dose_matrix(state: TwinState) -> FloatArray:
    """(regions, sources) Gy per MBq h that a state keeps."""
    return np.array(state.summary["dose_matrix_gy_per_mbq_h"])


def outlooks_of(
    rung: KineticModel,
    theta: FloatArray,
    upcoming: Administration,
    forecast: FloatArray,
    ledger: DoseLedger,
    policy: Sequence[Limit],
    tissues: Mapping[str, Tissue],
) -> dict[str, OrganOutlook]:
    """What the next cycle would do to every organ with a limit, paired with what past cycles did, where the ledger knows it.

    theta : (draws, n) parameters in the next cycle. forecast : (ledger names, draws) Gy/MBq, see `gy_per_mbq`.
    """
    names = ledger_names(rung.regions)
    g = lea_catcheside_by_region(rung, theta, upcoming, tissues)
    organ_g = np.nan_to_num(effective_g(rung.regions, forecast[: len(rung.regions)], g))
    return {
        limit.organ: OrganOutlook(
            forecast[names.index(limit.organ)],
            organ_g[names.index(limit.organ)],
            ledger.cumulative(limit.organ, limit.quantity),
        )
        for limit in policy
        if limit.organ in names and ledger.knows(limit.organ, limit.quantity)
    }
