"""Laws of the generator's own kinetics, and its population against published levels."""

from dataclasses import replace

import numpy as np
import pytest

from tdt_core.phantom.activity import Curves
from tdt_core.phantom.chain import Chain, half_life_h
from tdt_core.phantom.kinetics import FAECES, URINE, bladder_content, rate_of_change, simulate
from tdt_core.phantom.physiology import (
    ckd_epi_creatinine,
    ckd_epi_egfr,
    draw_body,
    draw_physiology,
    next_cycle,
    system,
    tissue_class,
)
from tdt_core.phantom.types import PhantomSettings

KINDS = {
    "kidneys": "kidney_",
    "parotid": "parotid_",
    "submandibular": "submandibular_",
    "lacrimal": "lacrimal_",
    "lesions": "lesion/",
}


@pytest.fixture(scope="module")
def one():
    body = draw_body(4)
    state = draw_physiology(4, "PSMA-617", body)
    return body, state, system(state, body)


@pytest.fixture(scope="module")
def population():
    """Self doses (Gy/GBq) and 24 h excretion of 30 patients in cycle 1."""
    doses: dict[str, list[float]] = {k: [] for k in (*KINDS, "red_marrow")}
    excreted = []
    for seed in range(100, 130):
        run = Chain(PhantomSettings(seed=seed), draw_body(seed), lambda _k: None).cycle(1)
        gbq = run.administration.net_activity_mbq / 1000
        for kind, prefix in KINDS.items():
            doses[kind] += [np.mean([d for n, d in run.self_dose_gy.items() if n.startswith(prefix)]) / gbq]
        doses["red_marrow"].append(run.self_dose_gy["red_marrow"] / gbq)
        gone = run.course.amounts[:, URINE] + run.course.amounts[:, FAECES]
        excreted.append(float(np.interp(24, run.course.times_h, gone)) / run.course.amount_nmol)
    return {k: np.array(v) for k, v in doses.items()}, np.array(excreted)


def test_ligand_only_moves_between_pools(one):
    _, _, p = one
    y = np.random.default_rng(0).random(p.n_states)
    assert abs(rate_of_change(p, y).sum()) < 1e-10 * np.abs(rate_of_change(p, y)).sum()


def test_all_pools_and_what_was_excreted_add_up_to_the_injected_amount(one):
    _, _, p = one
    course = simulate(p, 90.0, 400.0, 2.0)
    assert np.allclose(course.amounts.sum(axis=1), 90.0, rtol=1e-5)
    assert (course.bladder <= course.amounts[:, URINE] + 1e-9).all()
    assert (np.diff(course.excreted) > -1e-6).all()


def test_bound_ligand_never_exceeds_the_receptors(one):
    _, _, p = one
    course = simulate(p, 900.0, 100.0, 2.0)
    for i in range(len(p.tissues)):
        assert course.amounts[:, p.tissue_state(i, 1)].max() <= p.receptors[i] * (1 + 1e-6)


def test_more_ligand_lowers_the_share_that_receptors_take_up(one):
    _, _, p = one
    share = []
    for amount in (5.0, 90.0, 600.0):
        course = simulate(p, amount, 48.0, 2.0)
        lesions = [i for i, n in enumerate(p.tissues) if n.startswith("lesion/")]
        share.append(sum(course.amounts[-1, p.tissue_state(i, pool)] for i in lesions for pool in range(3)) / amount)
    assert share[0] > 1.1 * share[1] > 1.21 * share[2]


def test_scaling_amount_and_receptors_together_leaves_all_shares_unchanged(one):
    _body, state, p = one
    values = dict(state.values) | {"ligand.association": state.values["ligand.association"] / 3}
    values["ligand.dissociation_constant"] *= 3
    bigger = replace(p, values=values, receptors=3 * p.receptors, kidney_receptors=3 * p.kidney_receptors)
    a, b = simulate(p, 90.0, 48.0, 2.0), simulate(bigger, 270.0, 48.0, 2.0)
    assert np.allclose(b.amounts[-1] / 270, a.amounts[-1] / 90, rtol=1e-4, atol=1e-9)


