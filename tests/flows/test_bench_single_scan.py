"""The comparison of one-scan methods: every method at every hour, from the same scan; wrong options."""

import pytest

from flows.bench import single_scan as bench
from tdt_core.errors import UsageError


def test_every_method_is_told_at_every_hour():
    told = bench.run(patients=3, seed=5, hours="24,96", rung="sum_of_exponentials", draws=100, processes=0)
    assert list(told["hours"]) == ["24 h", "96 h"]
    for methods in told["hours"].values():
        assert len(methods) == 3
        assert len({r["n"] for r in methods.values()}) == 1
        assert all(
            r["q05"] <= r["median_error"] <= r["q95"] and 0 <= r["beyond_20"] <= r["beyond_10"] <= 1 for r in methods.values()
        )
    # at a day the form without a half-life is far outside its window and misses the tail
    assert told["hours"]["24 h"]["hanscheid_2018"]["median_error"] < -0.1
    assert told["hours"]["96 h"]["twin"]["median_abs_error"] < 0.3
    assert "kidneys from one scan" in bench.describe(told)


@pytest.mark.parametrize("options", [{"patients": 0}, {"hours": "soon"}, {"hours": "-4"}])
def test_options_without_meaning_are_refused(options):
    with pytest.raises(UsageError):
        bench.run(**options)
