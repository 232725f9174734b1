"""What a report says, as plain rows: everything that is looked up, compared or put into words before a template shows it."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from flows.report.style import (
    ORGAN_COLOURS,
    activity,
    colour_of,
    hours,
    in_sentence,
    name_of,
    number,
    organ_of,
    percent,
    plain,
)
from tdt_core.assimilation.predictive import unexpected
from tdt_core.draws import summarised
from tdt_core.twin import QUANTITY_NAMES, Decision, Proposal, TwinState

Row = dict[str, Any]
MOST_SURPRISING = 3
FIT_WORDS = "chi-square of the fit per datum"
EXPECTED = "about 1 when errors and drift are as assumed, less when they are smaller"
PROVENANCE_NAMES = {
    "code_commit": "Commit of the code",
    "lock_sha256": "SHA-256 of the lock file",
    "machine": "Processor",
    "python": "Python",
    "reason": "Made because of",
}
DIAGNOSTIC_NAMES = {
    "n_obs": "Data used",
    "n_left_out": "Data left out",
    "n_outliers": "Outliers, down-weighted",
    "two_j": "Chi-square of the fit, prior included (2J at the optimum)",
    "two_j_per_n": f"{FIT_WORDS.capitalize()} (2J/n), {EXPECTED}",
    "chi2_per_n": "Chi-square per datum",
    "innovation_chi2_per_n": "Innovation chi-square per datum (surprise against the prior, linearised)",
    "innovation_n": "Data compared with the prior",
    "innovation_p": "Share of data predicted from the prior that would surprise more",
    "effective_parameters": "Parameters that the data inform",
    "distinct_optima": "Distinct optima found",
    "linearity_shift_sd": "Largest shift of draws against the optimum, sd",
}


CONSERVATION_NAMES = {
    "emitted_j": ("Energy emitted", "J"),
    "deposited_j": ("Energy deposited on the grid", "J"),
    "escaped_fraction": ("Energy that left the grid", "%"),
    "carried_out_j": ("Energy of daughters that decay in no region", "J"),
    "activity_relative_difference": ("Activity, voxels against regions", "%"),
    "balance_relative_difference": ("Emitted less deposited and escaped", "%"),
}


ENGINE_WORDS = {
    "local": "electrons and alphas stay in their voxel, photons leave the body",
    "kernel": "energy spreads as in water; each voxel's own mass divides it",
    "multimedium": "electrons follow rays through the media of the CT, photons are scaled by density",
    "mc": "decays followed through the media of the CT; their statistics are part of the SD of voxels",
}


def in_order(regions: Sequence[str]) -> list[str]:
    """Region names in the order in which pages list them: organs as in the palette, then lesions, then the rest."""
    ranks = {name: n for n, name in enumerate(ORGAN_COLOURS)}
    return sorted(regions, key=lambda r: (ranks.get(organ_of(r), ranks["lesions"] - 1), is_side(r), regions.index(r)))


def quantity_of(row: Mapping[str, Any]) -> str:
    """The quantity of a limit's row in words."""
    return QUANTITY_NAMES[row["quantity"]]


def is_side(region: str) -> bool:
    """Whether a region is the left or right one of a pair."""
    return region.endswith(("_left", "_right"))


def verdict(state: TwinState, decision: Decision | None, superseded_by: str | None = None) -> Row:
    """The one sentence on top: what is proposed or why nothing is, and where the signature stands.

    superseded_by : id of the state that stands in place of this one.
    """
    said = _verdict(state, decision)
    if superseded_by is None:
        return said
    words = f"Superseded by state {superseded_by[:12]}: read and decide on the newest state of the patient, not on this one."
    return {**said, "tone": "quiet", "chip": "Superseded", "lines": [words, *said["lines"]]}


