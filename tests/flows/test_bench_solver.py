"""`tdt bench solver` end to end, small: both solvers reach the same time integrals and every named figure is there."""

import pytest

from flows.bench.solver import run
from tdt_core.errors import UsageError

NAMED = [
    f"{figure}.{rtol}"
    for figure in ("ms_per_patient", "roadrunner_ms_per_patient", "ratio", "tia_error")
    for rtol in ("rtol1e-4", "rtol1e-6")
] + ["two_core_speedup", "seconds_10000_patients", "peak_memory_gb"]


def test_the_benchmark_names_its_figures_and_both_solvers_agree() -> None:
    figures = run(patients=20, many=40, peers=2, repeats=1)
    assert set(NAMED) <= set(figures)
    for rtol, largest in (("rtol1e-4", 1e-4), ("rtol1e-6", 1e-6)):
        assert 0 < figures[f"tia_error.{rtol}"] < largest
        assert figures[f"roadrunner_tia_error.{rtol}"] <= figures[f"tia_error.{rtol}"]


def test_a_batch_that_cannot_fill_the_lanes_is_refused() -> None:
    with pytest.raises(UsageError):
        run(patients=3)
