"""Laws of profiles: closed form where all is linear, invariance, what bounds them and what does not, no fit below them."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy import stats

from tdt_core.assimilation import assimilate, build_problem, population_prior
from tdt_core.assimilation.experiment import simulated
from tdt_core.assimilation.profile import REACH, WIDE, Scalar, log_quantity, parameter, profile, profiles
from tdt_core.assimilation.target import Target
from tdt_core.errors import EstimationError
from tdt_core.kinetics import rung_for
from tdt_core.twin import Administration, ErrorBudget, Evidence, Patient, Region, RegionActivity

HALF = float(np.sqrt(stats.chi2.ppf(0.9, 1)))  # half-width of a 90 % interval in sd


@dataclass(frozen=True)
class Small:
    """A problem of a few parameters whose data are any function of them, with differences as its gradient."""

    data: object
    y: np.ndarray
    mean: np.ndarray
    factor: np.ndarray
    n_model: int
    names: tuple[str, ...] = ("a", "b", "c")
    below: np.ndarray = field(default=None)

    def predict(self, theta):
        return np.array([self.data(t) for t in np.atleast_2d(theta)])

    def jacobian(self, theta):
        steps = 1e-5 * np.eye(theta.shape[-1])
        at = [np.array([(self.data(t + s) - self.data(t - s)) / 2e-5 for s in steps]).T for t in np.atleast_2d(theta)]
        return np.reshape(at, (*theta.shape[:-1], *at[0].shape))


def small(data, y, sd=1.0, n_model=None, factor=None):
    y = np.atleast_1d(np.asarray(y, float))
    n = np.size(sd) if np.ndim(sd) else 3
    factor = np.diag(np.broadcast_to(sd, n)).astype(float) if factor is None else factor
    names = ("a", "b", "c")[:n]
    return Small(data, y, np.zeros(n), factor, n if n_model is None else n_model, names, np.zeros(y.size, bool))


def at(problem, i):
    unit = np.eye(problem.mean.size)[i]
    return Scalar(f"x{i}", lambda theta: np.atleast_2d(theta)[:, i], lambda theta: unit)


def gaussian(problem, h, sd, factor):
    precision = h.T @ np.diag(1 / sd**2) @ h + np.linalg.inv(factor @ factor.T)
    covariance = np.linalg.inv(precision)
    return covariance @ h.T @ np.diag(1 / sd**2) @ problem.y, covariance


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("basis", ["posterior", "likelihood"])
def test_where_all_is_linear_the_profile_is_the_parabola_of_the_gaussian(seed, basis):
    rng = np.random.default_rng(seed)
    h, sd = rng.standard_normal((6, 3)), rng.uniform(0.1, 0.5, 6)
    factor = np.tril(rng.standard_normal((3, 3))) + 2 * np.eye(3)
    factor[2, :2] = 0.0  # the last is a nuisance, independent of the model's parameters
    problem = small(lambda t: h @ t, rng.standard_normal(6), n_model=2, factor=factor)
    wide = factor.copy()
    wide[:2, :2] *= WIDE if basis == "likelihood" else 1.0
    mean, covariance = gaussian(problem, h, sd, wide)
    direction = rng.standard_normal(3)
    g = Scalar("g", lambda theta: np.atleast_2d(theta) @ direction, lambda theta: direction)
    found = profile(problem, sd, np.zeros(3), g, basis)
    centre, spread = float(direction @ mean), float(np.sqrt(direction @ covariance @ direction))
    assert found.best == pytest.approx(centre, abs=1e-3 * spread)
    assert (found.low, found.high) == pytest.approx((centre - HALF * spread, centre + HALF * spread), abs=0.015 * spread)
    assert found.laplace == pytest.approx((centre - HALF * spread, centre + HALF * spread), abs=2e-3 * spread)
    np.testing.assert_allclose(found.rise, 0.5 * ((found.values - centre) / spread) ** 2, atol=2e-3)


def test_what_only_a_product_of_two_is_seen_of_is_bounded_by_the_prior_alone():
    problem = small(lambda t: np.array([t[0] + t[1]]), [0.3], sd=np.array([1.0, 1.0]))
    sd = np.array([0.05])
    one, other = (profile(problem, sd, np.zeros(2), at(problem, 0), basis) for basis in ("posterior", "likelihood"))
    assert one.bounded
    assert one.high - one.low == pytest.approx(2 * HALF * np.sqrt(0.5), rel=0.02)
    assert (other.low, other.high) == (None, None)
    assert not other.bounded
    assert other.values.min() < -0.9 * REACH < 0.9 * REACH < other.values.max()
    total = Scalar("sum", lambda theta: np.atleast_2d(theta).sum(axis=1), lambda theta: np.ones(2))
    seen = profile(problem, sd, np.zeros(2), total, "likelihood")
    assert (seen.low, seen.high) == pytest.approx((0.3 - HALF * 0.05, 0.3 + HALF * 0.05), abs=0.002)


def test_a_level_that_data_only_limit_from_above_has_one_end():
    """What is seen is ln(1 + e^a), flat for small a."""
    problem = small(lambda t: np.logaddexp(0.0, t), [0.05], sd=np.array([2.0]))
    found = profile(problem, np.array([0.1]), np.zeros(1), at(problem, 0), "likelihood")
    assert found.low is None
    assert found.high == pytest.approx(np.log(np.expm1(0.05 + HALF * 0.1)), abs=0.1)


def test_the_interval_of_a_rising_function_is_the_function_of_the_interval():
    problem = small(lambda t: np.array([np.exp(t[0]), t[0] + 0.5 * t[1] ** 2]), [1.2, 0.4], sd=np.array([0.7, 0.7]))
    sd = np.array([0.4, 0.3])
    plain = profile(problem, sd, np.zeros(2), at(problem, 0))
    bent = Scalar(
        "e^2a", lambda theta: np.exp(2 * np.atleast_2d(theta)[:, 0]), lambda theta: np.array([2 * np.exp(2 * theta[0]), 0.0])
    )
    found = profile(problem, sd, np.zeros(2), bent)
    assert np.log([found.low, found.high]) / 2 == pytest.approx((plain.low, plain.high), abs=0.01)
    assert abs(np.log(found.laplace[1]) / 2 - plain.high) > 0.02  # which the Gaussian of the curvature is not


def test_from_the_worse_of_two_optima_the_better_one_is_found():
    """The data are a^2 = 1; the prior's mean is nearer to +1."""
    problem = small(lambda t: t**2, [1.0], sd=np.array([1.0]))
    problem = Small(problem.data, problem.y, np.array([0.3]), problem.factor, 1, problem.names, problem.below)
    found = profile(problem, np.array([0.8]), np.array([-1.0]), at(problem, 0))
    assert found.best == pytest.approx(0.95, abs=0.1)
    assert found.moved > 0.1
    assert found.rise.min() == 0.0


