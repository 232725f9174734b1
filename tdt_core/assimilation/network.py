"""A physics-informed network: a normalising flow that learns one patient's posterior through the model's own equations.

The flow (`couplings.py`) is trained without a single simulated patient or label. Its loss is the negative evidence lower bound

    KL(q || p(z | y)) + constant = E_q[ J(z) + ln q(z) ]

and J runs every draw of the flow through the rung's forward solver; its gradient comes back through the rung's own Jacobian.
So the differential equations hold exactly in every draw, for any rung, and the network represents only what is not known. A
physics-informed network by collocation (Raissi et al. 2019) does the reverse: the network stands for the curves, the equations
are a penalty at chosen times, and one set of parameters is fitted along with the curves; it gives no posterior. An amortised
network, trained on simulated patients to answer at once, would be a third kind, and is not here.

The flow works in the coordinates of a Laplace fit and begins as that Gaussian, so what it learns is how the
posterior differs from it: bends, skewness, wrong widths. It starts from one mode, and as every fit of this divergence it is
rather too narrow than too wide.
"""

from __future__ import annotations

from importlib.util import find_spec
from types import ModuleType

import numpy as np
import numpy.typing as npt
from scipy import special

from tdt_core.assimilation.map_laplace import fit_map
from tdt_core.assimilation.target import Fit, Target, by_halves, check_members, laplace, sampled
from tdt_core.errors import EstimationError

FloatArray = npt.NDArray[np.float64]


def available() -> bool:
    """Whether PyTorch is installed; it is not imported for the answer."""
    return find_spec("torch") is not None


def couplings() -> ModuleType:
    """The module of the flow, which imports PyTorch. Raises EstimationError with the remedy where that fails."""
    try:
        from tdt_core.assimilation import couplings as module
    except ImportError as error:
        raise EstimationError(
            f"the estimator network needs PyTorch, which cannot be imported ({error})",
            expected="the optional extra `network`",
            remedy="install it by `uv sync --extra network`, or `pip install theranostic-digital-twin[network]`; or use the "
            "estimator map",
            kind="estimation.no_torch",
        ) from error
    return module


def network(
    target: Target,
    rng: np.random.Generator,
    steps: int = 200,
    batch: int = 8,
    layers: int = 4,
    width: int = 32,
    rate: float = 0.005,
    draws: int = 500,
) -> Fit:
    """Variational fit by a normalising flow: `steps` of `batch` draws, a Jacobian each; then a sample of `draws`.

    Notes name the evidence lower bound before and after training (nats, of residuals in units of their error, so where all is
    linear and Gaussian the second is the log evidence), the importance estimate of the log evidence, the effective sample size
    of the importance weights (equal to `draws` for a perfect flow), and how many draws had no solution. Those are left out of
    the gradients and of the sample, and both bounds hold for the others.

    Raises
    ------
    EstimationError : PyTorch is missing; an option is no count or an odd batch; the Laplace fit has no finite objective; fewer
        than two draws have a solution.
    """
    flows = couplings()
    if steps < 1 or batch < 2 or batch % 2 or layers < 1 or width < 1 or rate <= 0:
        raise EstimationError(
            f"steps {steps}, batch {batch}, layers {layers}, width {width}, rate {rate}",
            expected="all above zero, and an even batch: draws come in pairs",
            kind="estimation.options",
        )
    if not target.sd.size:
        return laplace(target, np.zeros(target.size))
    start = target.best or fit_map(target, rng, starts=1)
    root = np.linalg.cholesky(start.whitened_jacobian.T @ start.whitened_jacobian + np.eye(target.size))
    factor = np.linalg.inv(root).T  # z = centre + factor w; w is standard normal under the Laplace Gaussian
    lost = 0

    def gradient(w: FloatArray) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        nonlocal lost
        slope, there = slopes(target, start.z + w @ factor.T)
        lost += int((~there).sum())
        return slope @ factor, there

    with flows.one_thread():
        flow = flows.identity(target.size, layers, width, rng)
        u = rng.standard_normal((draws, target.size))
        before = _evidence(target, start, factor, *flows.draw(flow, u))[0]
        flow = flows.train(flow, gradient, rng, steps, batch, rate)
        w, log_q = flows.draw(flow, u)
    after, whole, effective, solved = _evidence(target, start, factor, w, log_q)
    notes = {
        "elbo_laplace": before,
        "elbo": after,
        "log_evidence": whole,
        "effective_size": effective,
        "steps": steps,
        "failed_members": lost + int((~solved).sum()),
    }
    z = start.z + w[solved] @ factor.T
    return sampled(target, z, objectives=start.objectives, distinct_optima=start.distinct_optima, notes=notes)


def slopes(target: Target, z: FloatArray) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """(m, p) -> (m, p) gradient of J by the rung's sensitivities, zero where there is no solution; (m,) where there is one."""
    residuals = target.residuals(z)
    there = np.asarray(np.isfinite(residuals).all(axis=1))
    h = by_halves(target.jacobian, z[there], residuals.shape[1], z.shape[1])
    slope = np.zeros_like(z)
    slope[there] = z[there] - np.einsum("mdp,md->mp", h, residuals[there])
    there &= np.isfinite(slope).all(axis=1)
    return np.where(there[:, None], slope, 0.0), there


def _evidence(
    target: Target, start: Fit, factor: FloatArray, w: FloatArray, log_q: FloatArray
) -> tuple[float, float, float, npt.NDArray[np.bool_]]:
    """Evidence lower bound and its importance estimate (nats), effective sample size, (m,) which draws have a solution."""
    objective = target.objective(start.z + w @ factor.T)
    solved = np.isfinite(objective)
    check_members(int(solved.sum()))
    constant = 0.5 * target.size * np.log(2.0 * np.pi)
    volume = float(np.linalg.slogdet(factor)[1])
    log_weight = (-objective - constant - (log_q - volume))[solved]
    effective = np.exp(2.0 * special.logsumexp(log_weight) - special.logsumexp(2.0 * log_weight))
    whole = special.logsumexp(log_weight) - np.log(len(log_weight))
    return float(log_weight.mean()), float(whole), float(effective), solved