def test_a_void_leaves_the_residual_share_of_the_bladder():
    t = np.array([0.0, 1.0, 2.0, 2.0 + 1e-6, 3.0])
    content = bladder_content(t, np.array([0.0, 1.0, 2.0, 2.0, 3.0]), np.array([2.0]), 0.1)
    assert np.allclose(content, [0.0, 1.0, 2.0, 0.2, 1.2])


def test_the_integral_of_a_constant_fraction_is_the_decay_integral():
    t = np.concatenate([[0.0], np.geomspace(0.01, 2000, 200)])
    half = half_life_h("Lu-177")
    lam = np.log(2) / half
    flat = Curves(t, np.ones((t.size, 3)), half, 100.0)
    assert np.allclose(flat.integral(), 100 / lam * (1 - np.exp(-lam * 2000)), rtol=1e-9)
    ramp = Curves(t, np.repeat(t[:, None], 3, axis=1), half, 1.0)
    x = lam * 2000
    assert np.allclose(ramp.integral(), (1 - np.exp(-x) * (1 + x)) / lam**2, rtol=1e-9)


def test_creatinine_and_egfr_are_inverse_and_meet_the_published_formula():
    for creatinine, age, male, female in ((1.0, 60, 86.2, 64.5), (0.6, 40, 125.15, 116.30), (2.5, 75, 26.14, 19.57)):
        assert ckd_epi_egfr(creatinine, age, "male") == pytest.approx(male, abs=0.06)
        assert ckd_epi_egfr(creatinine, age, "female") == pytest.approx(female, abs=0.06)
        assert ckd_epi_creatinine(ckd_epi_egfr(creatinine, age, "male"), age, "male") == pytest.approx(creatinine, rel=1e-6)


def test_lesions_shrink_more_with_more_dose_and_receptors_fall_as_published():
    body = draw_body(9)
    state = draw_physiology(9, "PSMA-617", body)
    names = [n for n in body.volumes_ml if n.startswith("lesion/")]
    low = next_cycle(9, state, dict.fromkeys(names, 5.0), 1008.0, body)
    high = next_cycle(9, state, dict.fromkeys(names, 60.0), 1008.0, body)
    assert all(high.volumes_ml[n] < low.volumes_ml[n] for n in names)
    falls = []
    for seed in range(40):
        b = draw_body(seed, n_lesions=3)
        s = draw_physiology(seed, "PSMA-617", b)
        after = next_cycle(seed, s, {}, 1008.0, b)
        key = ("lesions.receptor_density", "lesion/L1")
        falls.append(after.instance[key] / s.instance[key])
    assert np.exp(np.mean(np.log(falls))) == pytest.approx(0.73, rel=0.1)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("kidneys", 0.40, 0.65),
        ("parotid", 1.0, 1.9),
        ("submandibular", 0.6, 1.5),
        ("lacrimal", 1.6, 2.9),
        ("lesions", 2.5, 7.0),
        ("red_marrow", 0.015, 0.038),
    ],
)
def test_the_population_mean_stands_at_the_clinical_level(population, kind, low, high):
    doses, _ = population
    assert low < doses[kind].mean() < high


def test_the_population_spreads_like_published_cohorts_and_excretes_like_them(population):
    doses, excreted = population
    assert 0.2 < doses["kidneys"].std() / doses["kidneys"].mean() < 0.45
    assert doses["lesions"].std() / doses["lesions"].mean() > 0.3
    assert 0.565 - 0.088 < excreted.mean() < 0.565 + 0.088


def test_every_tissue_of_the_system_has_a_class_in_the_table(one):
    _, state, p = one
    assert {f"{tissue_class(n)}.release" for n in p.tissues} <= set(state.values)
