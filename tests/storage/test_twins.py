"""The twin store: what goes in comes out, chains and branches, conflicts, refits, what was known when, decisions."""

from __future__ import annotations

import json
import threading
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from store_builder import PID, commit_cycles, day, item, make_state, open_store, signed

from storage import state_files as files
from storage.atomic import sha256_file
from storage.twins import TwinStore
from tdt_core.codec import to_plain
from tdt_core.errors import ConflictError, InputError, StoreError, TimeError, UsageError
from tdt_core.twin import Decision, TwinState


@pytest.fixture
def store(tmp_path: Path) -> TwinStore:
    return open_store(tmp_path / "home")


def tree(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def commit(store: TwinStore, state: TwinState, dose: xr.Dataset, n: float = 1, **kwargs: object) -> Path:
    arguments: dict = {"expected_head": store.head(state.pid), "provenance": {}, "knowledge_time": day(n)} | kwargs
    return store.commit(state, dose, **arguments)


def first(store: TwinStore, **kwargs: object) -> tuple[TwinState, xr.Dataset]:
    return make_state(cycle=1, parent=None, evidence=[item(store, "scan", 1)], **kwargs)  # type: ignore[arg-type]


def assert_same_state(a: TwinState, b: TwinState) -> None:
    for field in fields(TwinState):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if field.name in ("posterior", "ledger"):
            for inner in fields(x):
                p, q = getattr(x, inner.name), getattr(y, inner.name)
                if isinstance(p, np.ndarray):
                    assert p.dtype == q.dtype
                    assert p.tobytes() == q.tobytes(), inner.name
                else:
                    assert p == q, inner.name
        else:
            assert x == y, field.name


def test_a_state_comes_back_exactly_as_it_was_committed(store: TwinStore) -> None:
    state, dose = first(store)
    commit(store, state, dose)
    assert_same_state(store.load(state.id), state)


def test_voxel_maps_come_back_exactly_also_negative_zero_and_nan(store: TwinStore) -> None:
    state, dose = first(store)
    commit(store, state, dose)
    with store.open_dose(state.id) as found:
        assert set(found.data_vars) == set(dose.data_vars)
        for name in dose.data_vars:
            assert found[name].dtype == dose[name].dtype
            assert found[name].values.tobytes() == dose[name].values.tobytes(), name
            assert found[name].attrs.get("units") == dose[name].attrs.get("units")
        assert found.attrs["affine"] == dose.attrs["affine"]
        assert found.attrs["regions"] == dose.attrs["regions"]


def test_a_state_is_readable_with_plain_json_zarr_and_xarray(store: TwinStore) -> None:
    import zarr

    state, dose = first(store)
    folder = commit(store, state, dose)
    plain = json.loads((folder / "state.json").read_text())
    assert plain["identity"] == to_plain(state.identity)
    group = zarr.open_group(str(folder / "posterior.zarr"), mode="r")
    assert np.array_equal(group["draws"][...], state.posterior.draws)
    with xr.open_dataset(folder / "posterior.zarr", engine="zarr", consolidated=False) as posterior:
        assert posterior["dose_gy"].dims == ("row", "region", "ledger_draw")


def test_a_big_volume_is_cut_into_chunks_of_at_most_64_voxels(store: TwinStore, tmp_path: Path) -> None:
    import zarr

    from storage.posterior_files import write_dose

    data = np.ones((70, 65, 8), np.float32)
    dose = xr.Dataset({"dose_mean_gy": (("z", "y", "x"), data, {"units": "Gy"})}, attrs={"affine": [0.0], "regions": "[]"})
    write_dose(tmp_path / "dose.zarr", dose)
    assert zarr.open_group(str(tmp_path / "dose.zarr"))["dose_mean_gy"].chunks == (64, 64, 8)


def test_the_same_state_in_two_stores_has_the_same_bytes_except_for_what_tells_when(tmp_path: Path) -> None:
    folders = []
    for name, moment in (("one", 1), ("two", 200)):
        store = open_store(tmp_path / name)
        state, dose = first(store)
        folders.append(tree(commit(store, state, dose, moment)))
    differing = {k for k in folders[0] if folders[0][k] != folders[1][k]}
    assert folders[0].keys() == folders[1].keys()
    assert differing == {"provenance.json", "COMMITTED"}


def test_committing_the_same_state_again_changes_no_byte(store: TwinStore) -> None:
    state, dose = first(store)
    commit(store, state, dose)
    for folder in store.home.notes.iterdir():
        folder.unlink()
    before = tree(store.home.root)
    commit(store, state, dose, 5, expected_head=None)
    assert tree(store.home.root) == before


def test_an_earlier_state_of_the_chain_can_be_committed_again_without_moving_head(store: TwinStore) -> None:
    ids = commit_cycles(store, 2)
    state, dose = first(store)
    assert state.id == ids[0]
    commit(store, state, dose, 9, expected_head=None)
    assert store.head(PID) == ids[1]
    assert len(store.heads(PID)) == 2


def test_the_log_runs_from_head_to_the_first_cycle(store: TwinStore) -> None:
    ids = commit_cycles(store, 3)
    assert [i.id for i in store.log(PID)] == ids[::-1]
    assert [i.cycle for i in store.log(PID)] == [3, 2, 1]
    assert store.log(PID)[-1].parent is None
    assert store.branches(PID) == (ids[2],)


def test_a_new_store_and_an_unknown_patient_have_no_head(store: TwinStore) -> None:
    assert store.head(PID) is None
    assert store.log(PID) == ()
    assert store.pids() == ()
    assert store.list() == ()
    assert store.assimilated(PID) == set()
    assert store.verify() == ()


def test_a_whole_store_verifies_and_says_that_it_has_its_states(store: TwinStore) -> None:
    ids = commit_cycles(store, 2)
    assert store.verify() == ()
    assert store.verify(PID) == ()
    assert all(store.has(i) for i in ids)
    assert not store.has("0" * 64)
    (entry,) = store.list()
    assert (entry.pid, entry.states, entry.branches, entry.decision) == (PID, 2, 1, None)
    assert entry.head is not None
    assert entry.head.provenance["code_commit"] == "c" * 40


def test_ids_may_be_abbreviated_as_long_as_they_are_unique(store: TwinStore) -> None:
    ids = commit_cycles(store, 2)
    assert store.find(ids[0][:10]) == ids[0]
    assert store.find(ids[0][:10].upper()) == ids[0]
    for prefix, kind in (("ffffffff", "store.unknown"), (ids[0][:3], "store.ambiguous")):
        with pytest.raises(UsageError) as e:
            store.find(prefix)
        assert e.value.kind == kind


# -- evidence, refits, branches ---------------------------------------------------------------------------------------------


def test_evidence_that_is_already_assimilated_makes_no_new_version_after_a_change_of_code(store: TwinStore) -> None:
    commit_cycles(store, 1)
    state, dose = first(store, science="t" * 64)
    with pytest.raises(StoreError) as e:
        commit(store, state, dose, 2)
    assert e.value.kind == "store.assimilated"
    assert len(store.state_ids(PID)) == 1


def test_a_refit_with_a_reason_is_a_new_branch_that_says_what_it_supersedes(store: TwinStore) -> None:
    old = commit_cycles(store, 2)
    state, dose = first(store, science="t" * 64)
    commit(store, state, dose, 9, refit_reason="new kernel tables")
    assert store.head(PID) == state.id
    info = store.info(state.id)
    assert (info.supersedes, info.reason) == (old[0], "new kernel tables")
    assert store.branches(PID) == (state.id, old[1])
    assert store.load(old[1]).cycle == 2
    assert store.verify() == ()


def test_late_evidence_derives_the_chain_again_and_keeps_the_old_one_readable(store: TwinStore) -> None:
    old = commit_cycles(store, 2)
    scans = {c: [item(store, "scan", c)] for c in (1, 2)}
    late = {1: [*scans[1], item(store, "late", 1)], 2: scans[2]}
    assert store.first_new_cycle(PID, scans) is None
    assert store.first_new_cycle(PID, late) == 1
    assert store.first_new_cycle(PID, {**scans, 3: ["x"]}) == 3
    assert store.first_new_cycle(PID, {1: scans[1]}) == 2, "evidence that was retracted as a whole is a change"
    new = commit_cycles(store, 1, names=("scan", "late"), at=30)
    assert new[0] != old[0]
    assert [i.id for i in store.as_of(PID, day(3))] == old[::-1]
    assert [i.id for i in store.as_of(PID, day(40))] == new
    assert store.as_of(PID, day(0)) == ()
    assert store.first_new_cycle(PID, late) == 2


def test_evidence_assimilated_is_that_of_the_current_chain(store: TwinStore) -> None:
    commit_cycles(store, 2, names=("scan", "labs"))
    assert store.assimilated(PID) == {item(store, n, c) for n in ("scan", "labs") for c in (1, 2)}


def test_evidence_retracted_and_given_again_returns_to_the_old_state_as_a_new_move_of_head(store: TwinStore) -> None:
    (both,) = commit_cycles(store, 1, names=("scan", "labs"))
    (one,) = commit_cycles(store, 1, names=("scan",), at=10)
    assert store.head(PID) == one
    assert commit_cycles(store, 1, names=("scan", "labs"), at=20) == [both]
    assert store.head(PID) == both
    assert [[i.id for i in store.as_of(PID, day(n))] for n in (2, 12, 22)] == [[both], [one], [both]]
    assert store.verify() == ()


def test_a_time_without_zone_is_refused(store: TwinStore) -> None:
    state, dose = first(store)
    with pytest.raises(TimeError):
        commit(store, state, dose, knowledge_time=datetime(2026, 3, 1))
    with pytest.raises(TimeError):
        store.as_of(PID, datetime(2026, 3, 1))


def test_knowledge_does_not_go_back_in_time(store: TwinStore) -> None:
    ids = commit_cycles(store, 1, at=5)
    state, dose = make_state(cycle=2, parent=ids[0], evidence=[item(store, "scan", 2)], before=[item(store, "scan", 1)])
    with pytest.raises(TimeError) as e:
        commit(store, state, dose, 2)
    assert e.value.kind == "store.clock"


# -- refusals ---------------------------------------------------------------------------------------------------------------


def test_a_run_that_started_from_an_older_head_reports_a_conflict_and_leaves_nothing(store: TwinStore) -> None:
    ids = commit_cycles(store, 1)
    other, dose = make_state(cycle=1, parent=None, evidence=[item(store, "other", 1)])
    before = tree(store.home.root)
    with pytest.raises(ConflictError) as e:
        commit(store, other, dose, 2, expected_head=None)
    assert e.value.kind == "store.conflict"
    assert store.head(PID) == ids[0]
    assert tree(store.home.root) == before


def test_of_two_threads_with_different_states_from_one_head_one_wins(store: TwinStore) -> None:
    candidates = [make_state(cycle=1, parent=None, evidence=[item(store, f"scan {n}", 1)]) for n in range(2)]
    outcome: list[str] = []
    barrier = threading.Barrier(2)

    def run(state: TwinState, dose: xr.Dataset) -> None:
        barrier.wait()
        try:
            store.commit(state, dose, expected_head=None, provenance={}, knowledge_time=day(1))
            outcome.append("won")
        except ConflictError:
            outcome.append("conflict")

    threads = [threading.Thread(target=run, args=c) for c in candidates]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(outcome) == ["conflict", "won"]
    assert len(store.state_ids(PID)) == 1
    assert store.verify() == ()


def test_a_state_without_its_evidence_or_parent_in_the_store_is_refused(store: TwinStore) -> None:
    state, dose = make_state(cycle=1, parent=None, evidence=["e" * 64])
    with pytest.raises(StoreError, match="not in the store") as e:
        commit(store, state, dose)
    assert e.value.kind == "store.evidence"
    state, dose = make_state(cycle=2, parent="d" * 64, evidence=[item(store, "scan", 2)])
    with pytest.raises(StoreError, match="no parent"):
        commit(store, state, dose)


@pytest.mark.parametrize("change", [{"id": "a" * 64}, {"cycle": 2}, {"parent": "b" * 64}, {"model": "other"}, {"pid": "p-2"}])
def test_a_state_that_contradicts_its_identity_is_refused(store: TwinStore, change: dict) -> None:
    state, dose = first(store)
    with pytest.raises(StoreError) as e:
        commit(store, replace(state, **change), dose)
    assert e.value.kind == "store.identity"


def test_a_posterior_with_nan_is_refused_and_leaves_no_trace(store: TwinStore) -> None:
    state, dose = first(store)
    state.posterior.draws[0, 0] = np.nan
    before = tree(store.home.root)
    with pytest.raises(StoreError) as e:
        commit(store, state, dose)
    assert e.value.kind == "store.nonfinite"
    assert tree(store.home.root) == before


def test_a_summary_with_nan_is_refused_while_writing_and_leaves_no_trace(store: TwinStore) -> None:
    state, dose = first(store)
    state.summary["warnings"] = float("nan")
    with pytest.raises(StoreError) as e:
        commit(store, state, dose)
    assert e.value.kind == "store.nonfinite"
    assert store.state_ids(PID) == ()
    assert list(store.home.staging.iterdir()) == []


def test_voxel_maps_without_unit_or_affine_are_refused(store: TwinStore) -> None:
    state, dose = first(store)
    for broken in (dose.drop_attrs(), dose.assign(dose_mean_gy=dose["dose_mean_gy"].drop_attrs())):
        with pytest.raises(StoreError) as e:
            commit(store, state, broken)
        assert e.value.kind == "store.dose"


@pytest.mark.parametrize("pid", ["", "..", "a/b", ".hidden"])
def test_a_pseudonym_that_is_no_folder_name_is_refused(store: TwinStore, pid: str) -> None:
    with pytest.raises(StoreError):
        store.head(pid)


def test_a_damaged_file_is_refused_on_reading(store: TwinStore) -> None:
    state, dose = first(store)
    folder = commit(store, state, dose)
    victim = folder / "posterior.zarr" / "draws" / "zarr.json"
    victim.write_bytes(victim.read_bytes().replace(b"float64", b"int64  "))
    with pytest.raises(StoreError, match=r"posterior\.zarr/draws/zarr\.json"):
        store.load(state.id)
    assert not store.has(state.id)
    store.open_dose(state.id).close()


# -- schema -----------------------------------------------------------------------------------------------------------------


def test_an_older_state_is_brought_forward_by_one_way_migrations(store: TwinStore) -> None:
    state, _ = first(store)
    old = files.state_plain(state) | {"schema_version": 0}
    old["therapy_model"] = old.pop("model")

    def migrate(plain: dict) -> dict:
        return {
            **{k: v for k, v in plain.items() if k != "therapy_model"},
            "model": plain["therapy_model"],
            "schema_version": 1,
        }

    arrays = {n: getattr(state.posterior, n) for n in ("mean", "cholesky", "draws")}
    arrays |= {n: getattr(state.ledger, n) for n in ("dose_gy", "bed_gy")}
    assert_same_state(files.state_from_plain(old, arrays, migrations={0: migrate}), state)
    for version in (0, 99):
        with pytest.raises(StoreError) as e:
            files.state_from_plain(old | {"schema_version": version}, arrays)
        assert e.value.kind == "store.version"


# -- decisions --------------------------------------------------------------------------------------------------------------


def test_a_signature_is_kept_and_repeating_it_changes_nothing(store: TwinStore) -> None:
    ids = commit_cycles(store, 1)
    record = store.decide(signed(ids[0]), time=day(2))
    again = store.decide(signed(ids[0]), time=day(3))
    assert again == record
    assert store.decision(ids[0]) == signed(ids[0])
    assert (store.home.decisions(PID) / f"{record.id}.json").is_file()
    assert record.state_manifest == files.seals(store.path(ids[0]))["manifest"]
    assert store.verify() == ()


@pytest.mark.parametrize(
    "change",
    [
        {"signed_by": " "},
        {"role": ""},
        {"reason": ""},
        {"activity_mbq": None},
        {"kind": "maybe"},
        {"activity_mbq": 0.0},
        {"activity_mbq": float("nan")},
        {"activity_mbq": 7001.0},
        {"kind": "refused"},
        {"kind": "retrospective"},
    ],
)
def test_an_incomplete_or_contradictory_decision_is_refused(store: TwinStore, change: dict) -> None:
    ids = commit_cycles(store, 1)
    with pytest.raises(InputError) as e:
        store.decide(replace(signed(ids[0]), **change), time=day(2))
    assert e.value.kind in ("decision.incomplete", "decision.contradiction")
    assert store.decisions(PID) == ()


def test_an_abstention_cannot_be_signed_but_can_be_answered(store: TwinStore) -> None:
    state, dose = first(store, proposed_mbq=None)
    commit(store, state, dose)
    with pytest.raises(InputError) as e:
        store.decide(signed(state.id), time=day(2))
    assert e.value.kind == "decision.contradiction"
    refused = replace(signed(state.id), kind="refused", activity_mbq=None, reason="wait for the kidney function")
    store.decide(refused, time=day(2))
    assert store.decision(state.id) == refused


def test_a_decision_on_a_superseded_state_is_refused(store: TwinStore) -> None:
    ids = commit_cycles(store, 2)
    with pytest.raises(ConflictError) as e:
        store.decide(signed(ids[0]), time=day(3))
    assert e.value.kind == "decision.superseded"


def test_history_is_decided_retrospectively_without_a_signature(store: TwinStore) -> None:
    ids = commit_cycles(store, 2)
    past = Decision(ids[0], "retrospective", 7400.0, "", "", "taken in together")
    store.decide(past, time=day(3))
    assert store.decision(ids[0]) == past


def test_a_second_decision_needs_to_name_the_first_and_a_reason(store: TwinStore) -> None:
    ids = commit_cycles(store, 1)
    one = store.decide(signed(ids[0]), time=day(2))
    other = replace(signed(ids[0]), kind="changed", activity_mbq=5000.0, reason="platelets fell")
    with pytest.raises(ConflictError) as e:
        store.decide(other, time=day(3))
    assert e.value.kind == "decision.second"
    with pytest.raises(ConflictError) as e:
        store.decide(other, time=day(3), replaces="f" * 64, replace_reason="new counts")
    assert e.value.kind == "decision.replaces"
    with pytest.raises(InputError):
        store.decide(other, time=day(3), replaces=one.id)
    two = store.decide(other, time=day(3), replaces=one.id, replace_reason="new counts")
    assert store.decide(other, time=day(4), replaces=one.id, replace_reason="new counts") == two
    assert store.decision(ids[0]) == other
    assert len(store.decisions(PID)) == 2
    assert store.verify() == ()


def test_a_failed_assimilation_is_recorded_and_the_twin_stays(store: TwinStore) -> None:
    ids = commit_cycles(store, 1)
    store.record_failure(PID, 2, StoreError("the fit has no answer", kind="estimation.failed").as_dict(), time=day(3))
    assert store.head(PID) == ids[0]
    (event,) = [e for e in store.audit.events() if e["event"] == "failure"]
    assert event["error"]["kind"] == "estimation.failed"
