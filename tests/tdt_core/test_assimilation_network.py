"""Laws of the network estimator: linear and curved posteriors, seeds, failed solves; without PyTorch, the remedy."""

import sys

import numpy as np
import pytest
from scipy import special

from tdt_core.assimilation import assimilate, estimators, population_prior
from tdt_core.assimilation.map_laplace import fit_map
from tdt_core.assimilation.network import available, couplings, network, slopes
from tdt_core.assimilation.target import Target
from tdt_core.errors import EstimationError
from tdt_core.kinetics import rung_for
from tdt_core.twin import Administration, Evidence, Patient, Region

needs_torch = pytest.mark.skipif(not available(), reason="PyTorch is an optional extra: uv sync --extra network")


class White:
    """A problem with a standard normal prior and any model of (m, p) -> (m, d)."""

    def __init__(self, size, y, model, slope):
        self.mean, self.factor, self.y = np.zeros(size), np.eye(size), np.asarray(y, dtype=float)
        self.below = np.zeros(self.y.size, dtype=bool)
        self.predict, self.slope = lambda theta: model(np.atleast_2d(theta)), slope

    def jacobian(self, theta):
        each = [self.slope(t) for t in np.atleast_2d(theta)]
        return np.reshape(each, (*theta.shape[:-1], self.y.size, self.mean.size))


H = np.array([[2.0, 1.0, 0.0, 0.5], [0.0, 3.0, -1.0, 0.0], [1.0, 0.0, 0.3, 0.0]])


@pytest.fixture
def straight():
    return Target(White(4, [1.0, -2.0, 0.5], lambda theta: theta @ H.T, lambda theta: H), np.array([0.5, 1.0, 0.7]))


@pytest.fixture
def bent():
    """A banana: one datum sees theta_1 + theta_0^2 / 2, nothing else sees theta_0."""
    problem = White(
        2,
        [0.5],
        lambda theta: theta[:, 1:] + 0.5 * theta[:, :1] ** 2,
        lambda theta: np.array([[theta[0], 1.0]]),
    )
    return Target(problem, np.array([0.3]))


def by_quadrature(target):
    """Log evidence, mean and covariance of a problem of two parameters on a grid."""
    axis = np.linspace(-5.0, 5.0, 801)
    z = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    log = -target.objective(z) - np.log(2.0 * np.pi)
    weight = np.exp(log - special.logsumexp(log))
    mean = weight @ z
    return special.logsumexp(log) + 2.0 * np.log(axis[1] - axis[0]), mean, (weight[:, None] * (z - mean)).T @ (z - mean)


@needs_torch
def test_a_gauss_linear_problem_gives_the_kalman_update_and_its_evidence(straight):
    h, d = H / straight.sd[:, None], straight.problem.y / straight.sd
    covariance = np.linalg.inv(h.T @ h + np.eye(4))
    mean = covariance @ h.T @ d
    fit = network(straight, np.random.default_rng(1), steps=60, draws=4000)
    sd = np.sqrt(np.diag(covariance))
    assert np.abs((fit.theta - mean) / sd).max() < 0.1
    np.testing.assert_allclose(fit.cholesky @ fit.cholesky.T / np.outer(sd, sd), covariance / np.outer(sd, sd), atol=0.08)
    spread = h @ h.T + np.eye(3)
    evidence = -0.5 * d @ np.linalg.solve(spread, d) - 0.5 * np.linalg.slogdet(spread)[1]
    assert fit.notes["elbo"] == pytest.approx(evidence, abs=0.01)
    assert fit.notes["log_evidence"] == pytest.approx(evidence, abs=0.01)
    assert fit.notes["effective_size"] > 0.98 * 4000


@needs_torch
def test_training_finds_a_gaussian_that_it_does_not_start_from():
    """The trained flow, not its start, is the posterior: J of a shifted, correlated Gaussian, from the identity."""
    flows, rng = couplings(), np.random.default_rng(2)
    root = np.array([[0.7, 0.0, 0.0], [0.5, 1.3, 0.0], [-0.3, 0.2, 1.0]])
    centre, precision = np.array([1.0, -0.5, 0.3]), np.linalg.inv(root @ root.T)
    with flows.one_thread():
        flow = flows.identity(3, 2, 8, rng)
        flow = flows.train(
            flow, lambda w: ((w - centre) @ precision, np.ones(len(w), dtype=bool)), rng, steps=300, batch=16, rate=0.03
        )
        w, log_q = flows.draw(flow, rng.standard_normal((4000, 3)))
    assert np.abs(w.mean(axis=0) - centre).max() < 0.1
    np.testing.assert_allclose(np.cov(w, rowvar=False), root @ root.T, atol=0.15)
    exact = -0.5 * np.einsum("mi,ij,mj->m", w - centre, precision, w - centre) - np.log(np.diag(root)).sum()
    assert (log_q - exact + 1.5 * np.log(2.0 * np.pi)).mean() == pytest.approx(0.0, abs=0.03)  # the divergence, nats


