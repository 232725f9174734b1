"""The MLflow index of the twins: a view on the store that can be rebuilt from the state folders at any time.

| MLflow | twin |
|---|---|
| experiment `twin/<pid>` | one patient |
| run | one assimilation, failed ones too |
| registered model `twin-<pid>`, version | the patient's states; `source` is the state's folder |
| alias `candidate` | HEAD |
| aliases `current`, `previous` | the last two states that a person let pass (refused ones do not count) |
| experiment `trials`, nested runs | virtual trials and their arms |

Only `MlflowClient` with explicit run ids is used, never the fluent interface. Nothing in the store depends on what MLflow
answers: a failure leaves the notes under TDT_HOME/notes/to_index for the next `catch_up`. Run ids are no part of an identity.
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage import state_files as files
from storage.audit import utc_text
from storage.home import FAILURE_NOTE, Home
from storage.locks import lock
from storage.twin_reader import StateInfo, TwinReader
from tdt_core.codec import digest
from tdt_core.errors import StoreError
from tdt_core.twin import JsonDict

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

ALIASES = ("candidate", "current", "previous")
QUANTILES = ("mean", "q05", "q50", "q95")
TRIALS = "trials"

_BATCH_METRICS = 900  # the tracking service takes at most 1000 metrics and 100 params or tags in one call
_BATCH_PARAMS = 90


@dataclass(frozen=True)
class IndexReport:
    """What an update of the index did. `failures` are in words; their notes stay for the next time."""

    registered: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


def aliases(store: TwinReader, pid: str) -> dict[str, str]:
    """Alias -> state id, from the store alone.

    `current` is the state whose standing decision, a refusal excepted, was made last; `previous` the one before it.
    """
    head = store.head(pid)
    records = store.decisions(pid)
    replaced = {r.replaces for r in records}
    cycles = {r.decision.state: store.info(r.decision.state).cycle for r in records}
    standing = [r for r in records if r.id not in replaced and r.decision.kind != "refused"]
    passed = [r.decision.state for r in sorted(standing, key=lambda r: (r.time, cycles[r.decision.state], r.id))]
    found = dict(zip(("current", "previous"), reversed(passed), strict=False))
    return found if head is None else found | {"candidate": head}


class Registry:
    """The index of one TDT_HOME in one MLflow; without an address, sqlite and artifacts inside TDT_HOME."""

    def __init__(self, home: Home, tracking_uri: str | None = None) -> None:
        self.home = home
        self.uri = tracking_uri or f"sqlite:///{home.mlflow_db}"
        self._remote = self.uri.startswith(("http://", "https://"))
        self._client: MlflowClient | None = None

    @property
    def client(self) -> MlflowClient:
        """The MLflow client, made on first use: importing MLflow takes seconds."""
        if self._client is None:
            os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
            os.environ["DO_NOT_TRACK"] = "true"  # MLflow accepts only the word
            os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it would break JSON output of commands
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
            for chatty in ("alembic", "mlflow.store.db.utils"):
                logging.getLogger(chatty).setLevel(logging.WARNING)
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        return self._client

    # -- keeping up --------------------------------------------------------------------------------------------------------

    def catch_up(self, store: TwinReader) -> IndexReport:
        """Register every state that has a note, set tags and aliases, take the note away.

        A failing MLflow is logged and reported, never raised: the state is on disk and its note stays.
        """
        notes = sorted(p.name for p in self.home.notes.iterdir())
        if not notes:
            return IndexReport()
        with lock(self.home.locks / "index.lock"):
            by_pid: dict[str, list[StateInfo]] = {}
            for name in notes:
                if name.startswith(FAILURE_NOTE):
                    by_pid.setdefault(name.removeprefix(FAILURE_NOTE), [])
                    continue
                info = _known(store, name)
                if info is None:  # the process died between note and state: there is nothing to index
                    (self.home.notes / name).unlink(missing_ok=True)
                else:
                    by_pid.setdefault(info.pid, []).append(info)
            return self._update(store, by_pid)

    def reindex(self, store: TwinReader) -> IndexReport:
        """Bring the whole index up to the state folders: register what is missing, set tags and aliases again.

        Into an empty MLflow this rebuilds the index from the folders alone, versions in the order in which states became
        known; failed attempts come from the audit trail.
        """
        with lock(self.home.locks / "index.lock"):
            failed = {e["pid"] for e in store.audit.events() if e["event"] == "failure"}
            pids = sorted(failed | set(store.pids()))
            every = {pid: [store.info(i) for i in store.state_ids(pid)] for pid in pids}
            return self._update(store, every)

    def _update(self, store: TwinReader, states: Mapping[str, list[StateInfo]]) -> IndexReport:
        done: list[str] = []
        failures: list[str] = []
        for pid, infos in states.items():
            try:
                versions = self._versions(pid)
                for info in sorted(infos, key=lambda i: (i.knowledge_time, i.cycle, i.id)):
                    if info.id not in versions:
                        versions[info.id] = self._register(store, info)
                        done.append(info.id)
                self._tag_decisions(store, pid)
                self._set_aliases(store, pid, versions)
                self._failed_attempts(store, pid)
                for name in (*(i.id for i in infos), FAILURE_NOTE + pid):
                    (self.home.notes / name).unlink(missing_ok=True)
            except StoreError:
                raise  # the store itself is damaged: not the index's matter
            except Exception as e:  # whatever MLflow, its database or its server raise: the index must never stop the store
                failures.append(f"twin {pid}: {type(e).__name__}")
                log.warning("MLflow index not updated for twin %s (%s); `tdt twin verify` is unaffected", pid, type(e).__name__)
        return IndexReport(tuple(done), tuple(failures))

    # -- versions ----------------------------------------------------------------------------------------------------------

    def _versions(self, pid: str) -> dict[str, str]:
        """State id -> version number, as far as the index knows the patient."""
        return {state_id: number for state_id, (number, _) in self._tagged(pid).items()}

    def _tagged(self, pid: str) -> dict[str, tuple[str, dict[str, str]]]:
        """State id -> version number and tags."""
        found: dict[str, tuple[str, dict[str, str]]] = {}
        token: str | None = None
        while True:
            page = self.client.search_model_versions(f"name = '{model_name(pid)}'", max_results=1000, page_token=token)
            for version in page:
                found.setdefault(version.tags.get("state_sha256", ""), (str(version.version), dict(version.tags)))
            token = page.token
            if not token:
                return found

    def _register(self, store: TwinReader, info: StateInfo) -> str:
        """One run and one version of a state; returns the version number."""
        folder = store.path(info.id)
        plain = files.read_json(folder / files.STATE)
        tags = version_tags(plain, info)
        run_id = self.run(f"twin/{info.pid}", f"cycle {info.cycle}", "state_sha256", info.id, tags)
        self.record(run_id, metrics=state_metrics(plain), params=state_params(plain))
        self.client.set_terminated(run_id, status="FINISHED")
        name = model_name(info.pid)
        if not self.client.search_registered_models(f"name = '{name}'"):
            self.client.create_registered_model(name)
        version = self.client.create_model_version(
            name, source=self.source(folder), run_id=run_id, tags=tags, await_creation_for=0
        )
        return str(version.version)

    def source(self, folder: Path) -> str:
        """Where a version points: the folder itself, or, for a server, which refuses local paths, its place in TDT_HOME."""
        return f"tdt://{folder.relative_to(self.home.root).as_posix()}" if self._remote else str(folder)

    def _tag_decisions(self, store: TwinReader, pid: str) -> None:
        """Decision and successor of every version of a patient, where they are told otherwise: any state may be superseded."""
        for state_id, (version, tags) in self._tagged(pid).items():
            if _known(store, state_id) is None:
                continue
            for key, value in gate_tags(store, state_id).items():
                if tags.get(key) != value:
                    self.client.set_model_version_tag(model_name(pid), version, key, value)

    def _set_aliases(self, store: TwinReader, pid: str, versions: Mapping[str, str]) -> None:
        name = model_name(pid)
        wanted = {a: versions[s] for a, s in aliases(store, pid).items() if s in versions}
        present = dict(self.client.get_registered_model(name).aliases) if versions else {}
        for alias in ALIASES:
            if alias in wanted and str(present.get(alias)) != wanted[alias]:
                self.client.set_registered_model_alias(name, alias, wanted[alias])
            elif alias in present and alias not in wanted:
                self.client.delete_registered_model_alias(name, alias)

    def _failed_attempts(self, store: TwinReader, pid: str) -> None:
        """A failed run for every failure that the audit trail knows."""
        for event in store.audit.events():
            if event["event"] != "failure" or event["pid"] != pid:
                continue
            tags = {"cycle": str(event["cycle"]), "gate_result": "failed", "error_kind": str(event["error"].get("kind", ""))}
            run_id = self.run(f"twin/{pid}", f"cycle {event['cycle']} failed", "audit_sha256", event["hash"], tags)
            self.client.set_terminated(run_id, status="FAILED")

    # -- trials ------------------------------------------------------------------------------------------------------------

    def record_trial(
        self,
        trial_id: str,
        *,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        children: Mapping[str, Mapping[str, float]],
    ) -> IndexReport:
        """One run of a virtual trial with a nested run per child (an arm, or an arm and a cycle). Repeats add nothing."""
        try:
            with lock(self.home.locks / "index.lock"):
                parent = self.run(TRIALS, f"trial {trial_id[:12]}", "trial_sha256", trial_id, {})
                self.record(parent, metrics=_finite("", metrics), params={k: str(v) for k, v in params.items()})
                for name, values in children.items():
                    child = digest({"trial": trial_id, "child": name})
                    run_id = self.run(TRIALS, name, "trial_child_sha256", child, {"mlflow.parentRunId": parent, "child": name})
                    self.record(run_id, metrics=_finite("", values), params={})
                    self.client.set_terminated(run_id, status="FINISHED")
                self.client.set_terminated(parent, status="FINISHED")
        except Exception as e:  # as in `_update`
            log.warning("MLflow index not updated for trial %s (%s)", trial_id[:12], type(e).__name__)
            return IndexReport(failures=(f"trial {trial_id[:12]}: {type(e).__name__}",))
        return IndexReport((trial_id,))

    # -- runs --------------------------------------------------------------------------------------------------------------

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        place = None if self._remote or not self.uri.startswith("sqlite:") else self.home.mlartifacts.as_uri()
        return self.client.create_experiment(name, artifact_location=place)

    def run(self, experiment: str, run_name: str, key: str, value: str, tags: Mapping[str, str]) -> str:
        """Id of the run with tag `key = value`; made when there is none, so that a repeat after a death finds it."""
        experiment_id = self._experiment(experiment)
        found = self.client.search_runs([experiment_id], f"tags.{key} = '{value}'", max_results=1)
        if found:
            return str(found[0].info.run_id)
        run = self.client.create_run(experiment_id, run_name=run_name, tags={**tags, key: value})
        return str(run.info.run_id)

    def record(self, run_id: str, *, metrics: Mapping[str, float], params: Mapping[str, str]) -> None:
        """Write metrics and params of a run, in batches that the service takes."""
        from mlflow.entities import Metric, Param

        stamp = int(time.time() * 1000)
        all_metrics = [Metric(k, v, stamp, 0) for k, v in metrics.items()]
        all_params = [Param(k, v) for k, v in params.items()]
        for part in _batches(all_params, _BATCH_PARAMS):
            self.client.log_batch(run_id, params=part)
        for part in _batches(all_metrics, _BATCH_METRICS):
            self.client.log_batch(run_id, metrics=part)


def catch_up(store: TwinReader, tracking_uri: str | None = None) -> IndexReport:
    """Tell the index what is new (`Registry.catch_up`). Cheap when nothing is."""
    return Registry(store.home, tracking_uri).catch_up(store)


def reindex(store: TwinReader, tracking_uri: str | None = None) -> IndexReport:
    """Rebuild the index (`Registry.reindex`)."""
    return Registry(store.home, tracking_uri).reindex(store)


def gate_tags(store: TwinReader, state_id: str) -> dict[str, str]:
    """Tags of a version that change: what was decided on it, by whom, and by which state it is superseded."""
    record, by = store.decision_record(state_id), store.superseded_by(state_id)
    told = {"gate_result": "waiting" if by is None else "superseded", "approver": "none", "superseded_by": by or "none"}
    if record is not None:
        told |= {"gate_result": record.decision.kind, "approver": record.decision.signed_by or "none"}
        if record.decision.scripted:
            told["scripted"] = "true"
    return told


def model_name(pid: str) -> str:
    """Name of a patient's registered model."""
    return f"twin-{pid}"


