"""The report page: it stands alone, hides nothing, escapes everything, and says what was decided."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from html import unescape
from typing import Any

import hypothesis.strategies as st
import pytest
import xarray as xr
from hypothesis import given
from state_builder import build_dose, build_state

from flows.report import BANNER, figures, render_report, sections
from flows.report.organs import marrow_words
from flows.report.style import contents, in_sentence, name_of, number, percent
from flows.summary import LEARNED_ABOVE
from tdt_core.twin import Decision, TwinState

SMALL = (60, 28, 36)


@pytest.fixture(scope="module")
def state() -> TwinState:
    return build_state(2, parent="0" * 64)


@pytest.fixture(scope="module")
def dose(state: TwinState) -> xr.Dataset:
    return build_dose(state, SMALL, 11.5)


@pytest.fixture(scope="module")
def page(state: TwinState, dose: xr.Dataset) -> str:
    return render_report(state, dose)


def with_summary(state: TwinState, **changes: Any) -> TwinState:
    return replace(state, summary={**state.summary, **changes})


def text_of(html: str) -> str:
    body = re.sub(r"<style>.*?</style>", "", html, flags=re.S)
    return unescape(re.sub(r"[ \n]+", " ", re.sub(r"<[^>]+>", " ", body)))


def test_equivalent_uniform_doses_stand_beside_the_histograms_where_they_are_known(state: TwinState, page: str) -> None:
    start = page.index("EUD by survival")
    lines = page[start : page.index("</table>", start)].split("<tr>")[1:]
    curves = {name_of(r["region"]): r for r in state.summary["dvh"]}
    assert len(lines) == len(curves)
    for line in lines:
        row = curves[unescape(re.findall(r"<td[^>]*>([^<]*)</td>", line)[0])]
        known = row["bed"] and row["bed"]["metrics"]["eud_survival"]
        shown = line.rpartition("<td")[2].partition(">")[2]
        assert shown.startswith(number(known["mean"]) if known else "–")


def test_a_page_asks_for_nothing_outside_itself(page: str) -> None:
    addresses = set(re.findall(r"""(?:href|src|action|data|url)\s*[=(]\s*["']?([^"'\s)>]+)""", page))
    outside = {a for a in addresses if not a.startswith(("#", "data:"))}
    assert not outside
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "@import" not in page


def test_a_page_runs_no_script_and_forbids_all_but_its_own_style(page: str) -> None:
    assert not re.search(r"<script|<iframe|<object|<embed|<form|javascript:|\son\w+=", page, re.I)
    assert not re.search(r"<[^>]+\sstyle=", page), "an inline style would be blocked by the policy"
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    style = re.search(r"<style>(.*?)</style>", page, re.S)
    assert policy
    assert style
    words = policy.group(1).replace("&#39;", "'")
    assert words.startswith("default-src 'none';")
    digest = base64.b64encode(hashlib.sha256(style.group(1).encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in words
    assert "unsafe" not in words


def test_earlier_therapies_and_their_part_of_the_sum_are_shown(state: TwinState, dose: xr.Dataset) -> None:
    row = {"time_h": -24.0 * 730, "region": "kidneys", "dose_gy": 5.0, "radiation": "beta_gamma", "source": "treatment_plan"}
    opened = replace(with_summary(state, prior_therapies=[row]), ledger=replace(state.ledger, opening_gy={"kidneys": 5.0}))
    text = text_of(render_report(opened, dose))
    assert "Kidneys 5 Gy (beta gamma, from: treatment plan), -730 days from the first therapy" in text.replace("−", "-")
    assert "Earlier therapy" in text
    table = sections.cycle_table(opened)
    kidneys = next(r for r in table["rows"] if r["name"] == "Kidneys")
    assert kidneys["opening"] == 5.0
    assert kidneys["total"]["mean"] == pytest.approx(sum(q["mean"] for q in kidneys["cycles"]) + 5.0)


def test_organ_level_stands_beside_voxel_level_with_its_reason_and_the_method_of_marrow(state: TwinState, page: str) -> None:
    text, level = text_of(page), state.summary["organ_level"]
    table = text[text.index("Organ level beside voxel level") :]
    for row in level["rows"]:
        assert sections.name_of(row["region"]) in table
    assert "−7.0 %" in table
    assert "Self-dose: activity is uneven" in table
    assert "Left kidney, medulla" in table
    assert "Red marrow by image (activity in the segmented marrow)" in text
    assert "the largest part from the rest of the body (0.02" in text
    assert "Fewer than two blood samples are in the evidence" in text


def test_marrow_by_blood_shows_its_ratio(state: TwinState, dose: xr.Dataset) -> None:
    level = state.summary["organ_level"]
    blood = {**level, "marrow": {**level["marrow"], "method": "blood", "words": "blood samples", "ratio": 0.31}}
    text = text_of(render_report(with_summary(state, organ_level=blood), dose))
    assert "Red marrow by blood (blood samples)" in text
    assert "marrow-to-blood ratio 0.31" in text
    assert "Fewer than two blood samples" not in text


def test_a_state_from_before_the_organ_level_still_has_its_page(state: TwinState, dose: xr.Dataset) -> None:
    old = {k: v for k, v in state.summary.items() if k != "organ_level"}
    assert "Organ level beside" not in text_of(render_report(replace(state, summary=old), dose))


def test_no_quantity_of_a_limit_is_abbreviated_but_bed(page: str, state: TwinState) -> None:
    assert {r["quantity"] for r in state.proposal.limits} == {"AD", "BED"}
    assert not re.search(r"\bAD\b", text_of(page))
    assert "Gy absorbed dose" in text_of(page)


def test_the_tile_of_the_fit_says_what_its_number_means(state: TwinState) -> None:
    tile = sections.tiles(state)[-1]
    assert tile["value"] == sections.number(state.posterior.diagnostics["two_j_per_n"])
    for words in (
        "chi-square of the fit per datum",
        "about 1 when errors and drift are as assumed, less when they are smaller",
        "no pass or fail",
    ):
        assert words in tile["label"]


def test_the_same_state_makes_the_same_bytes(state: TwinState, dose: xr.Dataset, page: str) -> None:
    assert render_report(state, dose) == page


def test_a_page_of_a_whole_body_is_small_and_quick(state: TwinState) -> None:
    large = build_dose(state)
    start = time.process_time()
    html = render_report(state, large)
    assert time.process_time() - start < 6.0
    assert len(html) < 4_000_000


def test_research_use_is_said_on_top_and_at_the_bottom(page: str) -> None:
    text = text_of(page)
    assert text.count(BANNER) == 2
    assert text.strip().endswith(BANNER)
    assert text.index(BANNER) < 200


def test_a_page_names_state_parent_model_and_every_digest(state: TwinState, page: str) -> None:
    for word in (state.id, str(state.parent), state.model, *state.evidence.digests, state.identity["science"]):
        assert word in page


def test_every_region_has_dose_interval_curve_and_histogram(state: TwinState, page: str) -> None:
    for row in state.summary["doses"]:
        name = sections.name_of(row["region"])
        assert f"{name}</td>" in page
    for curve in state.summary["curves"]:
        name = sections.name_of(curve["region"])
        assert page.count(f"Activity of {name} over time with its 90 % band") == 2, "linear and logarithmic"
        assert page.count(f"Dose-volume histogram of {name}") == 1


def test_absorbed_dose_and_bed_limits_stand_apart(state: TwinState, page: str) -> None:
    text = text_of(page)
    absorbed = text.index("Absorbed dose", text.index("Cumulative dose against limits"))
    biological = text.index("Biologically effective dose", absorbed)
    assert absorbed < text.index("of 2 Gy", absorbed) < biological < text.index("of 40 Gy", biological)


def test_the_share_of_variance_that_decides_the_word_stands_beside_it(state: TwinState, page: str) -> None:
    half = [{**r, "variance_reduction": 0.46, "learned": "assumed"} for r in state.summary["doses"]]
    text = text_of(render_report(with_summary(state, doses=half), build_dose(state, SMALL, 11.5)))
    assert text.count("assumed 46 %") == len(half)
    assert f"have removed at least {percent(LEARNED_ABOVE)} of the population's variance" in text_of(page)
    assert "nothing here has tested" not in page


def test_the_dose_of_the_bladder_is_called_that_of_its_contents(state: TwinState, dose: xr.Dataset, page: str) -> None:
    text = text_of(page)
    assert "Bladder contents" in text
    assert "about half of the dose deep inside" in text
    dry = [r for r in state.summary["doses"] if r["region"] != "bladder"]
    assert "deep inside" not in text_of(render_report(with_summary(state, doses=dry), dose))
    assert contents("bladder") == "bladder (contents)"
    assert contents("liver") == "liver"


def test_a_state_without_a_therapy_forecasts_and_says_for_which_activity(state: TwinState, dose: xr.Dataset, page: str) -> None:
    given = tuple(replace(a, intent="imaging") for a in state.evidence.administrations)
    ahead = replace(with_summary(state, activity_mbq=7300.0), evidence=replace(state.evidence, administrations=given))
    html = render_report(ahead, dose)
    text = text_of(html)
    for section in ("doses", "time-activity curves", "dose maps", "dose-volume histograms"):
        assert f"Forecast for 7\u202f300 MBq: {section}" in text
    assert text.count("absorbed dose of 7\u202f300 MBq (forecast), Gy") == len(state.summary["dvh"])
    assert text.count("hours after 7\u202f300 MBq (forecast)") == 2 * len(state.summary["curves"])
    told = text[: text.index("Evidence")]
    assert "this cycle, Gy" not in told
    assert "Doses of this cycle" not in told
    assert "dose of this cycle" not in told
    assert "Forecast for" not in text_of(page)


def test_a_limit_table_says_that_its_next_cycle_is_absorbed_dose(page: str) -> None:
    assert "Absorbed dose of the next cycle, Gy/GBq, median" in text_of(page)


def test_ids_and_abbreviations_stay_as_they_are_inside_a_sentence(state: TwinState) -> None:
    assert [in_sentence(r) for r in ("lesion/L2", "kidney_left", "egfr")] == ["Lesion L2", "left kidney", "eGFR"]
    level = state.summary["organ_level"]
    hot = {**level["marrow"], "cross_by_source_gy": {"lesion/L2": 0.03, "liver": 0.01}}
    assert "the largest part from Lesion L2 (" in marrow_words(hot)


def test_assumed_doses_and_numbers_are_marked(state: TwinState, page: str) -> None:
    assert '<span class="tag assumed">assumed</span>' in page
    for row in state.summary["assumed"]:
        assert row["name"] in page
        assert row["source"] in page


def test_every_datum_of_the_fit_is_listed_with_its_status(state: TwinState, page: str) -> None:
    table = page[page.index("Every datum") : page.index('id="assumed"')]
    assert table.count("<tr") == len(state.posterior.fit_report) + 1
    assert table.count(">outlier<") == 1
    assert table.count(">missing<") == 1
    assert "outside the field of view" in table


def test_outliers_and_missing_scans_are_marked_on_the_curves(page: str) -> None:
    assert re.search(r"<title>3 days: [\d.]+ ± [\d.]+ MBq, outlier</title>", page)
    assert "<title>7 days: missing</title>" in page


def test_laboratory_trends_are_called_trends_and_not_forecasts(page: str) -> None:
    assert "trend of the data, not a mechanistic forecast" in page
    assert "CTCAE v5.0" in page


def test_findings_count_their_hours_from_the_administration_of_the_cycle_as_curves_do() -> None:
    words = "liver 1056.0 h after the first therapy: one sd of its activity is 60%"
    assert sections.since_start(words, 1032.0) == "liver 24.0 h after this administration: one sd of its activity is 60%"
    assert sections.since_start("PET -319.4 h after the first therapy", -320.4) == "PET 1.0 h after this administration"
    assert sections.since_start("liver holds 0.88 mL", 1032.0) == "liver holds 0.88 mL"


@given(st.lists(st.floats(0, 200), max_size=8).map(sorted))
def test_labels_that_would_lie_on_each_other_stand_side_by_side(heights: list[float]) -> None:
    places = figures.beside(heights, 10.0)
    for i, j in itertools.combinations(range(len(heights)), 2):
        assert places[i] != places[j] or heights[j] - heights[i] >= 10.0
    if all(b - a >= 10.0 for a, b in itertools.pairwise(heights)):
        assert not any(places)


def test_provenance_is_told_in_words() -> None:
    told = dict(sections.flattened({"python": "3.11.7", "machine": "x86_64", "lock_sha256": "21bd", "new_key": {"a_b": None}}))
    assert told == {"Python": "3.11.7", "Processor": "x86_64", "SHA-256 of the lock file": "21bd", "new key · a b": "–"}


def test_a_grade_line_is_drawn_only_in_the_unit_it_was_stated_in() -> None:
    assert (50.0, "grade 3") in sections.grade_lines("platelets", "10*9/L")
    assert sections.grade_lines("leukocytes", "10*9/L") == [(3.0, "grade 2"), (2.0, "grade 3"), (1.0, "grade 4")]
    assert sections.grade_lines("platelets", "10*3/uL") == []
    assert sections.grade_lines("psa", "ng/mL") == []


WAITING = "Waiting for a signature"


def decision(state: TwinState, kind: str, activity: float | None = 7000.0, scripted: bool = False) -> Decision:
    who = "" if kind == "retrospective" else "A. Person"
    return Decision(state.id, kind, activity, who, "physician", "kidney function fell", scripted)  # type: ignore[arg-type]


def test_an_open_proposal_waits_and_nothing_is_filled_in(state: TwinState, page: str) -> None:
    assert WAITING in page
    proposed = f"{state.proposal.activity_mbq:,.0f}".replace(",", "\u202f")  # type: ignore[union-attr]
    assert f"Proposed for cycle 3: {proposed} MBq" in page
    block = page[page.index('class="sign"') :]
    assert proposed not in text_of(block)
    assert "<input" not in block
    assert block.count("(required)") == 5


@pytest.mark.parametrize(
    ("kind", "scripted", "words"),
    [
        ("signed", False, "Signed as proposed, 7\u202f000 MBq, by A. Person (physician)"),
        ("changed", False, "Changed to 7\u202f000 MBq by A. Person (physician): kidney function fell"),
        ("refused", False, "Refused by A. Person (physician): kidney function fell"),
        ("signed", True, "a program made this decision for the demonstration, no person did"),
        ("retrospective", False, "nobody was asked to sign"),
    ],
)
def test_a_page_says_what_was_decided_and_by_whom(
    state: TwinState, dose: xr.Dataset, kind: str, scripted: bool, words: str
) -> None:
    html = render_report(state, dose, decision(state, kind, None if kind == "refused" else 7000.0, scripted))
    assert words in text_of(html)
    assert WAITING not in html
    assert 'class="sign"' not in html, "a decided state has no empty form"


def test_a_signature_is_called_a_claim(state: TwinState, dose: xr.Dataset) -> None:
    html = render_report(state, dose, decision(state, "signed"))
    assert "a claim; the software does not prove who it was" in html


def test_an_abstention_is_the_headline_with_its_reasons(dose: xr.Dataset) -> None:
    abstaining = build_state(2, abstain=True)
    text = text_of(render_report(abstaining, dose))
    assert "No recommendation for cycle 3." in text
    assert "The twin abstains: the model does not fit the data: 2J/n = 3.40" in text
    assert "Proposed for" not in text
    assert "proposed " not in text[text.index("Proposal and its risk") : text.index("Patient and administration")]


def test_a_state_without_proposal_says_so(state: TwinState, dose: xr.Dataset) -> None:
    text = text_of(render_report(replace(state, proposal=None), dose))
    assert "nothing is proposed" in text
    assert "this state has no proposal" in text


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


def test_words_from_data_are_escaped_wherever_they_appear(state: TwinState, dose: xr.Dataset) -> None:
    lesion = replace(state.lesions[0], site=HOSTILE)
    summary = {
        "warnings": [HOSTILE],
        "assumed": [{"name": HOSTILE, "value": 1.0, "unit": HOSTILE, "source": HOSTILE}],
        "labs": [{**state.summary["labs"][0], "analyte": HOSTILE, "unit": HOSTILE}],
        "curves": [{**state.summary["curves"][0], "region": f"lesion/{HOSTILE}"}],
        "dvh": [{**state.summary["dvh"][0], "region": f"lesion/{HOSTILE}"}],
    }
    hostile = replace(with_summary(state, **summary), lesions=(lesion,))
    signed = Decision(state.id, "changed", 7000.0, HOSTILE, HOSTILE, HOSTILE)
    html = render_report(hostile, dose, signed, {HOSTILE: HOSTILE})
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html


def test_truth_is_shown_only_where_it_is_known(state: TwinState, dose: xr.Dataset, page: str) -> None:
    assert "Where the twin errs against truth" not in page
    means = {r["region"]: r["dose_gy"] for r in state.summary["doses"]}
    truth = {"regions": {"liver": {"dose_gy": means["liver"]["q50"]}, "spleen": {"dose_gy": 2 * means["spleen"]["q95"]}}}
    rows = sections.truth_rows(state, truth)
    assert [(r["name"], r["inside"]) for r in rows] == [("Liver", True), ("Spleen", False)]
    assert rows[0]["error"] == pytest.approx(0.0)
    assert "Where the twin errs against truth" in render_report(state, dose, truth=truth)


def test_the_forecast_of_the_state_before_stands_beside_what_came(state: TwinState, dose: xr.Dataset, page: str) -> None:
    before = build_state(1)
    assert "Forecast and what came" not in page
    html = render_report(state, dose, previous=before)
    assert "Forecast and what came" in html
    shown = [r["region"] for r in sections.forecast_pairs(state, before)]
    assert "kidneys" in shown
    assert "kidney_left" not in shown
    assert "red_marrow" not in shown, "an assumed dose shows nothing about a forecast"


def test_the_outlook_of_the_proposal_is_drawn_for_absorbed_dose_and_bed(state: TwinState, page: str) -> None:
    assert state.proposal is not None
    told = {(r["organ"], r["quantity"]): r["after_gy"] for r in state.proposal.limits}
    rows = [r for group in sections.limit_rows(state).values() for r in group]
    assert {r["quantity"] for r in rows} == {"AD", "BED"}
    assert all(r["after_gy"] == told[r["organ"], r["quantity"]] for r in rows)
    assert page.count("with the proposed cycle<") == len(rows)
    assert "draw by draw with the course so far" in text_of(page)


def test_a_state_without_an_outlook_adds_its_forecast_to_absorbed_dose_only_and_says_why(
    state: TwinState, dose: xr.Dataset
) -> None:
    assert state.proposal is not None
    assert state.proposal.activity_mbq is not None
    bare = tuple({k: v for k, v in r.items() if k != "after_gy"} for r in state.proposal.limits)
    state = replace(state, proposal=replace(state.proposal, limits=bare))
    rows = sections.limit_rows(state)
    assert "this state is from before proposals kept their outlook of BED" in text_of(render_report(state, dose))
    (marrow,) = [r for r in rows["AD"] if r["organ"] == "red_marrow"]
    per_gbq = next(r["gy_per_gbq"] for r in state.summary["forecast"] if r["region"] == "red_marrow")
    added = marrow["after_gy"]["q50"] - marrow["cumulative_gy"]["q50"]
    assert added == pytest.approx(per_gbq["q50"] * state.proposal.activity_mbq / 1000)
    assert all("after_gy" not in r for r in rows["BED"])


def test_data_that_the_model_would_hardly_give_are_told_in_one_line(state: TwinState) -> None:
    p = {"p_left_out": 0.2, "p_replicated": 3e-7, "p_largest": 0.1}
    start = sections.start_h(state)
    rows = [
        {"what": "all", "name": "all data", "n": 40, **p},
        {"what": "scan", "name": "f3a9", "time_h": start + 24.0, "modality": "SPECT", "n": 10, **p},
        *({"what": "region", "name": n, "n": 4, **p} for n in ("kidney_left", "liver", "spleen")),
    ]

    def warned(found):
        checks = {**state.posterior.diagnostics, "predictive": {"groups": rows, "extreme": found}}
        changed = replace(state, posterior=replace(state.posterior, diagnostics=checks))
        return [line for line in sections.warnings(changed) if "hardly" in line]

    (line,) = warned(rows)
    assert "the SPECT scan at 24 h (p 3e-07), left kidney (p 3e-07), liver (p 3e-07) and 1 more" in line
    assert "all data" not in line
    assert "all data (p 3e-07)" in warned(rows[:1])[0]
    assert warned([]) == []


@pytest.mark.parametrize(
    ("p", "said"), [(0.2, None), (None, None), (0.004, "0.4% of what it predicted"), (1e-4, "less than 0.1%")]
)
def test_a_cycle_that_the_twin_did_not_expect_is_told_in_one_line(state: TwinState, p, said) -> None:
    checks = {**state.posterior.diagnostics, "innovation_p": p}
    changed = replace(state, posterior=replace(state.posterior, diagnostics=checks))
    lines = [line for line in sections.warnings(changed) if "expected other data" in line]
    assert (said is None and not lines) or said in lines[0]


def test_a_warning_that_is_told_twice_is_shown_once_and_in_words(state: TwinState) -> None:
    told = "lacrimal_left holds 0.4 mL; kidney_right too"
    regions = (*state.evidence.regions, replace(state.evidence.regions[0], name="lacrimal_left", organ="lacrimal_glands"))
    twice = replace(with_summary(state, warnings=[told]), evidence=replace(state.evidence, regions=regions, findings=(told,)))
    assert sections.warnings(twice) == ["Left lacrimal holds 0.4 mL; right kidney too"]


def test_scan_times_count_from_the_administration_of_the_cycle(state: TwinState) -> None:
    rows = sections.acquisitions(state)
    assert [r["since_h"] for r in rows] == [4.0, 24.0, 72.0, 168.0]


def test_the_cycle_table_sums_to_the_ledger(state: TwinState) -> None:
    table = sections.cycle_table(state)
    row = next(r for r in table["rows"] if r["name"] == "Kidneys")
    assert sum(q["mean"] for q in row["cycles"]) == pytest.approx(row["total"]["mean"])
    assert row["total"]["mean"] == pytest.approx(float(state.ledger.cumulative("kidneys").mean()))


EMPTY: Mapping[str, Any] = {
    "doses": [], "cumulative": [], "curves": [], "dvh": [], "labs": [], "forecast": [], "acquisitions": [],
    "conservation": {}, "assumed": [], "warnings": [], "diagnostics": {},
}  # fmt: skip


def test_a_state_with_nothing_to_show_still_makes_a_page(state: TwinState, dose: xr.Dataset) -> None:
    bare = replace(state, summary=dict(EMPTY), proposal=None, lesions=())
    text = text_of(render_report(bare, dose))
    assert "No lesion is tracked" in text
    assert "No limit is set" in text
    assert state.id in text


def test_a_bed_limit_without_alpha_beta_is_left_out_instead_of_failing(state: TwinState, dose: xr.Dataset) -> None:
    rows = [{**r, "cumulative_gy": None if r["quantity"] == "BED" else r["cumulative_gy"]} for r in state.summary["cumulative"]]
    text = text_of(render_report(with_summary(state, cumulative=rows), dose))
    assert "of 40 Gy" not in text


def test_a_censored_value_keeps_its_comparator(state: TwinState, dose: xr.Dataset) -> None:
    row = next(r for r in state.summary["labs"] if r["analyte"] == "psa")
    points = [*row["points"][:-1], {**row["points"][-1], "value": 0.1, "comparator": "<"}]
    html = render_report(with_summary(state, labs=[{**row, "points": points}]), dose)
    assert "&lt;0.100 ng/mL" in html


def test_lines_about_regions_name_them_in_words() -> None:
    lines = sections.with_names(["lacrimal_left is small", "of 3 mL: lesion/L1"], ["lacrimal_left", "lesion/L1"])
    assert lines == ["Left lacrimal is small", "Of 3 mL: Lesion L1"]


def test_the_tile_names_the_limit_of_which_most_is_used_by_the_number_that_it_shows(state: TwinState) -> None:
    rows = [
        {"organ": "kidneys", "quantity": "BED", "limit_gy": 40.0, "cumulative_gy": {"q50": 5.2, "q95": 5.5}},
        {"organ": "red_marrow", "quantity": "AD", "limit_gy": 2.0, "cumulative_gy": {"q50": 0.2, "q95": 0.29}},
    ]
    shown = sections.tiles(with_summary(state, cumulative=rows))
    told = next(t for t in shown if "limit used" in t["label"])
    assert (told["value"], told["label"].split()[2]) == ("13 %", "kidneys")
