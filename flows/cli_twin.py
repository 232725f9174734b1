"""Commands on twins that exist: twin list|log|show|verify|as-of, explain, replay, refit, sign."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from flows.cli_common import EXIT_NO, AsJson, print_json, print_table, say, say_markdown, settings_and_store

StateArgument = Annotated[str, typer.Argument(help="State id, or its first digits.")]
PatientArgument = Annotated[str, typer.Argument(help="Pseudonym, as `tdt twin list` prints it.")]

twin = typer.Typer(help="Look at twins: list, log, show, verify, as-of.", no_args_is_help=True)


def _known(store: Any, pid: str) -> str:
    from tdt_core.errors import UsageError

    if pid not in store.pids():
        raise UsageError(
            "no twin of that pseudonym",
            expected="a pseudonym of the store",
            remedy="`tdt twin list` shows them",
            kind="store.unknown",
        )
    return pid


@twin.command("list")
def list_twins(as_json: AsJson = False) -> None:
    """Every patient with the newest state and whether it is signed."""
    from flows.answered import standing_of
    from flows.explain import info_plain

    _, store = settings_and_store()
    twins = store.list()
    if as_json:
        print_json(
            {
                "twins": [
                    {
                        "pid": t.pid,
                        "states": t.states,
                        "branches": t.branches,
                        "head": None if t.head is None else info_plain(t.head),
                        "decision": None if t.decision is None else t.decision.kind,
                    }
                    for t in twins
                ]
            }
        )
        return
    rows = [
        (
            t.pid,
            "" if t.head is None else t.head.cycle,
            "" if t.head is None else t.head.id[:12],
            t.states,
            "" if t.head is None else f"{t.head.knowledge_time:%Y-%m-%d %H:%M}Z",
            "" if t.head is None else standing_of(store, t.head.id),
        )
        for t in twins
    ]
    print_table("Twins", ("patient", "cycle", "newest state", "states", "known since", "decision"), rows)


def _print_chain(title: str, store: Any, chain: Any, as_json: bool) -> None:
    from flows.answered import standing_of
    from flows.explain import info_plain
    from flows.reasons import reason_of

    if as_json:
        print_json({"chain": [{**info_plain(i), "reason": reason_of(store, i.id)} for i in chain]})
        return
    rows = []
    for i in chain:
        rows.append(
            (
                i.cycle,
                i.id[:12],
                "" if i.parent is None else i.parent[:12],
                i.model,
                len(i.evidence),
                f"{i.knowledge_time:%Y-%m-%d %H:%M}Z",
                standing_of(store, i.id),
                reason_of(store, i.id),
            )
        )
    print_table(title, ("cycle", "state", "parent", "model", "evidence", "known since", "decision", "reason"), rows)


@twin.command()
def log(patient: PatientArgument, as_json: AsJson = False) -> None:
    """The current chain of a patient, newest first."""
    _, store = settings_and_store()
    _print_chain(f"Twin {patient}", store, store.log(_known(store, patient)), as_json)


@twin.command("as-of")
def as_of(
    patient: PatientArgument,
    when: Annotated[str, typer.Argument(help="Date or time, ISO 8601; without a zone it is UTC.")],
    as_json: AsJson = False,
) -> None:
    """The chain as it was known at a time."""
    from tdt_core.errors import UsageError

    try:
        moment = datetime.fromisoformat(when)
    except ValueError:
        raise UsageError(
            f"{when!r} is no time", expected="ISO 8601, such as 2026-11-20T14:00+01:00", kind="usage.time"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    _, store = settings_and_store()
    chain = store.as_of(_known(store, patient), moment)
    if not chain and not as_json:
        say(f"nothing was known of this patient at {moment.isoformat()}")
        return
    _print_chain(f"Twin {patient} as known at {moment.isoformat()}", store, chain, as_json)


@twin.command("show")
def show_state(
    state: Annotated[str, typer.Argument(help="Pseudonym of a patient, for the newest state, or a state id.")],
    as_json: AsJson = False,
) -> None:
    """The results of a state: doses, limits, proposal."""
    from flows.explain import show
    from flows.ladder import find
    from flows.report.style import contents
    from tdt_core.twin import QUANTITY_NAMES

    _, store = settings_and_store()
    shown = show(store, find(store, state))
    if as_json:
        print_json(shown)
        return
    head = shown["state"]
    say(f"State {head['id'][:12]}, cycle {head['cycle']} of {head['pid']}. Research use only.")
    print_table(
        "Absorbed dose of this cycle, Gy",
        ("region", "mean", "5 %", "95 %", "Gy/GBq, mean", ""),
        [
            (
                contents(d["region"]),
                *(f"{d['dose_gy'][q]:.2f}" for q in ("mean", "q05", "q95")),
                f"{d['gy_per_gbq']['mean']:.3f}",
                d["learned"],
            )
            for d in shown["doses"]
        ],
    )
    print_table(
        "Against limits",
        ("organ", "limit", "so far, median", "95 %", "accepted risk"),
        [
            (
                c["organ"],
                f"{c['limit_gy']:g} Gy {QUANTITY_NAMES[c['quantity']]}",
                *(f"{c['cumulative_gy'][q]:.2f}" if c["cumulative_gy"] else "not known" for q in ("q50", "q95")),
                f"{c['risk']:.0%}",
            )
            for c in shown["cumulative"]
        ],
    )
    for warning in shown["warnings"]:
        say(f"warning: {warning}")
    say(f"proposal: {shown['proposal']}")
    say(f"decision: {shown['standing']}")


@twin.command()
def verify(
    patient: Annotated[str | None, typer.Argument(help="One pseudonym; without it the whole store.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read and check every file; name each one that differs. Exit code 4 when anything is wrong."""
    _, store = settings_and_store()
    problems = store.verify(None if patient is None else _known(store, patient))
    if as_json:
        print_json({"whole": not problems, "problems": [{"path": p.path, "what": p.what} for p in problems]})
    else:
        for problem in problems:
            say(str(problem))
        say(f"{len(problems)} problems" if problems else "the store is whole")
    if problems:
        raise typer.Exit(EXIT_NO)


