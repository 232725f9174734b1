"""`tdt identify`: profiles of a state's doses and parameters, labels, a picture, refusals in words."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from flows import identify
from flows.cli import main
from tdt_core.assimilation import assimilate, population_prior
from tdt_core.dosimetry.units import JOULE_PER_MBQ_H_KEV
from tdt_core.errors import UsageError
from tdt_core.kinetics import rung_for
from tdt_core.nuclides import nuclide
from tdt_core.trials.outcome import cycle_dose
from tdt_core.twin import TwinState

KEPT = ("kidney_left", "kidney_right", "lesion/L1")


class OneState:
    """A store of one state."""

    def __init__(self, state: TwinState) -> None:
        self.state = state

    def load(self, state_id: str) -> TwinState:
        assert state_id == self.state.id
        return self.state


@pytest.fixture(scope="module")
def build():
    from state_builder import build_state

    shown = build_state(1)
    regions = tuple(r for r in shown.evidence.regions if r.name in KEPT)
    seen = tuple(a for a in shown.evidence.activities if a.region in KEPT)
    therapy = tuple(a for a in shown.evidence.administrations if a.intent == "therapy")
    rung = rung_for("sum_of_exponentials", "PSMA-617", regions)
    electrons = JOULE_PER_MBQ_H_KEV * nuclide("Lu-177").electron_energy_kev * 1000.0

    def state(hours=None, unseen=()) -> TwinState:
        start = therapy[0].time_h
        activities = [a for a in seen if hours is None or any(abs(a.time_h - start - h) < 3 for h in hours)]
        activities = [a for a in activities if a.region not in unseen]
        evidence = replace(shown.evidence, regions=regions, activities=tuple(activities), administrations=therapy)
        fit = assimilate(population_prior(rung), evidence, rung, n_draws=300)
        matrix = np.diag([electrons / r.mass_g for r in regions]).tolist()
        summary = {**shown.summary, "ligand": "PSMA-617", "dose_matrix_gy_per_mbq_h": matrix}
        return replace(shown, model=rung.name, posterior=fit, evidence=evidence, summary=summary, parent=None)

    return state


@pytest.fixture(scope="module")
def told(build):
    state = build()
    return state, identify.identified(OneState(state), state.id, (), ("kidney_left.uptake_per_ml",))


def test_doses_are_those_of_the_state_with_their_profiles(told) -> None:
    state, found = told
    assert [(p["name"], p["basis"]) for p in found["profiles"]] == [
        (name, basis) for basis in ("posterior", "likelihood") for name in ("kidneys", "lesions", "kidney_left.uptake_per_ml")
    ]
    rung = rung_for("sum_of_exponentials", "PSMA-617", state.evidence.regions)
    dose = cycle_dose(rung, state.posterior.draws[:, : len(rung.parameters)], state.evidence.therapy(), {})
    for name, member in (("kidneys", "kidneys"), ("lesions", "lesion/L1")):
        p = next(x for x in found["profiles"] if x["name"] == name)
        low, middle, high = np.quantile(dose.of(member), (0.05, 0.5, 0.95))
        assert p["unit"] == "Gy"
        assert p["best"] == pytest.approx(middle, rel=0.02)
        assert (p["low"], p["high"]) == pytest.approx((low, high), rel=0.05)
        assert p["label"] == "learned"
        assert p["identified"] == "both sides"
    assert found["profiles"][2]["unit"] == ""


def test_every_parameter_has_its_label(told) -> None:
    state, found = told
    rows = {p["name"]: p for p in found["parameters"]}
    assert set(rows) == set(rung_for("sum_of_exponentials", "PSMA-617", state.evidence.regions).parameters)
    assert {p["label"] for p in rows.values()} == {"learned", "assumed"}
    assert all((p["label"] == "learned") == (p["variance_removed"] >= 0.5) for p in rows.values())


def test_one_early_scan_tells_less_and_without_a_prior_bounds_nothing_above(build, told) -> None:
    state = build(hours=(4.0,))
    by_prior, by_data = identify.identified(OneState(state), state.id, ("lesions",))["profiles"]
    with_all = next(p for p in told[1]["profiles"] if p["name"] == "lesions")
    assert by_prior["variance_removed"] < with_all["variance_removed"] - 0.05
    assert by_prior["identified"] == "both sides"
    assert by_data["high"] is None or by_data["high"] > 3 * by_prior["high"]


def test_a_dose_of_which_nothing_was_seen_is_assumed_and_identified_on_no_side(build) -> None:
    state = build(unseen=("lesion/L1",))
    by_prior, by_data = identify.identified(OneState(state), state.id, ("lesion/L1",))["profiles"]
    assert by_prior["label"] == "assumed"
    assert by_prior["variance_removed"] == pytest.approx(0.0, abs=0.2)
    assert by_data["identified"] == "no side"


def test_the_picture_has_a_panel_for_each_name(told) -> None:
    _, found = told
    root = ElementTree.fromstring(identify.picture(found))
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}g")) == 3
    words = {t.text for t in root.iter(f"{space}text")}
    assert {"posterior", "likelihood", "Laplace (dashed)", "90 % (2.7)", "absorbed dose of kidneys, Gy", "rise of 2J"} < words
    computed = sum(r <= identify.SHOWN_RISE for p in found["profiles"] for r in p["rise"])
    assert len(list(root.iter(f"{space}circle"))) == computed
    told_above = " ".join(t.text for t in root.findall(f"{space}text"))
    for word in (found["pid"], found["state"][:12], f"{found['activity_mbq']:.0f} MBq", "Research use only"):
        assert word in told_above


def test_the_interval_ends_where_twice_the_objective_has_risen_by_the_quantile(told) -> None:
    assert float(stats.chi2.ppf(0.90, 1)) == pytest.approx(identify.RISE_90, abs=1e-3)
    p = told[1]["profiles"][0]
    values, rise = np.array(p["values"]), np.array(p["rise"])
    for end in (p["low"], p["high"]):
        side = np.abs(np.log(values / end)).argsort()[:1]
        assert rise[side] == pytest.approx(identify.RISE_90, rel=0.1)


def test_a_profile_is_drawn_as_far_as_it_stays_within_the_panel_and_no_line_joins_what_comes_after() -> None:
    xs, rise = identify._between({"values": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "rise": [2.0, 8.0, 2.0, 0.0, 2.0, 12.0]})
    assert 2.0 < xs[0] < 3.0 < 5.0 < xs[-1] < 6.0
    assert max(rise) <= identify.SHOWN_RISE
    assert np.diff(xs).max() < 0.1
    assert identify._between({"values": [1.0], "rise": [0.0]}) == ([1.0], [0.0])


def test_open_sides_are_told_in_words() -> None:
    assert identify.interval({"low": None, "high": 2.0, "laplace": [1.0, 3.0]}) == "open to 2"
    assert identify.interval({"low": None, "high": 2.0, "laplace": [1.0, 3.0]}, "laplace") == "1 to 3"
    assert [identify.verdict(*x) for x in ((1.0, 2.0), (None, 2.0), (1.0, None), (None, None))] == [
        "both sides",
        "above only",
        "below only",
        "no side",
    ]


@pytest.mark.parametrize(("quantities", "parameters"), [(("elbow",), ()), ((), ("elbow.uptake",))])
def test_unknown_names_are_refused(told, quantities, parameters) -> None:
    state, _ = told
    with pytest.raises(UsageError, match="elbow"):
        identify.identified(OneState(state), state.id, quantities, parameters)


def test_the_command_prints_tables_and_writes_the_picture(
    told, tmp_path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state, found = told
    monkeypatch.setattr("flows.cli_identify.settings_and_store", lambda: (None, OneState(state)))
    monkeypatch.setattr("flows.ladder.find", lambda store, name: store.state.id)
    monkeypatch.setattr("flows.identify.identified", lambda *arguments: found)
    assert main(["identify", state.pid, "--picture", str(tmp_path / "p.svg")]) == 0
    shown = capsys.readouterr().out
    assert "kidneys" in shown
    assert "learned (" in shown
    assert "Parameters, the least learned first" in shown
    assert "learned: all data up to now have removed at least 50%" in shown
    assert "2J rises by 2.7" in shown
    assert (tmp_path / "p.svg").read_text().startswith("<svg")
    assert main(["identify", state.pid, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["profiles"][0]["name"] == "kidneys"