def version_tags(plain: JsonDict, info: StateInfo) -> dict[str, str]:
    """Tags of a version, all from state.json and provenance.json."""
    identity = plain["identity"]
    return {
        "state_sha256": info.id,
        "parent_sha256": info.parent or "none",
        "supersedes_sha256": info.supersedes or "none",
        "cycle": str(info.cycle),
        "data_sha256": digest(list(info.evidence)),
        "prior_sha256": digest(identity.get("prior")),
        "settings_sha256": digest(identity.get("settings")),
        "science_sha256": str(identity.get("science", "none")),
        "code_commit": str(info.provenance.get("code_commit", "none")),
        "lock_sha256": str(info.provenance.get("lock_sha256", "none")),
        "solver": info.model,
        "seed": str(identity.get("root_seed", "none")),
        "schema_version": str(plain["schema_version"]),
        "knowledge_time": utc_text(info.knowledge_time),
        "reason": info.reason or "none",
    }


def state_params(plain: JsonDict) -> dict[str, str]:
    """Params of a state's run."""
    identity = plain["identity"]
    return {
        "model": str(plain["model"]),
        "cycle": str(plain["cycle"]),
        "root_seed": str(identity.get("root_seed", "none")),
        "parameters": str(len(plain["posterior"]["names"])),
        "evidence_items": str(len(identity.get("evidence", ()))),
    }


def state_metrics(plain: JsonDict) -> dict[str, float]:
    """Metrics of a state's run: fit diagnostics, and absorbed dose and BED by region with quantiles."""
    found = dict(_finite("fit.", plain["posterior"]["diagnostics"]))
    for row in plain["summary"].get("doses", ()):
        for quantity in ("dose_gy", "bed_gy"):
            values = row.get(quantity) or {}
            found.update(_finite(f"{quantity}.{row['region']}.", {k: values[k] for k in QUANTILES if k in values}))
    return found


def _finite(prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
    """The plain finite numbers among values, under names that MLflow takes."""
    return {
        re.sub(r"[^\w\-./: ]", "_", f"{prefix}{key}")[:250]: float(value)
        for key, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _known(store: TwinReader, state_id: str) -> StateInfo | None:
    try:
        return store.info(state_id)
    except StoreError as e:
        if e.kind == "store.unknown":
            return None
        raise


def pending(home: Home) -> Iterable[str]:
    """Ids of states, and failures by pseudonym, that the index has not heard of."""
    return tuple(sorted(p.name for p in home.notes.iterdir()))
