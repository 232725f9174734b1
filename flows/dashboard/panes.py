"""The dashboard's pieces of HTML: escaped text from states, without any look of its own beyond `dashboard.css`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from flows.dashboard.alarms import Alarm
from flows.report import sections
from flows.report.style import hours, interval, number
from flows.report.svg import GRID, INK, MUTED, document, nice_ticks, rule, text, tick_label
from storage.twin_reader import StateInfo
from tdt_core.twin import Decision, TwinState

CHIP_COLOURS = {"signed": "#2e7d52", "changed": "#b07a00", "refused": "#b3261e", "retrospective": "#8795a1"}
WAITING = "#c08a00"


def header(state: TwinState, info: StateInfo, decision: Decision | None) -> Markup:
    """Who, which state, what it says."""
    verdict = sections.verdict(state, decision)
    lines = Markup("").join(Markup("<li>{}</li>").format(line) for line in verdict["lines"])
    return Markup(
        '<div class="note">patient <span class="mono">{pid}</span> · cycle {cycle} · state <span class="mono">{id}</span> · '
        "began {valid} from the first therapy · known since {known} · model {model}</div>"
        '<div class="verdict {tone}"><div class="top"><h2>{headline}</h2><span class="chip">{chip}</span></div>'
        "<ul>{lines}</ul></div>"
    ).format(
        pid=state.pid,
        cycle=state.cycle,
        id=state.id[:16],
        valid=hours(state.valid_time_h),
        known=info.knowledge_time.strftime("%Y-%m-%d %H:%M UTC"),
        model=state.model,
        tone=verdict["tone"],
        headline=verdict["headline"],
        chip=verdict["chip"],
        lines=lines,
    )


def alarm_list(alarms: Sequence[Alarm]) -> Markup:
    """Alarms, worst first; says so when there is none."""
    if not alarms:
        return Markup('<ul class="alarms"><li class="calm">Nothing to look at: diagnostics and store are in order.</li></ul>')
    order = {"stop": 0, "wait": 1, "note": 2}
    rows = (Markup('<li class="{}">{}</li>').format(a.level, a.words) for a in sorted(alarms, key=lambda a: order[a.level]))
    return Markup('<ul class="alarms">{}</ul>').format(Markup("").join(rows))


def timeline(chain: Sequence[StateInfo], decisions: Mapping[str, Decision | None], chosen: str, branches: int) -> Markup:
    """The patient's states by valid time, oldest left; colour and words tell what was decided on each."""
    states = sorted(chain, key=lambda i: i.cycle)
    days = [i.valid_time_h / 24 for i in states]
    low, high = min(0.0, *days), max(*days, 1.0)
    pad = 0.08 * (high - low)
    low, high = low - pad, high + pad
    width, height, y = 900.0, 112.0, 46.0

    def px(day: float) -> float:
        return 20 + (width - 40) * (day - low) / (high - low)

    parts = [rule(20, y, width - 20, y, "#b9c3cb", 2)]
    for tick in nice_ticks(low, high, 8):
        parts.append(rule(px(tick), y + 36, px(tick), y + 40, MUTED))
        parts.append(text(px(tick), y + 52, tick_label(tick), anchor="middle"))
    parts.append(rule(20, y + 36, width - 20, y + 36, GRID))
    parts.append(text(width - 20, y + 64, "days from the first therapy administration", anchor="end"))
    for info, day in zip(states, days, strict=True):
        decision = decisions.get(info.id)
        colour = CHIP_COLOURS[decision.kind] if decision else WAITING
        ring = f'stroke="{INK}" stroke-width="3"' if info.id == chosen else f'stroke="{colour}" stroke-width="1"'
        parts.append(f'<circle cx="{px(day):.1f}" cy="{y:.0f}" r="9" fill="{colour}" {ring}/>')
        parts.append(text(px(day), y - 30, f"Cycle {info.cycle}", anchor="middle", fill=INK, weight="600", size=12))
        words = decision.kind + (", scripted" if decision.scripted else "") if decision else "no decision"
        parts.append(text(px(day), y - 17, words, anchor="middle", size=10))
        parts.append(text(px(day), y + 25, info.id[:10], anchor="middle", size=9.5))
    note = f"{branches - 1} older branch(es) are kept beside this chain." if branches > 1 else ""
    picture = document(width, height + 4, parts, f"{len(states)} states of the patient over time")
    return Markup('{}<div class="note">{}</div>').format(picture, note)


def dose_table(state: TwinState) -> Markup:
    """Doses of the cycle, short."""
    rows = [r for group in sections.dose_rows(state) for r in group if not r["nested"]]
    body = Markup("").join(
        Markup(
            '<tr><td><svg width="10" height="10" aria-hidden="true"><rect width="10" height="10" fill="{}"/></svg> {}</td>'
            '<td class="r"><b>{}</b></td><td class="r">{}</td><td class="r">{}</td><td>{}</td></tr>'
        ).format(
            r["colour"], r["name"], number(r["dose_gy"]["mean"]), interval(r["dose_gy"]), number(r["gy_per_gbq"]["mean"]),
            r["learned"],
        )
        for r in rows
    )  # fmt: skip
    return Markup(
        '<h3>Absorbed dose of this cycle</h3><table><thead><tr><th>Region</th><th class="r">Gy</th>'
        '<th class="r">90 % interval</th><th class="r">Gy/GBq</th><th>Dose is</th></tr></thead><tbody>{}</tbody></table>'
    ).format(body)


def facts(state: TwinState) -> Markup:
    """Patient and administration."""
    rows = Markup("").join(Markup("<dt>{}</dt><dd>{}</dd>").format(a, b) for a, b in sections.administration(state))
    return Markup("<h3>Given</h3><dl>{}</dl>").format(rows)


def report_frame(state_id: str, exists: bool) -> Markup:
    """The stored report in a frame of the same host, without scripts; or word that there is none."""
    if not exists:
        return Markup('<p class="note">No report of this state has been written yet; the run that made it writes one.</p>')
    address = f"derived/{state_id}/report.html"
    return Markup(
        '<p class="note"><a href="{0}" target="_blank" rel="noopener">open on its own</a></p>'
        '<iframe src="{0}" sandbox="" title="Report of state {1}"></iframe>'
    ).format(address, state_id[:12])


def error_box(words: str) -> Markup:
    """A refusal of the store, instead of a page that looks whole."""
    return alarm_list([Alarm("stop", words)])


def patient_label(pid: str, cycles: int, decision: Decision | None, has_state: bool) -> str:
    """One line of the patient list."""
    if not has_state:
        return f"{pid} · no state"
    words = "no decision yet" if decision is None else decision.kind + (", scripted" if decision.scripted else "")
    return f"{pid} · cycle {cycles} · {words}"
