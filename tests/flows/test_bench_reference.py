"""The comparison with long chains, short: keys, extremes, wrong options."""

import pytest

from flows.bench import reference as bench
from tdt_core.errors import UsageError


@pytest.mark.long
def test_the_fit_of_curves_is_near_long_chains():
    told = bench.run(cases=2, draws=800, chains=2, processes=0)
    assert told["r_hat_largest"] < 1.2
    assert max(told["largest_shift_sd"].values()) < 0.5
    assert "long chains" in bench.describe(told)


def test_figures_tell_shares_and_extremes():
    case = {"r_hat": 1.01, "effective_size": 100.0, "seconds": 1.0}
    results = [
        case | {"shift_sd": dict.fromkeys(bench.QUANTITIES, s), "sd_ratio": dict.fromkeys(bench.QUANTITIES, r)}
        for s, r in ((0.1, 1.05), (-0.3, 1.0), (0.0, 1.3))
    ]
    told = bench.figures(results)
    assert told["doses_within"] == pytest.approx(1 / 3)
    assert told["cases_within"] == 1
    assert told["largest_shift_sd"]["kidneys"] == 0.3
    assert told["sd_ratio"]["kidneys"] == [1.0, 1.3]


def test_options_without_meaning_are_refused():
    with pytest.raises(UsageError):
        bench.run(cases=0)
