"""Sentences of a report that say what its numbers are: forecast or found, learned or assumed, wall or contents."""

from __future__ import annotations

from collections.abc import Iterable

from flows.report.style import HOLLOW, activity, percent
from flows.summary import LEARNED_ABOVE
from tdt_core.twin import TwinState

HOLLOW_WORDS = (
    "Bladder contents: the dose to the urine. The wall is no region of its own; at the surface of the contents electrons give "
    "about half of the dose deep inside."
)


def hollow_words(regions: Iterable[str]) -> str:
    """What the dose of a hollow organ means, where one is among the regions."""
    return HOLLOW_WORDS if any(r in HOLLOW for r in regions) else ""


def learned_words() -> str:
    """The rule behind "learned" and "assumed" (`flows.summary.dose_rows`)."""
    return (
        f"“Learned”: all data of this patient up to now have removed at least {percent(LEARNED_ABOVE)} of the population's "
        "variance of the region's ln uptake (of an organ of several regions, in each). “Assumed”: less than that, so that most "
        "of it still rests on the population; the share removed stands beside the word."
    )


def planned(state: TwinState) -> str:
    """`7 400 MBq (forecast)` while nothing was given for therapy, for axes and legends; else nothing."""
    if any(a.intent == "therapy" for a in state.evidence.administrations):
        return ""
    return f"{activity(state.summary['activity_mbq'])} MBq (forecast)"


def forecast_for(state: TwinState) -> str:
    """`Forecast for 7 400 MBq` while nothing was given for therapy, for headings; else nothing."""
    return f"Forecast for {of.removesuffix(' (forecast)')}" if (of := planned(state)) else ""


def outlook_words(state: TwinState) -> str:
    """What the paler bars of `sections.limit_rows` are, or why there are none."""
    proposal = state.proposal
    if proposal is None or proposal.activity_mbq is None:
        return "no activity is proposed, so no outlook is drawn"
    words = f"paler: with the proposed cycle of {activity(proposal.activity_mbq)} MBq added"
    if all("after_gy" in r for r in proposal.limits):
        return f"{words}, its dashed line the 90 % interval, draw by draw with the course so far"
    return (
        f"{words} (ends of both intervals added, the widest reading), absorbed dose only: this state is from before proposals "
        "kept their outlook of BED"
    )
