"""How parameters move from one cycle to the next, as a linear map with Gaussian noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Transition:
    """theta' = phi theta + offset + w, w ~ N(0, noise): how parameters move from one cycle to the next.

    names (n,), phi (n,), offset (n,), noise (n, n).
    """

    names: tuple[str, ...]
    phi: FloatArray
    offset: FloatArray
    noise: FloatArray

    def moments(self, mean: FloatArray, covariance: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and covariance after the transition."""
        return self.phi * mean + self.offset, self.phi[:, None] * covariance * self.phi + self.noise

    def widened(self, factor: float) -> Transition:
        """The same with `factor` times the variance of the noise."""
        return self if factor == 1.0 else replace(self, noise=factor * self.noise)

    def draws(self, theta: FloatArray, rng: np.random.Generator) -> FloatArray:
        """(m, n) draws -> draws after the transition, paired with them."""
        root = np.linalg.cholesky(self.noise + 1e-14 * np.eye(len(self.names)))
        return np.asarray(self.phi * theta + self.offset + rng.standard_normal(theta.shape) @ root.T)
