"""Laws of the choice of measurements: closed form, more is never worse, shared errors, known nuisances, refusals."""

import dataclasses

import numpy as np
import pytest

from tdt_core.assimilation import assimilate, build_problem, population_prior
from tdt_core.assimilation.designing import design, designs
from tdt_core.assimilation.experiment import simulated
from tdt_core.errors import EstimationError
from tdt_core.kinetics import rung_for
from tdt_core.twin import Administration, ErrorBudget, Evidence, Patient, Region, RegionActivity, Sample

REGIONS = (
    Region("kidney_left", "kidneys", "64033007", "left", volume_ml=160.0, mass_g=168.0),
    Region("lesion/L1", "lesions", "52988006", tracking_id="L1", volume_ml=12.0, mass_g=12.5),
)
GIVEN = Administration(0.0, "Lu-177-PSMA-617", "PSMA-617", "Lu-177", 7400.0, amount_nmol=90.0)
BUDGET = ErrorBudget(counts=0.03, calibration=0.04, partial_volume=0.05, segmentation=0.03, registration=0.02)


def scan(hours, regions=REGIONS, camera="camera", budget=BUDGET):
    data = tuple(RegionActivity(r.name, hours, 1.0, 1.0, 1.0, budget, f"s{hours}", "SPECT", "Lu-177", camera) for r in regions)
    return Evidence(1, Patient("p1", "male", 70.0, 175.0, 80.0), (GIVEN,), REGIONS, data)


@pytest.fixture(scope="module")
def rung():
    return rung_for("sum_of_exponentials", "PSMA-617", REGIONS)


@pytest.fixture(scope="module")
def kidney(rung):
    return lambda theta: rung.time_integrated_activity(theta, GIVEN)[:, 0]


def only_uptake(rung):
    prior = population_prior(rung)
    uptake = np.array([name.endswith("uptake_per_ml") for name in prior.names])
    return dataclasses.replace(
        prior, covariance=prior.covariance * np.outer(uptake, uptake) + np.diag(np.where(uptake, 0.0, 1e-12))
    )


def test_where_all_is_linear_the_sd_that_is_left_is_that_of_the_kalman_update(rung, kidney):
    prior = only_uptake(rung)
    found = design(prior, {"24 h": scan(24.0)}, kidney, model=rung, n_draws=20_000)[0]
    problem = build_problem(prior, scan(24.0), rung)
    h, p = problem.jacobian(problem.mean), problem.factor @ problem.factor.T
    s = h @ p @ h.T + np.diag(problem.sd**2)
    left = p - p @ h.T @ np.linalg.solve(s, h @ p)
    assert found.sd_before == pytest.approx(np.sqrt(p[0, 0]), rel=0.02)
    assert found.sd_after == pytest.approx(np.sqrt(left[0, 0]), rel=0.02)
    assert found.reduction == pytest.approx(1 - left[0, 0] / p[0, 0], abs=0.005)


def test_two_scans_are_worth_more_than_either_and_less_than_both_together(rung, kidney):
    offered = {f"{t} h": scan(float(t)) for t in (4, 24, 72, 168)}
    prior = population_prior(rung)
    one = {w.names[0]: w for w in design(prior, offered, kidney, model=rung)}
    for pair in design(prior, offered, kidney, model=rung, size=2):
        a, b = (one[n] for n in pair.names)
        assert pair.sd_after < min(a.sd_after, b.sd_after) * 1.01
        assert 0 < pair.reduction < a.reduction + b.reduction


def test_another_scan_at_once_is_worth_less_than_one_that_sees_another_phase(rung, kidney):
    offered = {"24 h": scan(24.0), "25 h": scan(25.0), "100 h": scan(100.0)}
    best = design(population_prior(rung), offered, kidney, model=rung, always=["24 h"])
    assert [w.names[1] for w in best] == ["100 h", "25 h"]
    assert all(w.names[0] == "24 h" for w in best)


def test_a_scan_of_another_region_tells_little_and_of_none_nothing(rung, kidney):
    offered = {"kidney": scan(72.0, REGIONS[:1]), "lesion": scan(72.0, REGIONS[1:])}
    kidney_scan, lesion_scan = design(population_prior(rung), offered, kidney, model=rung)
    assert kidney_scan.names == ("kidney",)
    assert lesion_scan.reduction < 0.01 < kidney_scan.reduction