REGIONS = (
    Region("kidney_left", "kidneys", "64033007", "left", volume_ml=160.0, mass_g=168.0),
    Region("lesion/L1", "lesions", "52988006", tracking_id="L1", volume_ml=12.0, mass_g=12.5),
)
GIVEN = Administration(0.0, "Lu-177-PSMA-617", "PSMA-617", "Lu-177", 7400.0, amount_nmol=90.0)
BUDGET = ErrorBudget(counts=0.03, calibration=0.04, partial_volume=0.05, segmentation=0.03, registration=0.02)


def planned(hours):
    data = tuple(
        RegionActivity(r.name, t, 1.0, 1.0, 1.0, BUDGET, f"s{t}", "SPECT", "Lu-177", "cal") for t in hours for r in REGIONS
    )
    return Evidence(1, Patient("p1", "male", 70.0, 175.0, 80.0), (GIVEN,), REGIONS, data)


@pytest.fixture(scope="module")
def fitted():
    rung = rung_for("sum_of_exponentials", "PSMA-617", REGIONS)
    prior = population_prior(rung)
    rng = np.random.default_rng(4)
    evidence = simulated(planned((4.0, 24.0, 72.0, 168.0)), rung, prior.draws(1, rng)[0], rng)
    return prior, evidence, rung, assimilate(prior, evidence, rung)


