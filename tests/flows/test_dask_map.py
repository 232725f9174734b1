"""Maps over Dask: the bytes of one process for any number of workers, bounded in flight, whole when workers are killed."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dask_processes import dask_processes
from distributed import Client, LocalCluster

from flows import progress, trial
from flows.dask_client import dask_client
from flows.dask_map import ordered_map
from flows.progress import Event
from flows.settings import Settings, load_settings, make_folders
from storage import trials
from storage.trials import TrialStore, Variable
from tdt_core.codec import to_plain
from tdt_core.dosimetry import Response, credible_dose
from tdt_core.dosimetry import voxel_bands as bands_module
from tdt_core.dosimetry.dose_rate import absorbed_dose_by_rates
from tdt_core.errors import InputError, SettingsError
from tdt_core.lazy import Lazy
from tdt_core.trials import ENDPOINTS, Design

SHAPE, SPACING, DRAWS = (24, 24, 24), (4.8, 4.8, 4.8), 40


def doubled(array: np.ndarray, add: float) -> np.ndarray:
    return np.asarray(2.0 * array + add)


def refuses(n: int) -> int:
    if n == 3:
        raise InputError("three", kind="input.three")
    return n


def kills_its_worker(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Two threads in this process: the same protocol, started at once."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def test_results_stand_in_the_order_of_inputs_of_any_kind(client: Client) -> None:
    arrays = Lazy(lambda n: np.full((30, 40), n, np.float32), 9)
    found = list(ordered_map(client)(doubled, arrays, (float(n) for n in range(9))))
    assert [float(a[0, 0]) for a in found] == [3.0 * n for n in range(9)]
    assert list(ordered_map(client)(doubled, [], [])) == []


def test_an_error_comes_where_its_input_stood(client: Client) -> None:
    results = ordered_map(client)(refuses, range(6))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match="three"):
        next(results)


def test_an_expected_error_is_no_failure_of_the_worker(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "flows.dask_map"), pytest.raises(InputError, match="three") as caught:
        list(ordered_map(client)(refuses, range(6)))
    assert caught.value.kind == "input.three"
    told = [r.levelname for r in caplog.records if "Traceback" in r.getMessage()]
    assert told == ["DEBUG"]
    assert not [r for r in caplog.records if "Compute Failed" in r.getMessage()]


@pytest.mark.parametrize(("held_bytes", "ahead"), [(1e9, 4), (2.5 * 4e5, 2), (1.0, 1)])
def test_no_more_inputs_are_made_than_memory_was_given_for(client: Client, held_bytes: float, ahead: int) -> None:
    made: list[int] = []

    def make(n: int) -> np.ndarray:
        made.append(n)
        return np.full(100_000, n, np.float32)  # 0.4 MB

    for taken, _ in enumerate(ordered_map(client, held_bytes)(doubled, Lazy(make, 12), range(12)), start=1):
        assert len(made) <= taken + ahead
    assert len(made) == 12


def test_progress_says_how_many_of_how_many(client: Client) -> None:
    events: list[Event] = []
    with progress.listening(events.append):
        list(ordered_map(client)(doubled, [np.ones(2)] * 3, [0.0] * 3))
        list(progress.counting_map(doubled, [np.ones(2)] * 2, [0.0] * 2))
    assert [(e.task, e.done, e.of) for e in events] == [("doubled", n, 3) for n in (1, 2, 3)] + [
        ("doubled", n, 2) for n in (1, 2)
    ]


def test_progress_is_shown_on_standard_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "QUIET_S", 0.0)
    with progress.shown(), progress.step("dose"):
        assert list(progress.counting_map(refuses, [0, 1])) == [0, 1]
    assert "refuses, 2 of 2" in capsys.readouterr().err


def solve(map_: Callable[..., Any]) -> list[bytes]:
    """Credible maps with pattern noise and BED, and dose by rates, of a small case: all their numbers as bytes."""
    rng = np.random.default_rng(5)
    z, y, x = np.ogrid[:24, :24, :24]
    kidney = (z - 8) ** 2 + (y - 8) ** 2 + (x - 8) ** 2 < 20
    lesion = (z - 16) ** 2 + (y - 15) ** 2 + (x - 16) ** 2 < 9
    masks = {"kidney_left": kidney, "lesion/L1": lesion, "rest": ~kidney & ~lesion}
    weights = {}
    for name, mask in masks.items():
        raw = np.where(mask, 0.5 + rng.random(SHAPE), 0.0)
        weights[name] = (raw / raw.sum()).astype(np.float32)
    tia = np.array([2000.0, 150.0, 9000.0]) * np.exp(rng.normal(0, 0.2, (DRAWS, 3)))
    density = np.where(y + 0 * z + 0 * x < 3, 0.26, 1.04)
    noise = sum(weights.values(), np.zeros(SHAPE)) * rng.lognormal(0, 0.1, (4, *SHAPE))
    responses = {n: Response(rng.uniform(0.05, 0.1, DRAWS), 2.5, 0.15, -10.0) for n in ("kidney_left", "lesion/L1")}
    found = credible_dose(
        weights, tia, masks, spacing_mm=SPACING, nuclide="Lu-177", density_g_cm3=density,
        noise_draws=noise, responses=responses, map=map_,
    )  # fmt: skip
    scans = np.stack([weights["rest"] * 900.0 * f for f in (1.0, 0.8, 0.4)])
    rates = absorbed_dose_by_rates(scans, np.array([4.0, 24.0, 96.0]), SPACING, "Lu-177", density, map=map_)
    arrays = (found.mean_gy, found.sd_gy, found.region_dose_gy, *vars(found.bands).values(), rates.dose_gy, rates.rates_gy_h)
    return [*(a.tobytes() for a in arrays), json.dumps([found.dvh, found.conservation]).encode()]


@pytest.fixture
def many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces, so that this small case has many."""
    monkeypatch.setattr(bands_module, "BLOCK_VALUES", 40_000)
    monkeypatch.setattr(bands_module, "PIECE_VALUES", 40_000)