@needs_torch
def test_the_flow_and_its_inverse_are_one_another_and_its_density_is_that_of_its_map():
    import torch

    flows, rng = couplings(), np.random.default_rng(3)
    for size in (1, 2, 5):
        flow = {
            name: value + 0.3 * torch.from_numpy(rng.standard_normal(value.shape)) if value.is_floating_point() else value
            for name, value in flows.identity(size, 4, 6, rng).items()
        }
        u = torch.from_numpy(rng.standard_normal((6, size)))
        w, volume = flows.push(flow, u)
        back, same = flows.pull(flow, w)
        np.testing.assert_allclose(back, u, atol=1e-9)
        np.testing.assert_allclose(same, volume, atol=1e-9)
        slope = torch.autograd.functional.jacobian(lambda x, flow=flow: flows.push(flow, x[None])[0][0], u[0])
        assert float(torch.linalg.slogdet(slope)[1]) == pytest.approx(float(volume[0]), abs=1e-9)


@needs_torch
def test_a_bent_posterior_is_followed_where_the_laplace_gaussian_is_wrong(bent):
    evidence, mean, covariance = by_quadrature(bent)
    gauss = fit_map(bent, np.random.default_rng(1), starts=1)
    fit = network(bent, np.random.default_rng(1), steps=600, batch=32, rate=0.02, draws=4000)
    sd = np.sqrt(np.diag(covariance))

    def wrong(found):
        return np.abs((found.theta - mean) / sd).max(), np.abs(np.linalg.norm(found.cholesky, axis=1) / sd - 1.0).max()

    assert wrong(gauss)[0] > 0.3 or wrong(gauss)[1] > 0.3  # else the case tells nothing
    assert max(wrong(fit)) < 0.15
    assert max(wrong(fit)) < 0.5 * max(wrong(gauss))
    assert fit.notes["elbo_laplace"] < fit.notes["elbo"] < evidence + 0.02
    assert evidence - fit.notes["elbo"] < 0.1
    assert fit.notes["log_evidence"] == pytest.approx(evidence, abs=0.05)


@needs_torch
def test_the_same_seed_gives_the_same_draws_and_another_one_others(bent):
    a, b, c = (network(bent, np.random.default_rng(s), steps=20).sample for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@needs_torch
def test_threads_of_torch_are_as_they_were(bent):
    import torch

    before = torch.get_num_threads()
    network(bent, np.random.default_rng(1), steps=2)
    assert torch.get_num_threads() == before


class Broken(White):
    """No solution where theta_0 is above a limit, as a solver that gives up."""

    def __init__(self, limit):
        def model(theta):
            if (theta[:, 0] > limit).any():
                raise EstimationError("no solution")
            return theta[:, :1] + theta[:, 1:]

        super().__init__(2, [0.0], model, lambda theta: np.array([[1.0, 1.0]]))


@needs_torch
def test_draws_without_a_solution_are_left_out_and_counted():
    fit = network(Target(Broken(0.5), np.ones(1)), np.random.default_rng(1), steps=50)
    assert fit.notes["failed_members"] > 0
    assert fit.sample[:, 0].max() <= 0.5
    assert 100 < len(fit.sample) < 500
    assert np.isfinite(fit.residual).all()


@needs_torch
def test_a_model_without_any_solution_is_refused():
    with pytest.raises(EstimationError, match="no solution"):
        network(Target(Broken(-10.0), np.ones(1)), np.random.default_rng(1), steps=5)


@needs_torch
@pytest.mark.parametrize("option", [{"batch": 5}, {"batch": 0}, {"steps": 0}, {"rate": -1.0}])
def test_options_that_train_nothing_are_refused(bent, option):
    with pytest.raises(EstimationError, match="even batch") as refused:
        network(bent, np.random.default_rng(1), **option)
    assert refused.value.kind == "estimation.options"


def test_slopes_are_those_of_the_objective_and_say_where_there_is_none(bent):
    z = np.array([[0.3, -0.4], [1.0, 2.0]])
    slope, there = slopes(bent, z)
    step = 1e-5 * np.eye(2)
    numeric = [(bent.objective(z + e) - bent.objective(z - e)) / 2e-5 for e in step]
    np.testing.assert_allclose(slope, np.transpose(numeric), rtol=1e-6)
    assert there.all()
    slope, there = slopes(Target(Broken(0.5), np.ones(1)), z)
    assert there.tolist() == [True, False]
    assert (slope[1] == 0.0).all()


def test_without_torch_the_estimator_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it fails from here on
    monkeypatch.delitem(sys.modules, "tdt_core.assimilation.couplings", raising=False)
    monkeypatch.delattr("tdt_core.assimilation.couplings", raising=False)
    region = Region("kidney_left", "kidneys", "64033007", "left", volume_ml=160.0, mass_g=168.0)
    rung = rung_for("sum_of_exponentials", "PSMA-617", (region,))
    given = Administration(0.0, "Lu-177-PSMA-617", "PSMA-617", "Lu-177", 7400.0, amount_nmol=90.0)
    evidence = Evidence(1, Patient("p1", "male", 70.0, 175.0, 80.0), (given,), (region,))
    with pytest.raises(EstimationError, match="uv sync --extra network") as refused:
        assimilate(population_prior(rung), evidence, rung, "network")
    assert refused.value.kind == "estimation.no_torch"


def test_it_is_on_the_list_exactly_where_torch_is():
    assert ("network" in estimators()) == available()