def _verdict(state: TwinState, decision: Decision | None) -> Row:
    proposal = state.proposal
    if decision is not None and decision.kind == "retrospective":
        lines = ["Cycles of the past are taken in together; nobody was asked to sign."]
        if proposal is not None and proposal.activity_mbq is not None:
            words = f"For cycle {proposal.cycle} the twin would have proposed {activity(proposal.activity_mbq)} MBq"
            lines.append(f"{words} (risk {percent(proposal.risk)}).")
        return {
            "tone": "quiet",
            "chip": "Retrospective",
            "headline": f"Cycle {state.cycle} taken in as history.",
            "lines": lines,
        }
    if proposal is None and decision is None:
        headline = f"Cycle {state.cycle} taken in; nothing is proposed."
        return {"tone": "quiet", "chip": "No proposal", "headline": headline, "lines": []}
    target = f"cycle {proposal.cycle if proposal else state.cycle + 1}"
    if proposal is None or proposal.abstains:
        headline, tone = f"No recommendation for {target}.", "alert"
        lines = [_sentence(f"the twin abstains: {reason}") for reason in _reasons(proposal)]
    else:
        headline, tone = f"Proposed for {target}: {activity(proposal.activity_mbq or 0)} MBq of {proposal.product}.", "calm"
        lines = [_sentence(r) for r in proposal.reasons]
    chip, signed = _signature(decision)
    if decision is None and (proposal is None or proposal.abstains):
        chip = "No recommendation"
    return {"tone": tone, "chip": chip, "headline": headline, "lines": ([signed] if signed else []) + lines}


def _reasons(proposal: Proposal | None) -> tuple[str, ...]:
    return proposal.reasons if proposal and proposal.reasons else ("no reason was recorded",)


def _sentence(words: str) -> str:
    for organ in ORGAN_COLOURS:
        words = words.replace(organ, organ.replace("_", " "))
    words = words[:1].upper() + words[1:]
    return words if words.endswith(".") else words + "."


def _signature(decision: Decision | None) -> tuple[str, str]:
    if decision is None:
        return "Waiting for a signature", ""
    who = f"{decision.signed_by} ({decision.role})"
    if decision.scripted:
        who = f"a scripted clinician, “{decision.signed_by}”: a program made this decision for the demonstration, no person did"
    words = {
        "signed": ("Signed", f"Signed as proposed, {activity(decision.activity_mbq or 0)} MBq, by {who}."),
        "changed": ("Signed, changed", f"Changed to {activity(decision.activity_mbq or 0)} MBq by {who}: {decision.reason}."),
        "refused": ("Refused", f"Refused by {who}: {decision.reason}."),
        "retrospective": ("Retrospective", "Taken in as history; nobody was asked to sign."),
    }[decision.kind]
    chip = words[0] + (", scripted" if decision.scripted else "")
    return chip, words[1].replace("..", ".")


def tiles(state: TwinState) -> list[Row]:
    """Four numbers that a reader looks for first."""
    proposal, rows = state.proposal, known_limits(state)
    found: list[Row] = []
    if proposal and not proposal.abstains:
        binding = proposal.binding or "allowed range"
        found.append({"value": percent(proposal.risk), "label": "risk that a limit's allowance is exceeded"})
        found.append({"value": name_of(binding), "label": "decides the activity"})
    if rows:
        worst = max(rows, key=lambda r: r["cumulative_gy"]["q50"] / r["limit_gy"])
        used = worst["cumulative_gy"]["q50"] / worst["limit_gy"]
        of = f"{plain(worst['limit_gy'])} Gy {quantity_of(worst)}"
        words = f"of the {in_sentence(worst['organ'])} limit used so far, median ({of})"
        found.append({"value": percent(used), "label": words})
    d = state.posterior.diagnostics
    fit = d.get("two_j_per_n", d.get("chi2_per_n"))
    if fit is not None:
        outliers = int(d.get("n_outliers", 0))
        extra = f", {outliers} outlier{'s' if outliers != 1 else ''}" if outliers else ""
        words = f"{FIT_WORDS}, over {d.get('n_obs', '?')} data{extra}; {EXPECTED}; no pass or fail"
        found.append({"value": number(fit), "label": words})
    return found


def administration(state: TwinState) -> list[tuple[str, str]]:
    """Patient covariates and what was given, as label and text."""
    p = state.patient
    rows = [
        ("Patient", p.pid),
        ("Covariates", f"{p.sex}, {plain(p.age_y)} years, {plain(p.height_cm)} cm, {plain(p.weight_kg)} kg"),
    ]
    if p.haematocrit is not None:
        rows.append(("Haematocrit", number(p.haematocrit, 2)))
    for a in state.evidence.administrations:
        words = "Therapy" if a.intent == "therapy" else "Imaging agent"
        amount = "ligand amount not recorded" if a.amount_nmol is None else f"{plain(a.amount_nmol)} nmol ligand"
        rows.append((words, f"{a.product} ({a.nuclide}), {a.route}, {hours(a.time_h)} from the first therapy administration"))
        net = f"{activity(a.activity_mbq)} − {plain(a.residual_mbq)} residual = {activity(a.net_activity_mbq)} MBq"
        rows.append(("Activity", f"{net}; {amount}"))
    for x in state.summary.get("prior_therapies") or []:
        what = (
            f"{name_of(x['region'])} {plain(x['dose_gy'])} Gy ({plain_words(x['radiation'])}, from: {plain_words(x['source'])})"
        )
        rows.append(("Earlier therapy", f"{what}, {hours(x['time_h'])} from the first therapy administration; counts in full"))
    return rows