def test_a_region_that_the_model_lacks_and_samples_of_the_past_change_no_ranking(rung, kidney):
    odd = Region("odd", "other", "", volume_ml=5.0, mass_g=5.0)
    drawn = (Sample("blood", -5.0, 0.1, "Lu-177", 0.05),)
    prior = population_prior(rung)
    plain = design(prior, {"kidney": scan(72.0, REGIONS[:1]), "lesion": scan(72.0, REGIONS[1:])}, kidney, model=rung)
    kidney_scan = dataclasses.replace(scan(72.0, (odd, *REGIONS[:1])), samples=drawn)
    assert design(prior, {"kidney": kidney_scan, "lesion": scan(72.0, REGIONS[1:])}, kidney, model=rung) == plain


def test_samples_of_the_past_stop_no_design_of_a_rung_that_could_predict_them(rung, kidney):
    class WithBlood:
        """A rung with a compartment: it would want to predict the sample, and knows no administration before it."""

        compartments = ("blood",)

        def __getattr__(self, name):
            return getattr(rung, name)

        def compartment_activity(self, theta, administration, times_h):
            raise AssertionError("samples are no candidates")

        compartment_log_jacobian = compartment_activity

    offered = {"24 h": dataclasses.replace(scan(24.0), samples=(Sample("blood", -5.0, 0.1, "Lu-177", 0.05),))}
    found = design(population_prior(rung), offered, kidney, model=WithBlood())
    assert found == design(population_prior(rung), {"24 h": scan(24.0)}, kidney, model=rung)


class Pool:
    """The curves with a compartment: what is in the body is a known multiple of the first region."""

    compartments = ("whole_body",)

    def __init__(self, rung):
        self._rung = rung

    def __getattr__(self, name):
        return getattr(self._rung, name)

    def compartment_activity(self, theta, administration, times_h):
        return 40.0 * self._rung.activity(theta, administration, times_h)[:, :1]

    def compartment_log_jacobian(self, theta, administration, times_h):
        return self._rung.log_jacobian(theta, administration, times_h)[..., :1, :, :]


def reading(hours, absolute=0.0, counter="meter"):
    sample = Sample("whole_body", hours, 1.0, "Lu-177", 0.04, absolute, 0.05, counter)
    return dataclasses.replace(scan(hours), activities=(), samples=(sample,))


def test_a_sample_is_worth_what_the_kalman_update_says(rung, kidney):
    prior, pool = only_uptake(rung), Pool(rung)
    found = design(prior, {"reading": reading(24.0)}, kidney, model=pool, n_draws=20_000)[0]
    error = 0.05**2 + build_problem(prior, reading(24.0), pool).sd[0] ** 2  # the model's own error with the reading's
    variance = prior.covariance[0, 0]
    assert found.reduction == pytest.approx(variance / (variance + error), abs=0.01)


def test_a_background_costs_more_where_little_is_left_to_read(rung, kidney):
    prior, pool = population_prior(rung), Pool(rung)
    late = pool.compartment_activity(prior.mean[None], GIVEN, np.array([200.0]))[0, 0, 0]
    offered = {f"{t} h, {b}": reading(float(t), 0.5 * late * b, f"{t}{b}") for t in (24, 200) for b in (0, 1)}
    worth = {w.names[0]: w.reduction for w in design(prior, offered, kidney, model=pool)}
    lost = {t: worth[f"{t} h, 0"] - worth[f"{t} h, 1"] for t in (24, 200)}
    assert lost[200] > 3 * lost[24] > 0


def test_readings_of_one_meter_share_its_calibration(rung, kidney):
    prior, pool = only_uptake(rung), Pool(rung)
    offered = {"a": reading(24.0), "same": reading(48.0), "other": reading(48.0, counter="another")}
    pairs = {w.names: w.reduction for w in design(prior, offered, kidney, model=pool, size=2)}
    assert pairs["a", "other"] > pairs["a", "same"]


def test_what_two_candidates_have_in_common_is_worth_the_same_to_both_and_more_twice(rung, kidney):
    prior, offered = population_prior(rung), {"a": scan(24.0), "b": scan(24.0), "c": scan(72.0)}
    one = {w.names[0]: w.reduction for w in design(prior, offered, kidney, model=rung)}
    assert one["a"] == pytest.approx(one["b"], rel=1e-9)
    assert one["a"] > 0.5
    (both,) = design(prior, {k: offered[k] for k in "ab"}, kidney, model=rung, size=2)
    assert both.reduction > one["a"]
    readings = {name: reading(24.0) for name in "ab"}
    worth = [w.reduction for w in design(prior, readings, kidney, model=Pool(rung))]
    assert worth[0] == pytest.approx(worth[1], rel=1e-9)


