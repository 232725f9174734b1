"""The benchmark of intervals: coverage where the model is right, alarms where it is not, resumed runs, wrong options."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from flows.bench import assimilate as bench
from flows.bench.resumable import by_patient
from tdt_core.errors import UsageError

QUICK = {"rungs": "sum_of_exponentials", "draws": 300, "processes": 0}


def test_intervals_of_the_curves_cover_where_the_model_is_right():
    told = bench.run(n=12, cycles=2, seed=3, smoothed=1, **QUICK)
    assert told["failed"] == 0
    assert 0.82 < told["coverage90"]["pooled"] < 0.97
    assert told["ranks"]["least_p"] is None  # twelve patients in twenty bins
    assert "12 patients" in told["ranks"]["reason"]
    assert "absorbed dose" in told["about"]["coverage90"]
    assert told["crps"]["twin"]["kidneys"] < told["crps"]["population"]["kidneys"]
    assert set(told["coverage90"]["kidneys"]) == {"c0", "c1", "c2"} == set(told["halfwidth90_median"]["marrow"])
    assert told["update_seconds"]["sum_of_exponentials"] > 0
    assert 0.5 < told["smoother"]["filter_within"] <= 1.0
    text = bench.describe(told)
    assert "pooled coverage" in text
    assert "no test (12 patients: 20 bins need 100, 5 expected in each)" in text
    assert "90 % intervals of absorbed dose that hold the truth" in text


def test_a_camera_that_is_far_off_costs_coverage():
    """Calibration is 20 % high where the record says 5 %: doses are too high, and nothing in the data can tell."""
    right, wrong = (bench.run(n=4, cycles=1, seed=4, misfit=m, smoothed=0, **QUICK) for m in ("none", "calibration"))
    assert wrong["coverage90"]["kidneys"]["c1"] < right["coverage90"]["kidneys"]["c1"] - 0.2


def test_with_adaptive_drift_two_surprising_cycles_widen_what_comes_after_them():
    """A patient whose cycles 2 and 3 both surprise, as not every one with shifted scans does."""
    plain, wide = (bench.run(n=1, cycles=4, seed=6, misfit="shifted", smoothed=0, adaptive=a, **QUICK) for a in (0, 1))
    before, after = (
        [t["halfwidth90_median"][q][c] for t in (plain, wide) for q in ("kidneys", "tumours")] for c in ("c3", "c4")
    )
    assert before[:2] == before[2:]
    assert all(w > p for p, w in zip(after[:2], after[2:], strict=True))


def test_a_run_that_was_interrupted_goes_on_where_it_stopped(tmp_path):
    first = bench.run(n=2, cycles=1, seed=5, folder=str(tmp_path), **QUICK)
    kept = sorted(tmp_path.glob("*.json"))
    assert len(kept) == 2
    stamp = kept[0].stat().st_mtime_ns
    kept[1].unlink()
    again = bench.run(n=2, cycles=1, seed=5, folder=str(tmp_path), **QUICK)
    assert again["coverage90"] == first["coverage90"]
    assert again["crps"] == first["crps"]
    assert kept[0].stat().st_mtime_ns == stamp
    assert kept[1].exists()


def _squared(number, work):
    return {"value": number**2}


def test_results_come_in_the_order_of_the_patients_and_are_kept_whole(tmp_path):
    found = by_patient(_squared, {f"p{i}": (i,) for i in (3, 1, 2)}, 2, str(tmp_path))
    assert [r["value"] for r in found] == [9, 1, 4]
    assert json.loads((tmp_path / "p2.json").read_text()) == {"value": 4}
    assert not list(tmp_path.glob("*.part"))


SLOW = """
import os, time
from flows.bench.resumable import by_patient

def one(work):
    (work / f"{os.getpid()}.pid").touch()
    time.sleep(600)

if __name__ == "__main__":
    by_patient(one, {"a": ()}, 1, os.environ["KEPT"])
"""


def test_workers_of_a_killed_run_end(tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    environment = {**os.environ, "KEPT": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.Popen([sys.executable, str(script)], env=environment)
    worker = int(_until(lambda: next(tmp_path.glob("*.pid"), None)).stem)
    run.kill()
    run.wait()
    assert _until(lambda: not _alive(worker))


def _until(found, seconds=60.0):
    end = time.monotonic() + seconds
    while not (result := found()) and time.monotonic() < end:
        time.sleep(0.1)
    return result


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_ranks_that_are_not_uniform_are_told():
    rng = np.random.default_rng(0)
    even = [{"a": int(x), "b": int(y)} for x, y in zip(rng.integers(0, 100, 400), rng.beta(4, 4, 400) * 100, strict=True)]
    told = bench.uniformity(even)
    assert told["worst"]["a"] > 0.01
    assert told["least_p_bonferroni"] == pytest.approx(2 * told["worst"]["b"])
    assert told["worst"]["b"] < 1e-6


def test_ranks_are_tested_from_five_expected_in_a_bin_on():
    some = [{"a": i % 100} for i in range(bench.EXPECTED_IN_BIN * bench.BINS)]
    assert bench.uniformity(some)["least_p"] == pytest.approx(1.0)
    told = bench.uniformity(some[:-1])
    assert told["least_p"] is None is told["least_p_bonferroni"]
    assert "99 patients" in told["reason"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": 0}, "0 patients"),
        ({"misfit": "moon"}, "moon"),
        ({"misfit": "rung"}, "truth rung"),
        ({"adaptive": 2}, "adaptive 2"),
    ],
)
def test_options_without_meaning_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        bench.run(**options)