def plain_words(code: str) -> str:
    """A word of a closed list as people write it."""
    return code.replace("_", " ")


def dose_rows(state: TwinState) -> tuple[list[Row], list[Row]]:
    """Per-region doses of this cycle, (organs, lesions), with display strings and each table's scale."""
    rows = [r for r in state.summary.get("doses") or [] if r["dose_gy"]]
    order = in_order([r["region"] for r in rows])
    rows = sorted(rows, key=lambda r: order.index(r["region"]))
    groups: tuple[list[Row], list[Row]] = ([], [])
    for row in rows:
        region, organ = row["region"], row["organ"]
        nested = is_side(region) and organ in order
        shown = {**row, "name": name_of(region), "colour": colour_of(region, organ), "nested": nested}
        groups[organ_of(region) == "lesions"].append(shown)
    return groups


def known_limits(state: TwinState) -> list[Row]:
    """Rows of `cumulative` whose dose is known; a BED limit of an organ without alpha/beta has none."""
    return [r for r in state.summary.get("cumulative") or [] if r["cumulative_gy"]]


def limit_rows(state: TwinState) -> dict[str, list[Row]]:
    """Cumulative dose against limits by quantity (`AD`, `BED`), with what they would be after the proposed cycle.

    `after_gy` is the proposal's own, draw by draw. A state from before proposals held it has it of absorbed dose only, from the
    forecast: the ends of both intervals are added, as for fully correlated errors, the widest reading.
    """
    proposal = state.proposal
    forecast = {r["region"]: r["gy_per_gbq"] for r in state.summary.get("forecast") or []}
    after = {(r["organ"], r["quantity"]): r.get("after_gy") for r in (proposal.limits if proposal else ())}
    groups: dict[str, list[Row]] = {"AD": [], "BED": []}
    for row in known_limits(state):
        shown = {**row, "label": name_of(row["organ"])}
        if proposal is not None and proposal.remaining_cycles + state.cycle > 0:
            shown["even_share"] = state.cycle / (state.cycle + proposal.remaining_cycles)
            per_gbq = forecast.get(row["organ"])
            if told := after.get((row["organ"], row["quantity"])):
                shown["after_gy"] = told
            elif per_gbq and proposal.activity_mbq and row["quantity"] == "AD":
                add = proposal.activity_mbq / 1000
                shown["after_gy"] = {k: row["cumulative_gy"][k] + per_gbq[k] * add for k in ("mean", "q05", "q50", "q95")}
        groups[row["quantity"]].append(shown)
    return groups


def cycle_table(state: TwinState) -> Row:
    """Absorbed dose by cycle and region from the ledger, mean and 90 % interval, with the sum."""
    ledger = state.ledger
    rows = []
    for region in in_order(list(ledger.regions)):
        i = ledger.regions.index(region)
        per_cycle = [summarised(ledger.dose_gy[k, i]) for k in range(len(ledger.cycles))]
        if not any(q["mean"] > 0 for q in per_cycle):
            continue
        total = summarised(ledger.cumulative(region))
        opening = ledger.opening_gy.get(region, 0.0)
        nested = is_side(region) and organ_of(region) in ledger.regions
        row = {"name": name_of(region), "colour": colour_of(region), "nested": nested, "cycles": per_cycle, "total": total}
        rows.append({**row, "opening": opening})
    heads = [
        {"cycle": c, "kind": k, "activity": a}
        for c, k, a in zip(ledger.cycles, ledger.kinds, ledger.activities_mbq, strict=True)
    ]
    return {"heads": heads, "rows": rows, "opening": any(r["opening"] for r in rows)}


def late_half_life_h(curve: Mapping[str, Any]) -> float | None:
    """Effective half-life of the median curve over its last third; None where it does not fall."""
    times, values = np.asarray(curve["times_h"]), np.asarray(curve["q50"])
    late = (times >= times[0] + 2 / 3 * (times[-1] - times[0])) & (values > 0)
    if late.sum() < 3:
        return None
    slope = float(np.polyfit(times[late], np.log(values[late]), 1)[0])
    return math.log(2) / -slope if slope < -1e-6 else None