def _plain_lines(value: Mapping[str, Any], indent: str) -> list[str]:
    """A mapping of an identity for a person: one line per name, deeper ones indented."""
    lines = []
    for name, entry in value.items():
        if isinstance(entry, Mapping):
            lines += [f"{indent}{name}:", *_plain_lines(entry, indent + "  ")]
        elif isinstance(entry, list) and any(isinstance(item, Mapping) for item in entry):
            for item in entry:
                lines += [f"{indent}{name}:", *_plain_lines(item, indent + "  ")]
        else:
            words = ", ".join(map(str, entry)) if isinstance(entry, list) else "none" if entry is None else str(entry)
            lines.append(f"{indent}{name}: {words}")
    return lines


def explain_state(state: StateArgument, as_json: AsJson = False) -> None:
    """What a state rests on: inputs, code, prior, parents, decision."""
    from flows.explain import explain

    _, store = settings_and_store()
    told = explain(store, store.find(state))
    if as_json:
        print_json(told)
        return
    head = told["state"]
    say(f"State {head['id']}")
    say(f"  cycle {head['cycle']} of {head['pid']}, model {head['model']}, known since {head['knowledge_time']}")
    if told["reason"]:
        say(f"  because: {told['reason']}")
    for line in _plain_lines({name: told[name] for name in ("prior", "settings")}, "  "):
        say(line)
    say(f"  root seed: {told['root_seed']}")
    for name, value in told["code"].items():
        say(f"  {name}: {value}")
    for parent in told["parents"]:
        say(f"  parent: {parent['id'][:12]}, cycle {parent['cycle']}")
    inputs = [(i["digest"][:12], i["kind"], "this cycle" if i["this_cycle"] else "earlier") for i in told["inputs"]]
    print_table("Inputs", ("digest", "kind", "cycle"), inputs)
    assumed = [(a["name"], a["value"], a["unit"], a["source"]) for a in told["assumed"]]
    print_table("Assumed numbers", ("name", "value", "unit", "source"), assumed)
    for words in (*told["findings"], *told["warnings"]):
        say(f"  note: {words}")
    say(f"  proposal: {told['proposal']}")
    say(f"  decision: {told['standing']}")


