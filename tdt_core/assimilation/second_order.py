"""A problem whose body is expanded to second order about one place: the posterior's bend for a tenth of the price of a solve.

    ln data = h0 + H w + 1/2 w' Q w,   w = R^-1 (theta - theta0),   R R' the Laplace covariance of the body's parameters

Q comes from central differences of Jacobians, one posterior sd to either side; products w_i w_j that hardly bend anything (of
different organs, most of all) are left out. What is in closed form is taken as it is: curves of their own (`Separable`), and
nuisances, in which ln data are linear.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tdt_core.assimilation.curves import Part, alone, curved, seen_curves
from tdt_core.assimilation.problem import Problem
from tdt_core.assimilation.target import Fit, Target
from tdt_core.errors import EstimationError, ModelError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

NEGLIGIBLE = 0.05
"""Products are left out that together bend the data by less than this, in sd of their error (root of the sum of squares)."""


@dataclass(frozen=True, eq=False)
class SecondOrder:
    """A `Problem` with its body expanded; meets `Solvable`.

    rows (k,), columns (b,) : data and parameters of the body. place (b,) : theta0. inverse (b, b) : R^-1.
    constant (k,), slope (k, b) : h0, H. first, second (n,), bend (k, n) : products w_first w_second and what each adds.
    curves : the rest of the model, None where there is none.
    """

    whole: Problem
    curves: Part | None
    rows: IntArray
    columns: IntArray
    place: FloatArray
    inverse: FloatArray
    constant: FloatArray
    slope: FloatArray
    first: IntArray
    second: IntArray
    bend: FloatArray

    @property
    def mean(self) -> FloatArray:
        """See `Solvable`."""
        return self.whole.mean

    @property
    def factor(self) -> FloatArray:
        """See `Solvable`."""
        return self.whole.factor

    @property
    def y(self) -> FloatArray:
        """See `Solvable`."""
        return self.whole.y

    @property
    def below(self) -> npt.NDArray[np.bool_]:
        """See `Solvable`."""
        return self.whole.below

    def jacobian(self, theta: FloatArray) -> FloatArray:
        """See `Solvable`; that of the whole problem."""
        return self.whole.jacobian(theta)

    def predict(self, theta: FloatArray) -> FloatArray:
        """See `Solvable`."""
        theta = np.atleast_2d(theta)
        out = self.whole.shifts(theta)
        w = self.inverse @ (theta[:, self.columns] - self.place).T
        out[:, self.rows] += (self.constant[:, None] + self.slope @ w + self.bend @ (w[self.first] * w[self.second])).T
        if self.curves is not None:
            part, at, own = self.curves
            out[:, at] += part.unshifted(theta[:, own[: part.n_model]])
        return out


def expanded(target: Target, fit: Fit) -> Target | None:
    """The target with its body expanded about the Laplace fit's best point.

    None where there is no body (curves alone), where it is not the problem of one cycle, and where the model has no solution
    one sd away.
    """
    problem = target.problem
    if not isinstance(problem, Problem):
        return None
    described = {r.name for r in curved(problem)}
    rows = np.array([i for i, d in enumerate(problem.data) if d.name not in described], dtype=np.intp)
    columns = np.array(
        [i for i, n in enumerate(problem.names[: problem.n_model]) if n.rpartition(".")[0] not in described], dtype=np.intp
    )
    if not rows.size or not columns.size:
        return None
    theta = target.theta(fit.z)
    covariance = fit.cholesky @ fit.cholesky.T
    root = np.linalg.cholesky(covariance[np.ix_(columns, columns)])

    away = np.zeros((len(columns), theta.size))
    away[:, columns] = root.T
    places = np.concatenate([theta + away, theta - away, theta[None]])
    target.solves[0] += places.size
    try:
        slopes = problem.jacobian(places)[:, rows][:, :, columns] @ root
    except (EstimationError, ModelError):
        return None
    ahead, behind, middle = np.split(slopes, [len(away), 2 * len(away)])
    bend = (ahead - behind) / 2.0
    if not np.isfinite(bend).all():
        return None
    seen = seen_curves(problem)
    constant = problem.unshifted(theta[None, : problem.n_model])[0, rows]
    i, j, bend = _products(0.5 * (bend + bend.transpose(2, 1, 0)), target.sd[rows])
    curves = alone(problem, seen) if seen else None
    expansion = SecondOrder(
        problem, curves, rows, columns, theta[columns], np.linalg.inv(root), constant, middle[0], i, j, bend
    )
    return Target(expansion, target.sd)


def _products(bend: FloatArray, sd: FloatArray) -> tuple[IntArray, IntArray, FloatArray]:
    """(b, k, b) Q -> each product of two directions that matters to data with errors sd (k,): i, j (n,), factors (k, n)."""
    i, j = np.triu_indices(len(bend))
    coefficients = (np.where(i == j, 0.5, 1.0)[:, None] * bend[i, :, j]).T
    weight = np.square(coefficients / sd[:, None]).sum(axis=0)
    order = np.argsort(weight)
    kept = np.sort(order[np.cumsum(weight[order]) >= NEGLIGIBLE**2])
    return i[kept], j[kept], coefficients[:, kept]
