"""Absorbed dose per activity in the next cycle, draw by draw: from the twin, from the population, or carried forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tdt_core.assimilation import population_prior, state_model, transition
from tdt_core.imaging.error_budget import mass_sd_beside
from tdt_core.kinetics import KineticModel
from tdt_core.planning.outlook import Tissue, effective_g, lea_catcheside_by_region, ledger_names, with_organs
from tdt_core.planning.proposal import OrganOutlook
from tdt_core.twin import Administration, DoseLedger, Evidence, Limit, Posterior, Product, TwinState

FloatArray = npt.NDArray[np.float64]

NEXT_CYCLE, MASS, POPULATION = 13, 14, 15
"""Streams of random numbers: (root, cycle, purpose); 11 is the fit, 12 the pattern noise, 16 the smoother. Never 0: a trailing
zero gives the stream of the shorter seed."""


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


def next_parameters(rung: KineticModel, posterior: Posterior, cycle: int, dt_h: float, seed: tuple[int, ...]) -> FloatArray:
    """(draws, n) the posterior's draws carried to the next cycle, paired with them."""
    n = len(rung.parameters)
    step = transition(rung, cycle, dt_h, treated=True)
    return step.draws(posterior.draws[:, :n], np.random.default_rng([*seed, NEXT_CYCLE]))


def gy_per_mbq(
    rung: KineticModel, theta: FloatArray, administration: Administration, matrix: FloatArray, mass_factors: FloatArray
) -> FloatArray:
    """(ledger names, draws) absorbed dose per administered MBq.

    matrix : (regions, regions) Gy per MBq h, target by source. mass_factors : (draws, regions) true mass over measured mass.
    """
    tia = rung.time_integrated_activity(theta, administration)
    dose = (tia @ matrix.T) / mass_factors
    return with_organs(rung.regions, dose.T / administration.net_activity_mbq)


def mass_factor_draws(evidence: Evidence, draws: int, seed: tuple[int, ...]) -> FloatArray:
    """(draws, regions) lognormal true mass over measured mass.

    A contour that is too wide raises mass and activity together: what is drawn here is only the part of the mass error that
    the activity's segmentation error does not already carry.
    """
    sd = np.array([mass_sd_beside(r.volume_rel_sd, _segmentation(evidence, r.name)) for r in evidence.regions])
    noise = np.random.default_rng([*seed, MASS]).standard_normal((draws, len(sd)))
    return np.asarray(np.exp(sd * noise))


def _segmentation(evidence: Evidence, region: str) -> float:
    parts = [a.budget.segmentation for a in evidence.activities if a.region == region]
    return float(np.mean(parts)) if parts else 0.0


def population_gy_per_mbq(state: TwinState, draws: int, seed: tuple[int, ...]) -> FloatArray:
    """(ledger names, draws) what the population prior forecasts for this patient's regions and masses."""
    rung = state_model(state)
    rng = np.random.default_rng([*seed, POPULATION])
    theta = population_prior(rung).draws(draws, rng)
    factors = mass_factor_draws(state.evidence, draws, seed)
    return gy_per_mbq(rung, theta, state.evidence.therapy(), dose_matrix(state), factors)


def dose_matrix(state: TwinState) -> FloatArray:
    """(regions, regions) Gy per MBq h that a state keeps."""
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
    """What the next cycle would do to every organ with a limit, paired with what past cycles did.

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
        if limit.organ in names
    }
