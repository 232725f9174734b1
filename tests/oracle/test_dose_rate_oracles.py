"""Dose-rate radiobiology against values computed with 30 digits (mpmath) or DOP853; tolerance 1e-6 relative."""

import numpy as np
import pytest

from tdt_core.radiobiology import (
    bed,
    bed_high_let,
    dose_of_bed,
    eqd2,
    lea_catcheside,
    lea_catcheside_components,
    lea_catcheside_constant,
    quadratic_dose,
)

L51, L28 = np.log(2) / 51.0, 2.8
MONO = (np.array([1.0]), np.array([L51]))


def test_o01_mono_exponential():
    assert lea_catcheside(*MONO, L28) == pytest.approx(0.05204460966543, rel=1e-6)


def test_o02_bed_and_eqd2_of_one_cycle():
    value = bed(23.0, lea_catcheside(*MONO, L28), 2.5)
    assert value == pytest.approx(34.0126394052, rel=1e-6)
    assert eqd2(value, 2.5) == pytest.approx(18.89591078067, rel=1e-6)


def test_o04_uptake_and_washout():
    g = lea_catcheside(np.array([1.0, -1.0]), np.log(2) / np.array([50.0, 1.5]), L28)
    assert g == pytest.approx(0.05249149886766, rel=1e-6)
    assert bed(5.0, g, 2.6) == pytest.approx(5.504725950651, rel=1e-6)


def test_o06_equal_decay_and_repair_does_not_divide_by_zero():
    assert lea_catcheside(np.array([1.0]), np.array([np.log(2) / 2.8]), 2.8) == pytest.approx(0.5, rel=1e-12)


def test_o07_constant_rate_and_its_acute_limit():
    assert lea_catcheside_constant(24.0, 2.8) == pytest.approx(0.2801182953863, rel=1e-6)
    assert lea_catcheside_constant(1e-9, 2.8) == pytest.approx(1.0)


def test_o09_two_repair_components():
    assert lea_catcheside_components(*MONO, (0.5, 0.5), (0.3, 4.0)) == pytest.approx(0.03928761297182, rel=1e-6)


@pytest.mark.parametrize(("gap", "expected"), [(72.0, 4.804040590306), (1008.0, 3.437144298162)])
def test_o10_two_cycles(gap, expected):
    """The sampled engine follows two equal cycles; the second starts as a step, bracketed by two close samples."""
    times = np.unique(np.concatenate([np.linspace(0, gap, 40), [gap + 1e-9], np.linspace(gap + 1e-6, gap + 400, 40)]))
    rate = 0.0781 * (np.exp(-L51 * times) + np.where(times > gap, np.exp(-L51 * (times - gap)), 0.0))
    _, q = quadratic_dose(times, rate, L28)
    assert q == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("limit", "cycles", "expected"), [(40.0, 4, 33.98791816486), (28.0, 1, 19.82113761905)])
def test_o19_dose_allowed_by_a_bed_limit(limit, cycles, expected):
    per_cycle = dose_of_bed(limit / cycles, lea_catcheside(*MONO, L28), 2.5)
    assert cycles * per_cycle == pytest.approx(expected, rel=1e-6)


def test_o43_high_let():
    assert bed_high_let(1.5, lea_catcheside(*MONO, L28), 2.5, 5.0) == pytest.approx(7.546840148699, rel=1e-6)
