"""`tdt bench dose` end to end, small: every named figure is there and both pipelines find the same kidney."""

import pytest

from flows.bench import bench
from flows.bench.dose import TIMES_H, drawn, fitted, run
from tdt_core.dosimetry import MATERIALS
from tdt_core.errors import UsageError
from tdt_core.nuclides import nuclide

NAMED = {"cycle_seconds", "credible_map_seconds", "credible_map_peak_gb", "kernel_256_seconds", "field_pipeline_seconds"}


def test_the_benchmark_names_its_figures_and_both_pipelines_agree_on_a_kidney() -> None:
    figures = run(matrix=40, draws=5, kernel_matrix=32, repeats=1, mc=0)
    assert set(figures) >= NAMED
    assert all(figures[name] > 0 for name in NAMED)
    assert figures["field_kidney_dose_gy"] == pytest.approx(figures["kidney_dose_gy"], rel=0.15)
    found, describe = bench("dose")
    assert found is run
    assert "kidney" in describe(figures)


@pytest.mark.long
def test_monte_carlo_reaches_the_uncertainty_that_was_asked_for_and_agrees_with_the_kernel() -> None:
    figures = run(
        matrix=40, draws=2, kernel_matrix=24, repeats=1, mc_sd=0.1, mc_pilot=20_000, mc_speed_decays=2000
    )  # fmt: skip
    assert figures["mc.decays_per_second_per_core"] > 0
    assert figures["mc.patient_seconds"] > 0
    assert 0 < figures["mc.patient_relative_sd_median"] < figures["mc.patient_relative_sd_max"] <= 0.1
    assert figures["mc.kidney_over_kernel"] == pytest.approx(1.0, abs=0.03)
    _, describe = bench("dose")
    assert "decays" in describe(figures)


def test_the_drawn_patient_has_disjoint_regions_and_decaying_scans() -> None:
    patient = drawn(40, 1)
    assert {MATERIALS[i] for i in set(patient.material.ravel())} == {"air", "lung", "soft_tissue", "cortical_bone"}
    assert sum(m.astype(int) for m in patient.regions.values()).max() == 1
    totals = patient.scans.sum(axis=(1, 2, 3))
    assert (totals[1:] < totals[:-1]).all()
    _, rate = fitted(patient.regions, patient.scans)
    assert (rate >= nuclide("Lu-177").decay_constant_per_h).all()
    assert len(patient.scans) == TIMES_H.size


def test_a_benchmark_too_small_to_mean_anything_is_refused() -> None:
    with pytest.raises(UsageError):
        run(matrix=8)
    with pytest.raises(UsageError):
        run(draws=1)
