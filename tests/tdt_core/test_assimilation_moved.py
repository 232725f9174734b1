"""Laplace draws moved to the posterior itself: nothing where it is that Gaussian, quadrature where it is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tdt_core.assimilation.crank_nicolson import crank_nicolson
from tdt_core.assimilation.map_laplace import _corrected, _Gaussian, _Rounds, _settled, descend, descents, fit_map, moved
from tdt_core.assimilation.target import Target
from tdt_core.errors import EstimationError


class Bent:
    """Two parameters, one datum y = (exp(bend * a) - 1) / bend + b: skew and bent where bend is not 0, with one mode."""

    def __init__(self, bend, y=1.0, hole=None, blind=None):
        self.bend, self.hole, self.blind = bend, hole, blind
        self.mean, self.factor = np.zeros(2), np.array([[1.0, 0.0], [0.3, 0.8]])
        self.y, self.below = np.array([y]), np.array([False])

    def predict(self, theta):
        theta = np.atleast_2d(theta)
        if self.hole is not None and (theta[:, 0] > self.hole).any():
            raise EstimationError("no solution there")
        a = theta[:, :1]
        return (np.expm1(self.bend * a) / self.bend if self.bend else a) + theta[:, 1:]

    def jacobian(self, theta):
        a = theta[..., :1]
        if self.blind is not None and (a > self.blind).any():
            raise EstimationError("no gradient there")
        return np.stack([np.exp(self.bend * a), np.ones_like(a)], axis=-1)


def both(bend, sd=0.3, seed=1, members=4000, **more):
    target = Target(Bent(bend, **more), np.array([sd]))
    rng = np.random.default_rng(seed)
    fit = fit_map(target, rng)
    return target, fit, moved(target, fit, rng, members)


def by_quadrature(target):
    """Mean (2,), sd (2,) and skewness (2,) of theta on a fine grid of z."""
    axis = np.linspace(-7, 7, 1401)
    z = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    weight = np.exp(-target.objective(z))
    theta = target.theta(z)
    mean = weight @ theta / weight.sum()
    sd = np.sqrt(weight @ (theta - mean) ** 2 / weight.sum())
    return mean, sd, weight @ ((theta - mean) / sd) ** 3 / weight.sum()


def test_where_the_posterior_is_the_gaussian_the_fit_stays_as_it_is():
    _, fit, found = both(0.0)
    assert found is fit


@pytest.mark.parametrize("y", [0.6, 1.0, 1.4])
def test_a_bent_posterior_is_that_of_quadrature_where_the_gaussian_is_not(y):
    target, fit, found = both(0.3, y=y)
    mean, sd, skewness = by_quadrature(target)
    lean = np.abs(fit.theta - mean) / sd
    assert lean.max() > 0.1
    for moments in (found.theta, found.sample.mean(axis=0)):
        assert (np.abs(moments - mean) / sd < np.maximum(0.3 * lean, 0.04)).all()
    np.testing.assert_allclose(found.sample.std(axis=0), sd, rtol=0.06)
    assert (np.sign(stats.skew(found.sample)) == np.sign(skewness)).all()


def test_data_are_still_compared_at_the_best_point():
    _, fit, found = both(1.0)
    np.testing.assert_array_equal(found.z, fit.z)
    np.testing.assert_array_equal(found.residual, fit.residual)
    assert found.notes["mixed"]


def test_draws_keep_out_of_where_the_model_has_no_solution_and_too_many_are_a_refusal():
    target, _, found = both(0.3, hole=1.2)
    assert found.notes["draws_without_solution"] > 0
    assert np.isfinite(target.objective(np.linalg.solve(target.problem.factor, found.sample.T).T)).all()
    assert found.sample[:, 0].max() <= 1.2
    with pytest.raises(EstimationError, match="no solution in"):
        both(0.3, hole=0.5)


class Holed(Bent):
    """The same with NaN where there is no solution, as batches of solves give it."""

    def __init__(self, bend, without_above):
        super().__init__(bend)
        self.without_above = without_above

    def predict(self, theta):
        theta = np.atleast_2d(theta)
        return np.where(theta[:, :1] > self.without_above, np.nan, super().predict(theta))


def after_an_expansion(bend, hole, sd=0.3, members=2000):
    """Members of Bent with a hole by way of one without, which stands for an expansion that sees no hole."""
    near, target = Target(Bent(bend), np.array([sd])), Target(Holed(bend, hole), np.array([sd]))
    rng = np.random.default_rng(1)
    fit = fit_map(near, rng)
    about = _Gaussian(fit.z, np.linalg.cholesky(np.linalg.inv(fit.whitened_jacobian.T @ fit.whitened_jacobian + np.eye(2))))
    z = about.places(rng.standard_normal((members, 2)))
    return target, *_corrected(target, near, _settled(near, about, z, rng, 0, _Rounds(60, 120, early=False)), rng, 0)


def test_members_of_an_expansion_without_a_solution_are_counted_left_and_too_many_are_a_refusal():
    target, found, _, lost = after_an_expansion(0.3, hole=1.2)
    mean, sd, _ = by_quadrature(target)
    assert 0 < lost < 0.2 * len(found.z)
    assert target.theta(found.z)[:, 0].max() <= 1.2
    np.testing.assert_allclose(target.theta(found.z).mean(axis=0), mean, atol=0.06 * sd.max())
    with pytest.raises(EstimationError, match="no solution in"):
        after_an_expansion(0.3, hole=0.5)


class Parabola(Bent):
    """One datum (a - lean)^2: two optima, equal where `lean` is 0, at which a search has no slope to begin with."""

    def __init__(self, lean):
        super().__init__(1.0)
        self.lean, self.mean, self.factor = lean, np.zeros(1), np.eye(1)

    def predict(self, theta):
        return (np.atleast_2d(theta) - self.lean) ** 2

    def jacobian(self, theta):
        return 2.0 * (theta[..., None] - self.lean)


@pytest.mark.parametrize("lean", [0.01, 0.5])
@pytest.mark.parametrize("starts", [12, 24])
def test_optima_are_counted_and_not_the_searches_that_end_in_them(lean, starts):
    fit = fit_map(Target(Parabola(lean), np.array([0.1])), np.random.default_rng(2), starts)
    assert len(fit.objectives) == starts
    assert fit.distinct_optima == 2
    assert fit_map(Target(Bent(1.0), np.array([0.1])), np.random.default_rng(2), starts).distinct_optima == 1


def test_no_move_leaves_the_laplace_fit():
    target = Target(Bent(1.0), np.array([0.3]))
    fit = fit_map(target, np.random.default_rng(1))
    assert moved(target, fit, np.random.default_rng(2), most_moves=0) is fit


def test_moves_keep_a_skew_target_and_forget_where_they_began():
    """Members that begin as the target's own stay that; ones that begin elsewhere become it."""
    rng = np.random.default_rng(3)
    shape = stats.skewnorm(4.0)

    def evaluate(u):
        return (shape.logpdf(u) - stats.norm.logpdf(u)).sum(axis=1), u[:, 0]

    for start in (shape.rvs(size=(4000, 2), random_state=rng), rng.standard_normal((4000, 2))):
        found = crank_nicolson(evaluate, start, rng, mixed=2.0, most=60)
        assert (found.made, found.mixed) == (60, False)
        assert stats.kstest(found.u.ravel(), shape.cdf).pvalue > 0.01
        np.testing.assert_array_equal(found.carried, found.u[:, 0])