def test_several_quantities_and_given_sets_are_ranked_at_once(rung, kidney):
    prior = population_prior(rung)
    offered = {"kidney": scan(72.0, REGIONS[:1]), "lesion": scan(72.0, REGIONS[1:]), "blood": scan(4.0)}
    lesion = lambda theta: rung.time_integrated_activity(theta, GIVEN)[:, 1]  # noqa: E731
    sets = [("kidney",), ("lesion",), ("kidney", "blood")]
    told = designs(prior, offered, {"kidneys": kidney, "lesions": lesion}, sets, model=rung)
    for ranked in told.values():
        assert {w.names for w in ranked} == set(sets)
        assert list(ranked) == sorted(ranked, key=lambda w: w.sd_after)
    assert told["lesions"][0].names == ("lesion",)
    assert told["kidneys"][-1].names == ("lesion",)
    one = {w.names: w for w in design(prior, offered, kidney, model=rung)}
    assert one["kidney",] == next(w for w in told["kidneys"] if w.names == ("kidney",))
    with pytest.raises(EstimationError, match="0 sets"):
        designs(prior, offered, {"kidneys": kidney}, [], model=rung)


def test_the_same_camera_is_worth_less_where_its_calibration_is_already_known(rung, kidney):
    """The error of another camera is independent of the first one, so it tells of the level, which the same cannot."""
    loose = dataclasses.replace(BUDGET, calibration=0.3)
    plan = scan(72.0, budget=loose)
    evidence = simulated(plan, rung, population_prior(rung).mean, np.random.default_rng(1))
    posterior = assimilate(population_prior(rung), evidence, rung)
    offered = {"same": scan(24.0, budget=loose), "other": scan(24.0, camera="another", budget=loose)}
    found = design(posterior, offered, kidney)
    worth = {w.names[0]: w.reduction for w in found}

    assert worth["other"] > worth["same"] + 0.05
    assert found == design(posterior, offered, kidney, model=rung)  # a posterior names its model, a prior does not
    tracer = dataclasses.replace(
        GIVEN, product="Ga-68-PSMA-11", ligand="PSMA-11", nuclide="Ga-68", intent="imaging", time_h=-48.0
    )
    image = dataclasses.replace(offered["same"].activities[0], time_h=-47.0, nuclide="Ga-68", modality="PET")
    pet = dataclasses.replace(offered["same"], administrations=(GIVEN, tracer), activities=(image,))
    both = {"same": offered["same"], "PET": pet}
    assert design(posterior, both, kidney) == design(posterior, both, kidney, model=rung)  # the therapy's ligand
    with pytest.raises(EstimationError, match="which kinetic model"):
        design(population_prior(rung), offered, kidney)


def test_the_ranking_holds_up_against_fits(rung, kidney):
    """The best pair leaves less spread after real fits than the worst one."""
    prior = population_prior(rung)
    pairs = design(prior, {f"{t} h": scan(float(t)) for t in (2, 24, 72, 168)}, kidney, model=rung, size=2)
    left = {}
    for pair in (pairs[0], pairs[-1]):
        spreads = []
        for seed in range(12):
            rng = np.random.default_rng(seed)
            theta = prior.draws(1, rng)[0]
            data = tuple(d for name in pair.names for d in scan(float(name.split()[0])).activities)
            evidence = simulated(dataclasses.replace(scan(2.0), activities=data), rung, theta, rng)
            fit = assimilate(prior, evidence, rung)
            spreads.append(np.log(kidney(fit.draws[:, : len(prior.names)])).std())
        left[pair.names] = np.mean(spreads)
    assert left[pairs[0].names] < left[pairs[-1].names]
    assert left[pairs[0].names] == pytest.approx(pairs[0].sd_after, rel=0.3)


@pytest.mark.parametrize(("offered", "size", "always"), [({}, 1, ()), ({"a": scan(4.0)}, 2, ()), ({"a": scan(4.0)}, 1, ("b",))])
def test_more_than_there_is_cannot_be_chosen(rung, kidney, offered, size, always):
    with pytest.raises(EstimationError, match="candidates"):
        design(population_prior(rung), offered, kidney, model=rung, size=size, always=always)


def test_a_quantity_must_be_positive(rung):
    prior = population_prior(rung)
    with pytest.raises(EstimationError, match="positive"):
        design(prior, {"a": scan(4.0)}, lambda theta: theta[:, 0] * 0.0, model=rung)
    with pytest.raises(EstimationError, match="the same in all draws"):
        design(prior, {"a": scan(4.0)}, lambda theta: np.ones(len(theta)), model=rung)