def fit_rows(state: TwinState) -> list[Row]:
    """Per datum: observed, predicted before and after, z, status; times since the administration."""
    return [
        {
            **row,
            "name": name_of(row["region"]),
            "colour": colour_of(row["region"]),
            "since_h": row["time_h"] - start_h(state),
            "suspicious": row["status"] not in ("active", "below_limit"),
        }
        for row in state.posterior.fit_report
    ]


def diagnostics(state: TwinState) -> list[tuple[str, str]]:
    """Plain numbers of the fit in words; nested values are left to the state file."""
    rows = []
    for key, value in {**state.summary.get("diagnostics", {}), **state.posterior.diagnostics}.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            words = plain(value) if float(value).is_integer() else number(value)
            rows.append((DIAGNOSTIC_NAMES.get(key, key.replace("_", " ")), words))
    return rows


def dose_engine(state: TwinState) -> list[tuple[str, str]]:
    """How the dose was computed: engine, version of its sources and data, where density and medium come from."""
    told = state.summary.get("dose_engine")
    if not told:
        return []
    return [
        ("engine", f"{told['name']}: {ENGINE_WORDS.get(told['name'], 'see docs/dosimetry.md')}"),
        ("version", told["version"][:12]),
        ("CT to density and medium", told["density_from"]),
    ]


def conservation(state: TwinState) -> list[tuple[str, str]]:
    """The run-time conservation checks of the dose engine in words."""
    rows = []
    for key, value in (state.summary.get("conservation") or {}).items():
        words, unit = CONSERVATION_NAMES.get(key, (key.replace("_", " "), ""))
        rows.append((words, percent(value, 3) if unit == "%" else f"{number(value)} {unit}".strip()))
    return rows


def forecast_pairs(state: TwinState, previous: TwinState | None) -> list[Row]:
    """What the previous state forecast for this cycle beside what this cycle showed, Gy/GBq, measured regions only."""
    if previous is None:
        return []
    seen = measured(state)
    before = {r["region"]: r["gy_per_gbq"] for r in previous.summary.get("forecast") or []}
    found = {r["region"]: r for r in state.summary.get("doses") or [] if r["region"] in seen}
    shown = [r for r in in_order([*found]) if r in before and not (is_side(r) and organ_of(r) in found)]
    return [{"region": r, "forecast": before[r], "found": found[r]["gy_per_gbq"]} for r in shown]


def truth_rows(state: TwinState, truth: Mapping[str, Any] | None) -> list[Row]:
    """Estimate against the phantom's truth: dose, interval, error, whether the interval holds the truth."""
    if not truth:
        return []
    known = truth.get("regions", truth)
    rows = []
    for row in [r for group in dose_rows(state) for r in group]:
        entry = known.get(row["region"])
        value = entry.get("dose_gy") if isinstance(entry, Mapping) else entry
        if not isinstance(value, (int, float)) or value <= 0:
            continue
        q = row["dose_gy"]
        rows.append(
            {
                "name": row["name"],
                "colour": row["colour"],
                "nested": row["nested"],
                "truth": float(value),
                "dose_gy": q,
                "error": q["q50"] / value - 1,
                "inside": q["q05"] <= value <= q["q95"],
            }
        )
    return rows


def start_h(state: TwinState) -> float:
    """When the cycle began: its therapy administration, else its last imaging one, else the origin."""
    given = state.evidence.administrations
    therapy = [a.time_h for a in given if a.intent == "therapy"]
    return max(therapy or [a.time_h for a in given], default=0.0)


def warnings(state: TwinState) -> list[str]:
    """Warnings of the computation and findings of the intake, each once, with regions in words."""
    words = dict.fromkeys([*(state.summary.get("warnings") or []), *surprising(state), *state.evidence.findings])
    return with_names((since_start(w, start_h(state)) for w in words), [r.name for r in state.evidence.regions])


_FROM_FIRST = re.compile(r"(-?\d+\.\d) h after the first therapy")


def since_start(words: str, start_h: float) -> str:
    """A finding with its hours counted from this administration, as curves and tables count them."""
    return _FROM_FIRST.sub(lambda m: f"{float(m[1]) - start_h:.1f} h after this administration", words)