def test_coordinates_that_no_gaussian_describes_do_not_hold_up_the_rest():
    """Two easy coordinates, a heavy-tailed one that begins right: with it staying every other time all are mixed sooner."""
    heavy = stats.t(2.5)

    def evaluate(u):
        return heavy.logpdf(u[:, 2]) - stats.norm.logpdf(u[:, 2]), u[:, 0]

    made = {}
    for staying in (0, 1):
        rng = np.random.default_rng(4)
        start = np.column_stack([rng.standard_normal((4000, 2)), heavy.rvs(4000, random_state=rng)])
        found = crank_nicolson(evaluate, start, rng, mixed=0.95, most=200, staying=staying)
        made[staying] = found.made
        assert stats.kstest(found.u[:, 2], heavy.cdf).pvalue > 0.01
        assert stats.kstest(found.u[:, :2].ravel(), stats.norm.cdf).pvalue > 0.01
    assert made[1] < made[0]


def test_searches_side_by_side_end_where_each_ends_alone():
    """One of them begins where there is no solution, one where there is no gradient: they stay there and say so."""
    target = Target(Bent(1.5, hole=3.0, blind=2.5), np.array([0.1]))
    starts = np.vstack([np.random.default_rng(3).standard_normal((6, 2)), [2.8, 0.0], [4.0, 0.0]])
    values, places = descents(target, starts)
    for start, value, place in zip(starts, values, places, strict=True):
        alone = descend(target, start)
        assert alone[0] == pytest.approx(value, abs=1e-9)
        np.testing.assert_allclose(alone[1], place, atol=1e-7)
    assert np.isinf(values[-2:]).all()
    np.testing.assert_array_equal(places[-2:], starts[-2:])
    np.testing.assert_allclose(values[:-2], values[0], atol=1e-4)