def replay(state: StateArgument, as_json: AsJson = False) -> None:
    """Compute a state again from its stored evidence and compare every number. Exit code 4 when they differ."""
    from flows import loop

    settings, store = settings_and_store()
    differences = loop.replay(settings, store.find(state))
    if as_json:
        print_json({"same": not differences, "differences": list(differences)})
    else:
        for difference in differences:
            say(difference)
        say("the numbers differ" if differences else "the same numbers")
    if differences:
        raise typer.Exit(EXIT_NO)


def refit(
    patient: PatientArgument,
    reason: Annotated[str, typer.Option(help="Why the chain is computed again; kept with the new states.")],
    as_json: AsJson = False,
) -> None:
    """Compute a patient's chain again under the present code and settings, as a new branch."""
    from flows import loop

    settings, store = settings_and_store()
    result = loop.refit(settings, _known(store, patient), reason)
    if as_json:
        print_json(result)
    else:
        for state_id in result["states"]:
            say(f"new state {state_id[:12]}")
        say(
            "no change: the same evidence, code and settings give the states that are there" if not result["states"] else "done"
        )


def sign_state(
    state: StateArgument,
    decision: Annotated[str | None, typer.Option(help="signed, changed or refused.")] = None,
    activity_mbq: Annotated[float | None, typer.Option(help="MBq to be given; 0 when refused.")] = None,
    name: Annotated[str | None, typer.Option(help="Who decides.")] = None,
    role: Annotated[str | None, typer.Option(help="In which role.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why.")] = None,
    accept_exceeded_limits: Annotated[
        bool | None, typer.Option("--accept-exceeded-limits/--no-accept-exceeded-limits", help="Accept what speaks against it.")
    ] = None,
    correct: Annotated[str, typer.Option(help="Why the standing decision no longer holds; both are kept.")] = "",
    as_json: AsJson = False,
) -> None:
    """Answer a state's proposal. Every field that is not given is asked for; nothing is filled in."""
    from flows import sign

    settings, store = settings_and_store()
    state_id = store.find(state)
    # told before a person has typed five answers
    sign.check_newest(store, state_id)
    if not as_json:
        say_markdown(sign.description(store.load(state_id).proposal, state_id))
    # nothing but digits that a person typed counts as having seen the state
    shown = state if len(state) >= sign.SHOWN_DIGITS else typer.prompt(f"repeat the state ({sign.SHOWN_DIGITS} digits)")
    decision = decision or str(typer.prompt("decision (signed, changed, refused)"))
    sign.check_kind(decision)
    if activity_mbq is None:
        activity_mbq = typer.prompt("activity in MBq (0 when refused)", type=float)
    answer = sign.Answer(
        state=shown,
        decision=decision,  # type: ignore[arg-type]
        activity_mbq=activity_mbq,
        name=name or typer.prompt("name"),
        role=role or typer.prompt("role"),
        reason=reason or typer.prompt("reason"),
        accepts_exceeded_limits=_accepts(store, state_id, decision, activity_mbq, accept_exceeded_limits),
    )
    kept = sign.answer(settings, store, answer, correct)
    if (settings.home / "derived" / state_id).exists():
        from flows import derived
        from flows.site import open_site

        derived.make(open_site(settings), state_id)  # its report now shows the decision
    if as_json:
        print_json(kept)
    else:
        say(f"kept: {kept['kind']} on state {kept['state'][:12]} by {kept['signed_by']} ({kept['role']})")


def _accepts(store: Any, state_id: str, decision: str | None, activity_mbq: float, given: bool | None) -> bool:
    """Whether what speaks against the activity is accepted; asked for only where something does."""
    from flows import sign

    if given is not None:
        return given
    against = () if decision == "refused" else sign.concerns(store.load(state_id).proposal, activity_mbq)
    if not against:
        return False
    for words in against:
        say(f"against it: {words}")
    return bool(typer.prompt("accept this (yes or no)", type=bool))


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(twin, name="twin")
    app.command("explain")(explain_state)
    app.command()(replay)
    app.command()(refit)
    app.command("sign")(sign_state)
