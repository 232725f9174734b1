"""What runs all day: a flow that watches the inbox, one that takes a folder in, one that waits for a signature.

`tdt serve` and `deploy/prefect.yaml` run the same three deployments. Names of flows, runs and parameters hold pseudonyms and
state ids only.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, Literal, cast
from uuid import UUID

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.deployments.runner import RunnerDeployment
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.logging import get_run_logger
from prefect.states import Cancelled
from prefect.types.entrypoint import EntrypointType

from flows import inbox, sign
from flows.settings import Settings, load_settings, make_folders
from storage.decisions import record_plain
from storage.twins import TwinStore
from tdt_core.errors import InputError, TwinError

TAG = "sign-off"
ATTEMPTS = 20


class SignOff(RunInput):
    """What a person fills in. No field has a default: a resume that leaves one out is refused by the server."""

    state_shown: str
    decision: Literal["signed", "changed", "refused"]
    activity_mbq: float
    name: str
    role: str
    reason: str
    accepts_exceeded_limits: bool


def open_store(home: str | None) -> tuple[Settings, TwinStore]:
    """Settings and store of the home that a flow was given, by default the configured one."""
    settings = load_settings(home=home)
    return settings, TwinStore(make_folders(settings))


@task(persist_result=False)
def show_proposal(state: str, home: str | None) -> str:
    """Put the proposal beside the run, as an artifact, and return the same text for the form."""
    _, store = open_store(home)
    text = sign.description(store.load(state).proposal, state)
    create_markdown_artifact(markdown=text, key=f"proposal-{state[:12]}", description="The proposal to be answered")
    return text


@flow(name="sign-off", flow_run_name="sign-off {state:.12}", persist_result=True, result_serializer="json")
def sign_off(state: str, home: str | None = None) -> dict[str, Any]:
    """Wait, suspended, for a person's answer to a state's proposal; check it again; keep the decision.

    A refused answer is explained and asked for again. The run restarts from the top after every answer; the fixed keys make
    it find the earlier ones, and checking them again has no effect.
    """
    settings, store = open_store(home)
    standing = store.decision_record(state)
    if standing is not None:
        return record_plain(standing)
    text, refusal = show_proposal(state, home), ""
    for attempt in range(ATTEMPTS):
        form = SignOff.with_initial_data(description=f"{text}\n\n**Refused:** {refusal}" if refusal else text)
        filled = suspend_flow_run(
            wait_for_input=form,
            key=sign.sign_off_key(state, attempt),
            timeout=int(timedelta(days=settings.sign_off_days).total_seconds()),
        )
        try:
            return record_plain(sign.record(settings, store, _answer(filled, state)))
        except InputError as error:
            refusal = str(error)
            get_run_logger().warning("the answer is refused: %s", refusal)
    raise InputError(f"{ATTEMPTS} answers were refused, the last one because {refusal}", kind="decision.incomplete")


def _answer(filled: SignOff, state: str) -> sign.Answer:
    shown = filled.state_shown.strip()
    if len(shown) < sign.SHOWN_DIGITS or not state.startswith(shown):
        raise InputError(
            "the answer repeats another state than the one shown", expected=state[: sign.SHOWN_DIGITS], kind="decision.state"
        )
    return sign.Answer(
        state=state,
        decision=filled.decision,
        activity_mbq=filled.activity_mbq,
        name=filled.name,
        role=filled.role,
        reason=filled.reason,
        accepts_exceeded_limits=filled.accepts_exceeded_limits,
    )


@flow(name="watch-inbox")
def watch_inbox(home: str | None = None) -> dict[str, int]:
    """Take in every new complete folder, then see that each unanswered proposal has one suspended sign-off run.

    A refused folder is remembered until something in it changes; any other failure is tried again at the next look.
    """
    settings, store = open_store(home)
    log = get_run_logger()
    count = {"taken_in": 0, "refused": 0, "failed": 0}
    for delivery in inbox.new_deliveries(settings, time.time()):
        # here, because a look into an unchanged inbox and a wait for a signature do without the science, whose import takes
        # longer than either
        from flows.loop import take_in_patient

        folder = inbox.alias(settings, delivery.path)
        try:
            take_in_patient(str(folder), home)
        except InputError as error:
            inbox.remember(settings, delivery.fingerprint, f"refused: {error.kind}")
            count["refused"] += 1
            log.warning("delivery %s is refused: %s", folder.name, error.kind)
        except TwinError as error:
            count["failed"] += 1
            log.error("delivery %s failed: %s", folder.name, error.kind)
        except Exception:  # a defect in one delivery must keep neither the others nor the signatures waiting
            count["failed"] += 1
            log.exception("delivery %s failed", folder.name)
        else:
            inbox.remember(settings, delivery.fingerprint, "taken in")
            count["taken_in"] += 1
    ask_for_signatures(store, home)
    return count


def suspended_runs() -> dict[str, str]:
    """State id -> id of the flow run that is suspended for its signature, on the server in use."""
    waiting = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[TAG]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])),
    )
    return {str(run.parameters["state"]): str(run.id) for run in _runs(waiting)}


def _runs(wanted: FlowRunFilter) -> list[FlowRun]:
    found: list[FlowRun] = []
    with get_client(sync_client=True) as client:
        while page := client.read_flow_runs(flow_run_filter=wanted, limit=200, offset=len(found)):
            found += page
    return found


def ask_for_signatures(store: TwinStore, home: str | None) -> None:
    """One sign-off run for each newest unanswered proposal; runs of answered or superseded states are cancelled."""
    wanted = set(sign.waiting(store))
    for state, run in suspended_runs().items():
        if state not in wanted:
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(run, Cancelled(message="answered elsewhere or superseded"), force=True)
    for state in sorted(wanted):
        # the key makes a second request for the same state the same run
        run_deployment(
            "sign-off/sign-off",
            parameters={"state": state, "home": home},
            timeout=0,
            idempotency_key=f"{TAG}-{state}",
            tags=[TAG],
            as_subflow=False,
        )


def deployments(settings: Settings) -> list[RunnerDeployment]:
    """The three deployments, as `tdt serve` serves them."""
    from flows.loop import take_in_patient

    home = str(settings.home)
    watch = watch_inbox.to_deployment(
        name="inbox",
        interval=timedelta(minutes=settings.watch_minutes),
        paused=False,
        parameters={"home": home},
        concurrency_limit=1,
        # by module: the served processes find it from any working folder
        entrypoint_type=EntrypointType.MODULE_PATH,
        description="Looks into the inbox and takes in each new complete cycle.",
    )
    take = take_in_patient.to_deployment(
        name="take-in",
        parameters={"home": home},
        concurrency_limit=1,
        entrypoint_type=EntrypointType.MODULE_PATH,
        description="Takes one folder in.",
    )
    wait = sign_off.to_deployment(
        name="sign-off",
        parameters={"home": home},
        tags=[TAG],
        entrypoint_type=EntrypointType.MODULE_PATH,
        description="Waits, suspended, for a signature.",
    )
    # the synchronous form of `to_deployment` returns the deployment itself
    return [cast(RunnerDeployment, d) for d in (watch, take, wait)]


def resume(run: str, answer: sign.Answer) -> None:
    """Hand an answer to a suspended run."""
    with get_client(sync_client=True) as client:
        result = client.resume_flow_run(UUID(run), run_input=sign.form(answer))
    if result.status.value != "ACCEPT":
        raise InputError(
            "the server refused the answer",
            expected="every field of the form",
            remedy=str(result.details),
            kind="decision.form",
        )
