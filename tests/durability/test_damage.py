"""A flipped byte anywhere, a lost file, a file that does not belong: verification finds it and names the file."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from store_builder import PID, day, make_state, open_store, signed
from store_worker import run_history

from storage.twins import TwinStore
from tdt_core.errors import StoreError

NOT_TRUTH = ("locks", "notes", "schema", "mlflow.db", "mlartifacts", "derived")


@pytest.fixture
def store(tmp_path: Path) -> TwinStore:
    run_history(tmp_path / "home")
    return open_store(tmp_path / "home")


def truth(store: TwinStore) -> list[Path]:
    root = store.home.root
    files = [p for p in sorted(root.rglob("*")) if p.is_file()]
    return [p for p in files if p.relative_to(root).parts[0] not in NOT_TRUTH]


def named(store: TwinStore, pid: str | None = None) -> set[str]:
    return {p.path for p in store.verify(pid)}


def flip(data: bytes, position: int, bit: int = 0) -> bytes:
    return data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :]


def test_a_flipped_byte_in_any_file_is_found_and_the_file_is_named(store: TwinStore) -> None:
    rng = random.Random(3)
    kinds = set()
    for path in truth(store):
        whole = path.read_bytes()
        for position in {0, rng.randrange(len(whole)), len(whole) - 1}:
            path.write_bytes(flip(whole, position, rng.randrange(8)))
            assert named(store) == {path.relative_to(store.home.root).as_posix()}, (path, position)
        path.write_bytes(whole)
        kinds.add(path.name)
    assert {"state.json", "manifest.json", "provenance.json", "COMMITTED", "HEAD", "audit.jsonl", "meta.json"} <= kinds
    assert {"zarr.json", "c.0.0.0", "c.0"} <= kinds
    assert store.verify() == ()


def test_any_lost_file_is_found_and_named(store: TwinStore) -> None:
    for path in truth(store):
        whole = path.read_bytes()
        path.unlink()
        if path.name == "audit.jsonl":  # without the trail everything is unheard of
            assert any("not in the audit trail" in p.what for p in store.verify())
        else:
            assert path.relative_to(store.home.root).as_posix() in named(store), path
        path.write_bytes(whole)
    assert store.verify() == ()


def test_verifying_one_patient_also_reads_the_evidence_below_it(store: TwinStore) -> None:
    digest = store.log(PID)[0].cycle_evidence[0]
    path = store.evidence.path(digest) / "meta.json"
    path.write_bytes(flip(path.read_bytes(), 5))
    assert named(store, PID) == {path.relative_to(store.home.root).as_posix()}


def test_lost_evidence_and_a_lost_state_folder_are_found(store: TwinStore) -> None:
    digest = store.log(PID)[0].cycle_evidence[0]
    shutil.rmtree(store.evidence.path(digest))
    assert named(store) == {f"evidence/{digest}"}
    first = store.log(PID)[1].id
    shutil.rmtree(store.path(first))
    assert f"twins/{PID}/states/{first}" in named(store)


def test_files_that_do_not_belong_are_found(store: TwinStore) -> None:
    state = store.head(PID)
    assert state is not None
    for place in (store.path(state) / "note.txt", store.path(state) / "dose.zarr" / "x", store.home.decisions(PID) / "y"):
        place.touch()
        assert named(store) == {place.relative_to(store.home.root).as_posix()}
        place.unlink()


def test_a_state_folder_put_in_by_hand_is_found_and_stops_nothing(store: TwinStore, tmp_path: Path) -> None:
    other = open_store(tmp_path / "other")
    evidence = [other.evidence.put_json("labs", {"n": 1})]
    state, dose = make_state(cycle=1, parent=None, evidence=evidence)
    folder = other.commit(state, dose, expected_head=None, provenance={}, knowledge_time=day(1))
    store.evidence.put_json("labs", {"n": 1})
    shutil.copytree(folder, store.home.states(PID) / state.id)
    assert named(store) == {f"twins/{PID}/states/{state.id}"}
    head = store.head(PID)
    store.recover()
    assert store.head(PID) == head
    assert named(store) == {f"twins/{PID}/states/{state.id}"}


def test_a_head_set_by_hand_is_found_and_stops_the_next_commit(store: TwinStore) -> None:
    first = store.log(PID)[1].id
    (store.home.twin(PID) / "HEAD").write_text(first + "\n")
    assert named(store) == {f"twins/{PID}/HEAD"}
    # Moved back to where the trail says it came from, it looks like the work of a dead process and is mended.
    assert store.recover()
    assert store.verify() == ()
    (store.home.twin(PID) / "HEAD").write_text("0" * 64 + "\n")
    with pytest.raises(StoreError):
        store.recover()


def test_a_trail_cut_at_a_line_end_is_found_and_stops_the_next_commit(store: TwinStore) -> None:
    lines = store.home.audit.read_bytes().splitlines(keepends=True)
    store.home.audit.write_bytes(b"".join(lines[:1]))
    assert store.audit.verify() == [], "the chain that is left is whole"
    assert f"twins/{PID}/HEAD" in named(store)
    head = store.head(PID)
    assert head is not None
    with pytest.raises(StoreError) as e:
        store.decide(signed(head), time=day(40))
    assert e.value.kind == "audit.broken"


def test_a_damaged_trail_stops_commits_and_damage_does_not_spread(store: TwinStore) -> None:
    whole = store.home.audit.read_bytes()
    store.home.audit.write_bytes(flip(whole, 40))
    state, dose = make_state(cycle=3, parent=store.head(PID), evidence=[store.evidence.put_json("labs", {"n": 3})])
    with pytest.raises(StoreError) as e:
        store.commit(state, dose, expected_head=store.head(PID), provenance={}, knowledge_time=day(50))
    assert e.value.kind == "audit.broken"
    store.home.audit.write_bytes(whole)
    assert store.verify() == ()
