"""`tdt bench lumping` end to end, small: every region is told, and the differences are those of the models."""

import pytest

from flows.bench.lumping import describe, run
from tdt_core.errors import UsageError
from tdt_core.kinetics.pbrpk import pbrpk


@pytest.mark.long
def test_the_benchmark_tells_states_time_and_the_difference_of_every_region() -> None:
    figures = run(patients=16, seed=4)
    assert figures["states"] == {"whole": 75, "lumped": 63, "reduced": 28}
    assert all(v > 0 for v in figures["ms_per_patient"].values())
    told = describe(figures)
    for name in ("lumped", "reduced"):
        rows = figures["tia_difference_percent"][name]
        assert {"kidneys", "salivary glands", "red_marrow", "liver", "blood"} <= set(rows)
        assert len(rows) == len(pbrpk("psma").regions) - 6  # sides of kidneys and glands, and the pools, are told as one
        for row in rows.values():
            assert abs(row["signed"]) <= row["median"] + 1e-12 <= row["p95"] + 2e-12
        assert all(group in told for group in rows)
        assert rows["kidneys"]["p95"] < 1.0
        at = figures["activity_difference_percent"][name]
        assert set(at) == set(rows)
        assert at["kidneys"]["72h"] < at["kidneys"]["1h"] < 20.0
    assert figures["tia_difference_percent"]["lumped"]["kidneys"]["median"] > 0


def test_a_percentile_of_one_patient_is_refused() -> None:
    with pytest.raises(UsageError, match="1 patients") as caught:
        run(patients=1)
    assert caught.value.kind == "usage.bench"
