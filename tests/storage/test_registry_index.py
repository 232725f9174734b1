"""The MLflow index: what it shows, that it can be rebuilt from the state folders, that its failure costs nothing."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from store_builder import PID, commit_cycles, day, open_store, signed

from storage.registry import Registry, aliases, catch_up, model_name, pending
from storage.twins import TwinStore
from tdt_core.errors import StoreError
from tdt_core.twin import Decision


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with three cycles, two of them decided, one failed attempt, indexed step by step. Not to be changed."""
    home = tmp_path_factory.mktemp("index") / "home"
    store = open_store(home)
    ids = commit_cycles(store, 3)
    store.decide(Decision(ids[0], "retrospective", 7400.0, "", "", "taken in together"), time=day(4))
    catch_up(store)
    store.decide(Decision(ids[1], "retrospective", 7400.0, "", "", "taken in together"), time=day(5))
    store.record_failure(PID, 4, StoreError("no optimum", kind="estimation.failed").as_dict(), time=day(6))
    catch_up(store)
    return home


@pytest.fixture
def store(filled: Path, tmp_path: Path) -> Iterator[TwinStore]:
    shutil.copytree(filled, tmp_path / "home")
    return open_store(tmp_path / "home")  # type: ignore[return-value]


def seen(store: TwinStore, registry: Registry | None = None) -> dict[str, Any]:
    """What the index says, without run ids, database times and places."""
    client = (registry or Registry(store.home)).client
    name = model_name(PID)
    versions = client.search_model_versions(f"name = '{name}'")
    experiment = client.get_experiment_by_name(f"twin/{PID}")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return {
        "versions": {str(v.version): dict(v.tags) for v in versions},
        "aliases": {k: str(v) for k, v in client.get_registered_model(name).aliases.items()},
        "runs": sorted(
            (
                run.info.run_name,
                run.info.status,
                tuple(sorted(run.data.metrics.items())),
                tuple(sorted(run.data.params.items())),
                tuple(sorted((k, v) for k, v in run.data.tags.items() if not k.startswith("mlflow."))),
            )
            for run in runs
        ),
    }


def test_states_are_versions_with_their_tags_and_aliases(store: TwinStore) -> None:
    ids = [i.id for i in reversed(store.log(PID))]
    found = seen(store)
    assert [found["versions"][str(n)]["state_sha256"] for n in (1, 2, 3)] == ids
    assert found["aliases"] == {"candidate": "3", "current": "2", "previous": "1"}
    tags = found["versions"]["3"]
    assert tags["parent_sha256"] == ids[1]
    assert (tags["cycle"], tags["seed"], tags["code_commit"], tags["gate_result"]) == ("3", "1", "c" * 40, "waiting")
    assert found["versions"]["2"]["gate_result"] == "retrospective"
    source = Registry(store.home).client.get_model_version(model_name(PID), "1").source
    assert Path(source).name == ids[0]


def test_every_state_and_every_failed_attempt_is_a_run_with_metrics(store: TwinStore) -> None:
    found = seen(store)["runs"]
    assert [(r[0], r[1]) for r in found] == [(f"cycle {n}", "FINISHED") for n in (1, 2, 3)] + [("cycle 4 failed", "FAILED")]
    metrics = dict(found[0][2])
    assert metrics["fit.2J"] == 11.25
    assert metrics["dose_gy.kidney_left.q95"] == 5.25
    assert "fit.converged" not in metrics
    assert dict(found[3][4])["error_kind"] == "estimation.failed"


def test_the_index_is_rebuilt_from_the_state_folders_alone(store: TwinStore, tmp_path: Path) -> None:
    fresh = Registry(store.home, f"sqlite:///{tmp_path / 'fresh.db'}")
    report = fresh.reindex(store)
    assert len(report.registered) == 3
    assert report.failures == ()
    assert seen(store, fresh) == seen(store)


def test_indexing_twice_adds_nothing(store: TwinStore) -> None:
    before = seen(store)
    report = Registry(store.home).reindex(store)
    assert report.registered == ()
    assert seen(store) == before


