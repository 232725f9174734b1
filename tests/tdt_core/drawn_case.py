"""A cycle drawn from the very problem that is fitted, and its exact posterior by weighted draws of the prior."""

from __future__ import annotations

import numpy as np

from tdt_core.assimilation import build_problem, population_prior
from tdt_core.assimilation.experiment import simulated
from tdt_core.assimilation.target import Target
from tdt_core.kinetics import rung_for
from tdt_core.twin import Administration, ErrorBudget, Evidence, Patient, Region, RegionActivity

KIDNEYS = tuple(Region(f"kidney_{s}", "kidneys", "64033007", s, volume_ml=160.0, mass_g=168.0) for s in ("left", "right"))
LESION = Region("lesion/L1", "lesions", "52988006", tracking_id="L1", volume_ml=12.0, mass_g=12.5)
LIVER = Region("liver", "liver", "10200004", volume_ml=1700.0, mass_g=1780.0)
GIVEN = Administration(0.0, "Lu-177-PSMA-617", "PSMA-617", "Lu-177", 7400.0, amount_nmol=90.0)
BUDGET = ErrorBudget(counts=0.08, calibration=0.05, partial_volume=0.05, segmentation=0.03, registration=0.02)
TIMES = (24.0, 72.0, 150.0)


def drawn(regions, seed, name="sum_of_exponentials", budget=BUDGET, times=TIMES):
    """Rung, its population's prior, and evidence of one patient of that population."""
    data = [
        RegionActivity(region.name, t, 1.0, 1.0, 1.0, budget, f"scan-{t}", "SPECT", "Lu-177", "cal")
        for region in regions
        for t in times
    ]
    plan = Evidence(1, Patient("p1", "male", 70.0, 175.0, 80.0), (GIVEN,), regions, tuple(data))
    rng = np.random.default_rng(seed)
    rung = rung_for(name, "PSMA-617", regions)
    prior = population_prior(rung)
    return rung, prior, simulated(plan, rung, prior.draws(1, rng)[0], rng)


def target_of(rung, prior, evidence):
    problem = build_problem(prior, evidence, rung)
    return Target(problem, problem.sd)


def by_importance(rung, prior, evidence, count):
    """Mean and sd of the parameters from weighted draws of the prior, and their effective number."""
    target = target_of(rung, prior, evidence)
    z = np.random.default_rng(9).standard_normal((count, target.size))
    log_weight = -0.5 * np.square(target.residuals(z)).sum(axis=1)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    theta = target.theta(z)
    mean = weight @ theta
    return mean, np.sqrt(weight @ (theta - mean) ** 2), 1.0 / (weight @ weight)