def surprising(state: TwinState) -> list[str]:
    """One line on data that the twin hardly expected, and one on the scans and regions that the fitted model would hardly give;
    none where all data are as expected."""
    diagnostics = state.posterior.diagnostics
    lines = []
    if unexpected(diagnostics):
        p = diagnostics["innovation_p"]
        told = f"{p:.1%}" if p > 0.001 else "less than 0.1%"
        lines = [f"The twin expected other data before this cycle: {told} of what it predicted would have surprised it more."]
    found = diagnostics.get("predictive", {}).get("extreme", [])
    shown = [row for row in found if row["what"] != "all"] or found
    if not shown:
        return lines
    named = ", ".join(
        (f"the {r['modality']} scan at {r['time_h'] - start_h(state):.0f} h" if r["what"] == "scan" else r["name"])
        + f" (p {min(r['p_left_out'], r['p_replicated'], r['p_largest']):.0e})"
        for r in shown[:MOST_SURPRISING]
    )
    more = f" and {len(shown) - MOST_SURPRISING} more" if len(shown) > MOST_SURPRISING else ""
    return [
        *lines,
        f"The fitted model would hardly give these data: {named}{more}; check their times, calibration and contours.",
    ]


def with_names(lines: Iterable[str], regions: Iterable[str]) -> list[str]:
    """Lines with their regions in words and a capital letter."""
    names = sorted(regions, key=len, reverse=True)
    shown = []
    for line in lines:
        for name in names:
            line = line.replace(name, in_sentence(name))
        shown.append(line[:1].upper() + line[1:])
    return shown


def acquisitions(state: TwinState) -> list[Row]:
    """Scans of the cycle; times since its administration, negative before it."""
    return [{**a, "since_h": a["time_h"] - start_h(state)} for a in state.summary.get("acquisitions") or []]


def measured(state: TwinState) -> set[str]:
    """Regions with a usable datum in this cycle, and organs all of whose regions have one."""
    seen = {r["region"] for r in state.posterior.fit_report if r["status"] != "missing"}
    organs: dict[str, set[str]] = {}
    for row in state.summary.get("doses") or []:
        if row["region"] != row["organ"]:
            organs.setdefault(row["organ"], set()).add(row["region"])
    return seen | {organ for organ, members in organs.items() if members <= seen}


def lesion_rows(state: TwinState) -> list[Row]:
    """Lesions with their history and the dose of each cycle."""
    ledger = state.ledger
    rows = []
    for lesion in state.lesions:
        region = f"lesion/{lesion.tracking_id}"
        doses = []
        if region in ledger.regions:
            i = ledger.regions.index(region)
            doses = [float(np.mean(ledger.dose_gy[k, i])) for k in range(len(ledger.cycles))]
        related = ", ".join(lesion.related_to)
        rows.append({"lesion": lesion, "colour": colour_of(region), "doses": doses, "total": sum(doses), "related": related})
    return rows


@cache
def _grades() -> tuple[dict[str, str], ...]:
    text = resources.files("flows.report").joinpath("data", "toxicity_grades.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def grade_lines(analyte: str, unit: str) -> list[tuple[float, str]]:
    """Reference lines of an analyte, only in the unit that they were stated in."""
    return [(float(g["value"]), f"grade {g['grade']}") for g in _grades() if (g["analyte"], g["unit"]) == (analyte, unit)]


def flattened(data: Mapping[str, Any] | None, prefix: str = "") -> list[tuple[str, str]]:
    """Nested plain data as label and text, for the provenance table."""
    rows: list[tuple[str, str]] = []
    for key, value in (data or {}).items():
        name = f"{prefix}{PROVENANCE_NAMES.get(key, key.replace('_', ' '))}"
        if isinstance(value, Mapping):
            rows += flattened(value, f"{name} · ")
        elif isinstance(value, (list, tuple)):
            rows.append((name, ", ".join(str(v) for v in value) or "–"))
        else:
            rows.append((name, "–" if value is None else str(value)))
    return rows


def risk_words(state: TwinState) -> str:
    """The forecast in one sentence for the caption of the risk curve."""
    proposal = state.proposal
    if proposal is None or proposal.activity_mbq is None:
        return "No activity is proposed; the risk of each activity is shown all the same."
    words = [f"{name_of(r['organ'])} {number(r['allowance_q50_gy'])} Gy {quantity_of(r)}" for r in proposal.limits]
    spread = "; ".join(words)
    return f"Allowance of the next cycle (remaining limit spread over {proposal.remaining_cycles} cycles, median): {spread}."
