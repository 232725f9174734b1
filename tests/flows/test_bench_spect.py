"""`tdt bench spect` end to end, small."""

import pytest

from flows.bench import bench
from flows.bench.spect import clinical_scan, describe
from tdt_core.errors import UsageError


def test_the_bench_tells_recovery_and_noise() -> None:
    run, tell = bench("spect")
    figures = run(voxels="12", repeats=2, levels="0.1", matrix=0)
    found = figures["voxel_mm"]["12"]
    assert found["recovery"]["100"][1] > found["recovery"]["0"][1] > 0.3
    assert found["fwhm_mm"]["100"] < found["fwhm_mm"]["0"]
    assert found["noise"][0]["mean"] == pytest.approx(1.0, abs=0.1)
    assert found["noise_fwhm_across_mm"] > 1
    text = tell(figures)
    assert "voxel 12 mm" in text
    assert "noise density" in text


@pytest.mark.parametrize("wrong", [{"repeats": 1}, {"voxels": "a"}, {"levels": "-1"}])
def test_senseless_options_are_refused(wrong: dict) -> None:
    with pytest.raises(UsageError):
        bench("spect")[0](**wrong)


def test_the_bench_times_a_whole_scan() -> None:
    found = clinical_scan(20, map, (8, 32, 32), 14.4)
    assert found["osem_cpu_seconds"] > 0
    assert "20 views on a grid (8, 32, 32)" in describe({"views": 20} | found)
