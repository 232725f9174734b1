"""The served deployments on a real server: a proposal waits suspended, an incomplete or refused answer goes no further."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import sign
from flows.services import environment
from flows.settings import Settings, as_environment, load_settings
from storage.registry import Registry
from storage.twins import TwinStore
from tdt_core.twin import TwinState

pytestmark = pytest.mark.services


def until(found: Callable[[], Any], what: str, within_s: float = 120.0) -> Any:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        value = found()
        if value:
            return value
        time.sleep(0.3)
    raise AssertionError(f"no {what} within {within_s:.0f} s")


@pytest.fixture
def served(site: Settings, prefect_settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """`tdt serve` as a process of its own over the test's home, on the run's Prefect server."""
    settings = load_settings(home=site.home, prefect_api=prefect_settings.prefect_api, watch_minutes=600, settle_minutes=0)
    # the runner would otherwise look for due runs every 10 s only
    with environment({**as_environment(settings), "PREFECT_RUNNER_POLL_FREQUENCY": "1"}):
        log = (tmp_path / "serve.log").open("wb")
        process = subprocess.Popen([sys.executable, "-P", "-m", "flows", "serve"], stdout=log, stderr=log, cwd="/")
        try:
            yield settings
        finally:
            process.terminate()
            assert process.wait(60) is not None
            log.close()
            print((tmp_path / "serve.log").read_text()[-3000:])


def state_of(run: str) -> str:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run).state
    return "" if state is None else state.name


def answer(state: TwinState, **changes: Any) -> sign.Answer:
    assert state.proposal is not None
    given: dict[str, Any] = {
        "state": state.id[:12],
        "decision": "signed",
        "activity_mbq": state.proposal.activity_mbq,
        "name": "N. N.",
        "role": "physicist",
        "reason": "as discussed",
        "accepts_exceeded_limits": False,
    }
    return sign.Answer(**{**given, **changes})


def test_a_proposal_waits_suspended_until_a_complete_answer_passes_our_checks(
    served: Settings, store: TwinStore, commit: Callable[..., TwinState]
) -> None:
    from prefect.client.orchestration import get_client

    from flows.serve import resume, suspended_runs

    state = commit()
    until(lambda: _deployed("watch-inbox/inbox"), "deployment")
    look(served, timeout=0)
    run = until(lambda: suspended_runs().get(state.id), "suspended sign-off run")

    # a field left out is refused by the server itself, because none has a default
    incomplete = sign.form(answer(state))
    del incomplete["activity_mbq"]
    with get_client(sync_client=True) as client:
        result = client.resume_flow_run(run, run_input=incomplete)
    assert result.status.value == "REJECT"
    assert "activity_mbq" in str(result.details)
    assert store.decision(state.id) is None

    # an activity that breaks an accepted risk is refused by our own check, and asked for again
    curve = state.proposal.curve
    high = curve["range_mbq"][1]
    assert sign.concerns(state.proposal, high)
    resume(run, answer(state, decision="changed", activity_mbq=high))
    until(lambda: suspended_runs().get(state.id) == run and _pauses(run) == 2, "second suspension")
    assert store.decision(state.id) is None

    resume(run, answer(state))
    until(lambda: state_of(run) == "Completed", "end of the run")
    decision = store.decision(state.id)
    assert decision is not None
    assert (decision.kind, decision.activity_mbq, decision.signed_by) == ("signed", state.proposal.activity_mbq, "N. N.")
    assert sign.waiting(store) == ()
    # and the index has been told
    version = Registry(store.home, served.tracking_uri).client.get_model_version_by_alias(f"twin-{state.pid}", "current")
    assert (version.tags["state_sha256"], version.tags["gate_result"]) == (state.id, "signed")


@pytest.mark.long
def test_a_delivery_is_taken_in_its_proposal_waits_and_tdt_sign_answers_it(served: Settings, store: TwinStore) -> None:
    from flows.serve import suspended_runs
    from storage.phantom_files import write_reference_patient
    from tdt_core.phantom import PhantomSettings, reference_patient

    reference = reference_patient(PhantomSettings(seed=3, matrix=32, time_points=3))
    source = write_reference_patient(served.home.parent / "patient", reference, through_cycle=1)
    source.rename(served.inbox / "DOE^JANE")
    until(lambda: _deployed("watch-inbox/inbox"), "deployment")
    look(served, timeout=400)
    (twin,) = store.list()
    assert twin.head is not None
    run = until(lambda: suspended_runs().get(twin.head.id), "suspended sign-off run")
    assert not any(b"DOE^JANE" in p.read_bytes() for p in served.home.rglob("*") if p.is_file())

    words = ["sign", twin.head.id, "--decision", "refused", "--activity-mbq", "0", "--name", "N. N.", "--role", "physicist"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "flows", *words, "--reason", "creatinine doubled", "--json"],
        env=os.environ | dict(as_environment(served)),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kind"] == "refused"
    until(lambda: state_of(run) == "Completed", "end of the run")
    # a second look takes nothing in again
    look(served, timeout=200)
    assert [t.states for t in store.list()] == [twin.states]


def look(served: Settings, timeout: float) -> None:
    """One look into the inbox of this test's home; the server keeps the deployments of other tests as well."""
    from prefect.deployments import run_deployment

    home = {"home": str(served.home)}
    run = run_deployment("watch-inbox/inbox", parameters=home, timeout=timeout, poll_interval=1, as_subflow=False)
    if timeout:
        assert run.state is not None
        assert run.state.is_completed(), run.state


def _deployed(name: str) -> bool:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_deployment_by_name(name)
        except ObjectNotFound:
            return False
    return True


def _pauses(run: str) -> int:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return len([s for s in client.read_flow_run_states(run) if s.name == "Suspended"])