def kidney(rung):
    return lambda problem: (log_quantity(problem, "kidney", lambda x: rung.time_integrated_activity(x, GIVEN)[:, 0]),)


def test_a_well_measured_dose_has_nearly_its_laplace_interval_and_no_fit_lies_below_the_profile(fitted):
    prior, evidence, rung, posterior = fitted
    for found in profiles(prior, evidence, rung, posterior, kidney(rung)):
        width = found.laplace[1] - found.laplace[0]
        assert found.bounded
        assert np.abs(np.array([found.low, found.high]) - found.laplace).max() < 0.1 * width
    one = profiles(prior, evidence, rung, posterior, kidney(rung), bases=("posterior",))[0]
    target = Target(build_problem(prior, evidence, rung), np.array([row["sd_log"] for row in posterior.fit_report]))
    z = np.linalg.solve(target.problem.factor, (posterior.draws - target.problem.mean).T).T
    rise = target.objective(z) - target.objective(np.linalg.solve(target.problem.factor, posterior.mean - prior_mean(target)))
    along = np.log(rung.time_integrated_activity(posterior.draws[:, : len(prior.names)], GIVEN)[:, 0])
    inside = (along > one.values[0]) & (along < one.values[-1])
    floor = np.interp(along, one.values, one.rise)  # chords of a convex curve lie above it
    assert inside.sum() > 100
    assert (rise[inside] > floor[inside] - 0.1).all()


def prior_mean(target):
    return target.problem.mean


def test_from_one_late_scan_data_alone_do_not_bound_the_dose_and_the_prior_does(fitted):
    prior, _, rung, _ = fitted
    rng = np.random.default_rng(5)
    evidence = simulated(planned((24.0,)), rung, prior.mean, rng)
    posterior = assimilate(prior, evidence, rung)
    by_prior, by_data = profiles(prior, evidence, rung, posterior, kidney(rung))
    assert by_prior.bounded
    assert (by_prior.basis, by_data.basis) == ("posterior", "likelihood")
    assert by_data.high is None or by_data.high - by_data.best > 3 * (by_prior.high - by_prior.best)


def test_a_nuisance_keeps_its_prior_in_the_likelihood(fitted):
    prior, evidence, rung, posterior = fitted
    names = [n for n in posterior.names if n.startswith("scanner.calibration")]
    found = profiles(prior, evidence, rung, posterior, lambda p: (parameter(p, names[0]),), bases=("likelihood",))[0]
    assert found.high - found.low == pytest.approx(2 * HALF * BUDGET.calibration, rel=0.1)


def test_what_cannot_be_profiled_is_refused(fitted):
    prior, evidence, rung, posterior = fitted
    problem = build_problem(prior, evidence, rung)
    with pytest.raises(EstimationError, match="elbow"):
        parameter(problem, "elbow")
    with pytest.raises(EstimationError, match="another problem"):
        profiles(prior, planned((4.0,)), rung, posterior, kidney(rung))
    nothing = Evidence(1, evidence.patient, (GIVEN,), REGIONS)
    with pytest.raises(EstimationError, match="no datum"):
        profiles(prior, nothing, rung, assimilate(prior, nothing, rung), kidney(rung))
    fixed = Scalar("fixed", lambda theta: np.ones(len(np.atleast_2d(theta))), lambda theta: np.zeros(problem.mean.size))
    with pytest.raises(EstimationError, match="fixed"):
        profile(problem, problem.sd, problem.mean, fixed)
