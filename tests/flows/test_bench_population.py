"""`tdt bench population` end to end, small: every line of the table is judged as the table says."""

import pytest

from flows.bench.population import checked, describe, run, verdicts
from tdt_core.errors import UsageError
from tdt_core.kinetics.clinical_levels import Level, levels


@pytest.mark.long
def test_the_check_table_is_rebuilt_with_every_published_line_and_its_verdict() -> None:
    figures = run(patients=200, seed=2)
    assert [(r["row"], r["cohort"]) for r in figures["rows"]] == [(v.row, v.cohort) for v in levels()]
    for line in figures["rows"]:
        if line["inside"] is not None:
            assert line["inside"] == (abs(line["mean"] - line["published_mean"]) <= line["published_sd"])
    assert figures["rows.judged"] == len(figures["verdicts"]) == figures["rows.holds"]
    assert figures["verdicts"]["red_marrow.dose"]["use"] == "predicted"
    assert {f["status"] for f in figures["calibrated"]} == {"calibrated"}
    for told in figures["trends"].values():
        assert told["kidneys.dose falls"]
        assert told["parotid.dose falls"]
    told = describe(figures)
    assert all(level.cohort in told for level in levels())
    assert "DOES NOT FALL" not in told


@pytest.mark.long
def test_the_table_of_sstr_says_where_it_does_not_hold() -> None:
    figures = run(patients=300, seed=3, model="sstr")
    assert [(r["row"], r["cohort"]) for r in figures["rows"]] == [(v.row, v.cohort) for v in levels("sstr")]
    assert [row for row, v in figures["verdicts"].items() if not v["holds"]] == ["pituitary.dose"]
    assert figures["verdicts"]["red_marrow.dose"]["use"] == "predicted"
    for told in figures["trends"].values():
        assert told["rows"]
        assert all(told[f"{row} falls"] for row in told["rows"])
    told = describe(figures)
    assert told.startswith("sstr: 300 virtual patients")
    assert "pituitary.dose, predicted: mean DOES NOT HOLD" in told
    assert "median of ligand.reuptake" in told


def test_a_model_without_a_population_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no population of 'psma_reference'.*psma, sstr"):
        run(patients=10, model="psma_reference")


def test_a_row_holds_by_one_cohort_and_its_spread_by_one_whose_mean_is_met() -> None:
    def line(cohort: str, mean: float, sd: float | None, status: str = "verified") -> dict[str, object]:
        return checked(Level("kidneys.dose", "Gy/GBq", cohort, 9, mean, sd, status, "calibrated", "test"), 0.5, 0.1)

    far, near, wide, unread = (
        line("far", 0.9, 0.1),
        line("near", 0.55, 0.12),
        line("wide", 0.55, 0.4),
        line("unread", 0.5, 0.1, "second-hand"),
    )
    assert verdicts([far, near, wide])["kidneys.dose"] | {"use": ""} == {
        "use": "", "mean_by": ["near", "wide"], "sd_by": ["near"], "holds": True, "spread_holds": True,
    }  # fmt: skip
    assert not verdicts([far, wide])["kidneys.dose"]["spread_holds"]
    assert not verdicts([far])["kidneys.dose"]["holds"]
    assert verdicts([unread]) == {}


def test_a_population_of_one_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 2"):
        run(patients=1)