def test_a_signature_moves_the_aliases_and_a_refusal_does_not(store: TwinStore) -> None:
    head = store.head(PID)
    assert head is not None
    refused = replace(signed(head), kind="refused", activity_mbq=None)
    record = store.decide(refused, time=day(7))
    catch_up(store)
    found = seen(store)
    assert found["aliases"] == {"candidate": "3", "current": "2", "previous": "1"}
    assert found["versions"]["3"]["gate_result"] == "refused"
    store.decide(signed(head), time=day(8), replaces=record.id, replace_reason="counts recovered")
    assert pending(store.home) == (head,)
    catch_up(store)
    found = seen(store)
    assert found["aliases"] == {"candidate": "3", "current": "3", "previous": "2"}
    assert (found["versions"]["3"]["gate_result"], found["versions"]["3"]["approver"]) == ("signed", "a clinician")
    assert pending(store.home) == ()


def test_aliases_follow_from_the_store_without_mlflow(store: TwinStore) -> None:
    ids = [i.id for i in reversed(store.log(PID))]
    assert aliases(store, PID) == {"candidate": ids[2], "current": ids[1], "previous": ids[0]}
    assert aliases(store, "p-none") == {}


def test_a_dead_server_costs_a_note_and_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store = open_store(tmp_path / "home")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    ids = commit_cycles(store, 2)
    report = catch_up(store, f"http://127.0.0.1:{port}")
    assert report.registered == ()
    assert len(report.failures) == 1
    assert pending(store.home) == tuple(sorted(ids))
    assert store.head(PID) == ids[1]
    assert store.verify() == ()


def test_a_note_of_a_state_that_never_came_to_be_is_dropped(store: TwinStore) -> None:
    (store.home.notes / ("0" * 64)).touch()
    assert catch_up(store).failures == ()
    assert pending(store.home) == ()


def test_a_trial_is_a_run_with_nested_runs_and_repeats_add_nothing(store: TwinStore) -> None:
    registry = Registry(store.home)
    for _ in range(2):
        report = registry.record_trial(
            "ab" * 32,
            params={"patients": 200},
            metrics={"seconds": 12.5},
            children={"fixed": {"kidney_bed_gy": 21.0}, "proposed": {"kidney_bed_gy": 18.5}},
        )
        assert report.failures == ()
    experiment = registry.client.get_experiment_by_name("trials")
    assert experiment is not None
    runs = {r.info.run_name: r for r in registry.client.search_runs([experiment.experiment_id])}
    assert set(runs) == {f"trial {'ab' * 6}", "fixed", "proposed"}
    parent = runs[f"trial {'ab' * 6}"].info.run_id
    assert runs["fixed"].data.tags["mlflow.parentRunId"] == parent
    assert runs["proposed"].data.metrics == {"kidney_bed_gy": 18.5}
    assert all(r.info.status == "FINISHED" for r in runs.values())


def test_a_superseded_state_is_tagged_with_its_successor_and_one_that_stands_again_is_not(store: TwinStore) -> None:
    old = [i.id for i in reversed(store.log(PID))]
    new = commit_cycles(store, 3, science="x" * 64, reason="newer software", at=10)
    catch_up(store)
    versions = {v["state_sha256"]: v for v in seen(store)["versions"].values()}
    assert [versions[s]["superseded_by"] for s in old] == new
    assert [versions[s]["gate_result"] for s in old] == ["retrospective", "retrospective", "superseded"]
    assert [versions[s]["superseded_by"] for s in new] == ["none"] * 3
    assert versions[new[2]]["gate_result"] == "waiting"
    store.retreat(PID, new[1], expected_head=new[2], time=day(20))
    assert pending(store.home) == (new[1],), "the index has to hear of a HEAD that moved back"
    catch_up(store)
    versions = {v["state_sha256"]: v for v in seen(store)["versions"].values()}
    assert (versions[new[2]]["gate_result"], versions[new[2]]["superseded_by"]) == ("superseded", new[1])
