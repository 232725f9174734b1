"""Trials at rest: parallel writers lose nothing, failures are results, finished trials are compact and verified."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from storage.home import open_home
from storage.trials import (
    TrialStore,
    Variable,
    failures,
    progress,
    write_failure,
    write_member,
    write_members,
)
from tdt_core.errors import StoreError

ARMS = ("fixed", "proposed")
VARIABLES = {
    "kidney_bed_gy": Variable(("arm", "cycle"), "Gy", long_name="cumulative"),
    "activity_mbq": Variable(("arm", "cycle"), "MBq"),
    "grade": Variable(("arm",), "1", "int16"),
}
ROOT = Path(__file__).parents[2]


def values(member: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([9, member])
    return {
        "kidney_bed_gy": rng.uniform(0, 30, (2, 2)),
        "activity_mbq": rng.uniform(5000, 9000, (2, 2)),
        "grade": rng.integers(0, 4, 2),
    }


@pytest.fixture
def store(tmp_path: Path) -> TrialStore:
    return TrialStore(open_home(tmp_path / "home"))


def create(store: TrialStore, members: int = 6) -> Path:
    coords = {"arm": ARMS, "cycle": [1, 2]}
    return store.create({"name": "demo", "seed": 9}, members=members, coords=coords, variables=VARIABLES)


def test_members_written_by_several_processes_at_once_are_all_there_and_exact(store: TrialStore) -> None:
    folder = create(store, 12)
    script = (
        "import sys; sys.path[:0] = sys.argv[3:]\n"
        "from test_trials_store import values; from storage.trials import write_member\n"
        "for m in range(int(sys.argv[2]), 12, 2): write_member(sys.argv[1], m, values(m))\n"
    )
    paths = [str(ROOT), str(Path(__file__).parent)]
    workers = [subprocess.Popen([sys.executable, "-c", script, str(folder), str(k), *paths]) for k in range(2)]
    assert [w.wait(60) for w in workers] == [0, 0]
    assert progress(folder).pending == ()
    store.finish(folder.name)
    found = store.open(folder.name)
    for member in range(12):
        for name, value in values(member).items():
            assert np.array_equal(found[name].isel(patient=member).values, value), (name, member)


def test_results_carry_labels_and_units_and_open_with_plain_xarray(store: TrialStore) -> None:
    folder = create(store)
    write_members(folder, 0, {k: np.stack([values(m)[k] for m in range(6)]) for k in VARIABLES})
    store.finish(folder.name)
    found = store.open(folder.name)
    assert list(found["arm"].values) == list(ARMS)
    assert float(found["activity_mbq"].sel(arm="proposed", cycle=2)[3]) == values(3)["activity_mbq"][1, 1]
    with xr.open_dataset(folder / "results.zarr", engine="zarr", consolidated=False) as plain:
        assert plain["kidney_bed_gy"].attrs["units"] == "Gy"
        assert plain["kidney_bed_gy"].dims == ("patient", "arm", "cycle")


def test_a_block_and_single_members_give_the_same_results(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        store = TrialStore(open_home(tmp_path / name))
        folder = create(store)
        if name == "one":
            for member in (3, 1, 5, 0, 4, 2):
                write_member(folder, member, values(member))
        else:
            write_members(folder, 0, {k: np.stack([values(m)[k] for m in range(6)]) for k in VARIABLES})
        store.finish(folder.name)
        found.append((folder / "manifest.json").read_bytes())
    assert found[0] == found[1]


def test_a_trial_with_pending_members_is_not_finished_and_goes_on_where_it_was(store: TrialStore) -> None:
    folder = create(store)
    write_member(folder, 2, values(2))
    assert progress(folder).pending == (0, 1, 3, 4, 5)
    with pytest.raises(StoreError) as e:
        store.finish(folder.name)
    assert e.value.kind == "store.trial"
    assert create(store) == folder, "the same trial again is the same folder"
    assert progress(folder).done == 1
    assert np.isnan(store.open(folder.name)["activity_mbq"].isel(patient=0)).all()


def test_a_failed_member_is_recorded_with_its_reason_and_reads_as_nan(store: TrialStore) -> None:
    folder = create(store)
    for member in range(5):
        write_member(folder, member, values(member))
    write_failure(folder, 5, StoreError("no optimum", kind="estimation.failed").as_dict())
    store.finish(folder.name)
    assert (progress(folder).done, progress(folder).failed) == (5, 1)
    assert failures(folder)[5]["kind"] == "estimation.failed"
    assert np.isnan(store.open(folder.name)["kidney_bed_gy"].isel(patient=5)).all()


def test_finishing_twice_changes_nothing_and_leaves_no_member_files(store: TrialStore) -> None:
    folder = create(store)
    write_members(folder, 0, {k: np.stack([values(m)[k] for m in range(6)]) for k in VARIABLES})
    store.finish(folder.name)
    before = sorted((p.name, p.stat().st_mtime_ns) for p in folder.rglob("*"))
    store.finish(folder.name)
    assert sorted((p.name, p.stat().st_mtime_ns) for p in folder.rglob("*")) == before
    assert not (folder / "members.zarr").exists()
    assert len([p for p in folder.rglob("*") if p.is_file()]) < 16
    assert list(store.home.staging.iterdir()) == []


def test_every_flipped_byte_of_a_finished_trial_is_found_and_named(store: TrialStore) -> None:
    folder = create(store, 2)
    write_members(folder, 0, {k: np.stack([values(m)[k] for m in range(2)]) for k in VARIABLES})
    store.finish(folder.name)
    assert store.verify(folder.name) == ()
    for path in [p for p in sorted(folder.rglob("*")) if p.is_file()]:
        whole = path.read_bytes()
        path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
        assert [p.path for p in store.verify(folder.name)] == [path.relative_to(store.home.root).as_posix()]
        path.write_bytes(whole)
    (folder / "stranger").touch()
    assert [p.what for p in store.verify(folder.name)] == ["does not belong here"]


@pytest.mark.parametrize(
    ("member", "change"),
    [(6, {}), (-1, {}), (0, {"grade": np.zeros(3)}), (0, {"other": np.zeros(2)})],
)
def test_results_that_do_not_fit_the_trial_are_refused(store: TrialStore, member: int, change: dict) -> None:
    folder = create(store)
    with pytest.raises(StoreError) as e:
        write_member(folder, member, values(0) | change)
    assert e.value.kind == "store.trial"
    with pytest.raises(StoreError):
        write_member(folder, 0, {"grade": np.zeros(2)})


def test_a_trial_needs_labels_on_every_axis(store: TrialStore) -> None:
    with pytest.raises(StoreError):
        store.create({}, members=2, coords={}, variables=VARIABLES)
    with pytest.raises(StoreError):
        store.create({}, members=0, coords={"arm": ARMS, "cycle": [1]}, variables=VARIABLES)


def test_a_trial_is_named_by_its_specification(store: TrialStore) -> None:
    folder = create(store)
    assert create(store, 7) != folder
    assert store.list() == tuple(sorted([folder.name, create(store, 7).name]))
    assert json.loads((folder / "trial.json").read_text())["trial"] == {"name": "demo", "seed": 9}
