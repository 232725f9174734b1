"""Markov chain Monte Carlo, the long reference: the No-U-Turn sampler of the package mici, preconditioned by the Laplace fit.

Chains start from draws of the Laplace Gaussian and move in its coordinates, where a posterior that is nearly Gaussian is nearly
the standard normal. A place without a solution has no density and ends a trajectory. Split R-hat and effective sample size are
noted.
"""

from __future__ import annotations

from typing import Any

import mici
import numpy as np
import numpy.typing as npt

from tdt_core.assimilation.map_laplace import fit_map
from tdt_core.assimilation.target import Fit, Target, sampled

FloatArray = npt.NDArray[np.float64]


def mcmc(
    target: Target, rng: np.random.Generator, draws: int = 500, chains: int = 4, warm_up: int = 200, most_steps: int = 7
) -> Fit:
    """No-U-Turn sampling: `chains` of `draws` after `warm_up`, trajectories of at most 2^most_steps steps."""
    start = target.best or fit_map(target, rng)
    factor = np.linalg.inv(np.linalg.cholesky(start.whitened_jacobian.T @ start.whitened_jacobian + np.eye(target.size))).T

    def place(u: FloatArray) -> FloatArray:
        return np.asarray(start.z + factor @ u)

    def value(u: FloatArray) -> float:
        return float(target.objective(place(u))[0])

    def slope(u: FloatArray) -> tuple[FloatArray, float]:
        z = place(u)
        r = target.residuals(z)[0]
        if not np.isfinite(r).all():
            return np.zeros(target.size), np.inf
        return factor.T @ (z - target.jacobian(z).T @ r), 0.5 * float(r @ r + z @ z)

    system = mici.systems.EuclideanMetricSystem(neg_log_dens=value, grad_neg_log_dens=slope)
    sampler = mici.samplers.DynamicMultinomialHMC(
        system, mici.integrators.LeapfrogIntegrator(system), rng, max_tree_depth=most_steps
    )
    found = sampler.sample_chains(
        warm_up,
        draws,
        [rng.standard_normal(target.size) for _ in range(chains)],
        adapters=[mici.adapters.DualAveragingStepSizeAdapter(0.8)],
        trace_funcs=[_position],
        display_progress=False,
        n_worker=1,
        trace_warm_up=False,
    )
    u = np.stack([np.asarray(chain) for chain in found.traces["u"]])
    z = start.z + u.reshape(-1, target.size) @ factor.T
    r_hat, size = split_r_hat(u), effective_size(u)
    notes = {"chains": chains, "r_hat": float(r_hat.max()), "effective_size": float(size.min())}
    return sampled(target, z, objectives=start.objectives, distinct_optima=start.distinct_optima, notes=notes)


def _position(state: Any) -> dict[str, FloatArray]:
    return {"u": state.pos}


def split_r_hat(chains: FloatArray) -> FloatArray:
    """(chains, draws, p) -> (p,) split R-hat of Gelman et al. 2013; 1 for chains that cannot be told apart."""
    half = chains.shape[1] // 2
    parts = np.concatenate([chains[:, :half], chains[:, half : 2 * half]])
    within = parts.var(axis=1, ddof=1).mean(axis=0)
    between = parts.mean(axis=1).var(axis=0, ddof=1)
    return np.asarray(np.sqrt((half - 1) / half + between / within))


def effective_size(chains: FloatArray) -> FloatArray:
    """(chains, draws, p) -> (p,) effective number of independent draws (Geyer's initial positive sequence)."""
    m, n, _ = chains.shape
    centred = chains - chains.mean(axis=1, keepdims=True)
    spectrum = np.fft.rfft(centred, 2 * n, axis=1)
    covariance = np.fft.irfft(spectrum * spectrum.conj(), axis=1)[:, :n].mean(axis=0) / n
    within = covariance[0] * n / (n - 1)
    pooled = within * (n - 1) / n + (chains.mean(axis=1).var(axis=0, ddof=1) if m > 1 else 0.0)
    rho = 1.0 - (within - covariance) / pooled
    pairs = rho[0 : 2 * (n // 2) : 2] + rho[1 : 2 * (n // 2) : 2]
    positive = np.cumprod(pairs > 0, axis=0).astype(bool)
    time = -1.0 + 2.0 * np.where(positive, pairs, 0.0).sum(axis=0)
    return np.asarray(m * n / np.maximum(time, 1.0 / np.log10(max(m * n, 10))))