def test_threads_of_a_cluster_give_the_bytes_of_one_process(client: Client, many_pieces: None) -> None:
    assert solve(ordered_map(client)) == solve(map)


@pytest.mark.long
@pytest.mark.services
def test_one_two_four_workers_and_another_ones_scheduler_give_the_same_bytes(tmp_path: Path, many_pieces: None) -> None:
    found = [solve(map)]
    for workers in (1, 2, 4):
        with dask_client(Settings(), workers=workers) as client:
            assert len(client.nthreads()) == workers
            found.append(solve(ordered_map(client)))
    with dask_processes(tmp_path, 2) as (address, _), dask_client(load_settings(dask_scheduler=address)) as client:
        client.wait_for_workers(2, timeout=60)
        found.append(solve(ordered_map(client)))
    assert [f == found[0] for f in found] == [True] * 5


class Killer:
    """Kills a worker at the given parts of the work; `killed` holds their process ids."""

    def __init__(self, client: Client, at: dict[str, int]) -> None:
        self.client, self.at, self.killed = client, dict(at), list[int]()

    def __call__(self, event: Event) -> None:
        if event.kind == progress.PART and self.at.get(event.task) == event.done:
            del self.at[event.task]
            pid = next(iter(self.client.run(os.getpid).values()))
            os.kill(pid, signal.SIGKILL)
            self.killed.append(pid)


@pytest.mark.long
@pytest.mark.services
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_killed_in_the_middle_of_maps_lose_nothing(workers: int, many_pieces: None) -> None:
    with dask_client(Settings(), workers=workers) as client:
        killer = Killer(client, {"dose maps": 1, "blocks of voxels": 3})
        with progress.listening(killer):
            found = solve(ordered_map(client))
    assert found == solve(map)
    assert len(set(killer.killed)) == 2


@pytest.mark.long
@pytest.mark.services
def test_a_worker_of_another_ones_scheduler_may_die_for_good(tmp_path: Path, many_pieces: None) -> None:
    with dask_processes(tmp_path, 2) as (address, pids), dask_client(load_settings(dask_scheduler=address)) as client:
        client.wait_for_workers(2, timeout=60)
        killer = Killer(client, {"blocks of voxels": 2})
        with progress.listening(killer):
            found = solve(ordered_map(client))
        assert set(killer.killed) < set(pids)
    assert found == solve(map)


@pytest.mark.long
@pytest.mark.services
def test_a_piece_that_kills_every_worker_is_refused_with_a_remedy() -> None:
    with dask_client(Settings(), workers=1) as client, pytest.raises(SettingsError) as caught:
        list(ordered_map(client)(kills_its_worker, [0]))
    assert caught.value.kind == "settings.workers"
    assert "memory" in caught.value.remedy


@pytest.mark.long
@pytest.mark.services
def test_a_worker_killed_in_the_middle_of_a_trial_loses_no_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    design = Design(root_seed=5, patients=4, n_draws=60)
    folders = []
    for name in ("killed", "whole"):
        store = TrialStore(make_folders(load_settings(home=tmp_path / name)))
        folders.append((store, begun(store, design)))
    (store, folder), (other, whole) = folders
    trial.simulate_and_write(str(whole), to_plain(design), range(4))
    monkeypatch.setattr(trial, "BLOCK", 1)
    killed: list[int] = []

    def watched(client: Client, *rest: Any) -> Iterator[Any]:
        for found in completed(client, *rest):
            if not killed:
                killed.append(next(iter(client.run(os.getpid).values())))
                os.kill(killed[0], signal.SIGKILL)
            yield found

    completed = trial.completed
    monkeypatch.setattr(trial, "completed", watched)
    trial._simulate(load_settings(home=tmp_path / "killed"), design, folder)
    assert len(killed) == 1
    assert trials.progress(folder).done == 4
    store.finish(folder.name)
    other.finish(whole.name)
    files = sorted(p.relative_to(folder) for p in (folder / "results.zarr").rglob("*") if p.is_file())
    assert len(files) > len(ENDPOINTS)
    assert [p for p in files if (folder / p).read_bytes() != (whole / p).read_bytes()] == []


def begun(store: TrialStore, design: Design) -> Path:
    return store.create(
        {"design": to_plain(design)},
        members=design.patients,
        coords={"arm": list(design.arms), "cycle": [1, 2]},
        variables={e.name: Variable(("arm", "cycle"), e.unit) for e in ENDPOINTS},
    )
