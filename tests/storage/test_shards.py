"""Volumes in shards: every voxel in one shard, one writer per shard, the same bytes whoever writes, nothing half visible."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from storage import atomic
from storage.atomic import publish_folder
from storage.posterior_files import open_dose, write_dose, write_group
from storage.shards import regions, shard_shape, write_shard
from tdt_core.errors import StoreError

SHAPE, CHUNK = (20, 13, 17), 4
VALUES = np.random.default_rng(2).normal(size=SHAPE).astype(np.float32)
DIMS = ("z", "y", "x")


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def written(folder: Path, map_: Callable[..., Any] = map) -> Path:
    arrays = {"dose": (DIMS, VALUES, {"units": "Gy"}), "label": (DIMS, np.rint(VALUES).astype(np.int16), {})}
    write_group(folder, arrays, {}, chunk=CHUNK, map=map_)
    return folder


@given(
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    chunk=st.integers(1, 12),
)
def test_shards_hold_every_voxel_once_and_whole_chunks(shape: tuple[int, int, int], chunk: int) -> None:
    chunks = tuple(min(n, chunk) for n in shape)
    shard = shard_shape(shape, chunks) or chunks
    times = np.zeros(shape, int)
    for region in regions(shape, shard):
        times[tuple(slice(*r) for r in region)] += 1
        # edges of shards are edges of chunks
        assert all(
            begin % c == 0 and (end % c == 0 or end == n) for (begin, end), c, n in zip(region, chunks, shape, strict=True)
        )
    assert (times == 1).all()
    assert all(s % c == 0 for s, c in zip(shard, chunks, strict=True))


def test_a_shard_is_one_file_and_reads_back_as_it_was(tmp_path: Path) -> None:
    import zarr

    folder = written(tmp_path / "a.zarr")
    array: Any = zarr.open_group(str(folder), mode="r")["dose"]
    assert (array.chunks, array.shards) == ((4, 4, 4), (8, 8, 8))
    assert len(list((folder / "dose").glob("c.*"))) == len(regions(SHAPE, (8, 8, 8))) == 18
    assert np.array_equal(array[...], VALUES)
    assert np.array_equal(array[9, 3:7, :], VALUES[9, 3:7, :])


def test_a_volume_of_one_chunk_has_no_shards_and_a_big_one_is_a_single_file(tmp_path: Path) -> None:
    for n, count in ((48, 1), (128, 1), (130, 8)):
        data = np.ones((n, n, n), np.int16)
        dose = xr.Dataset({"label": (DIMS, data, {"units": "1"})}, attrs={"affine": [0.0], "regions": "[]"})
        write_dose(tmp_path / f"{n}.zarr", dose)
        assert len(list((tmp_path / f"{n}.zarr" / "label").glob("c.*"))) == count
        assert np.array_equal(open_dose(tmp_path / f"{n}.zarr")["label"].values, data)


def test_many_writers_write_the_bytes_of_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        several = written(tmp_path / "b.zarr", pool.map)
    assert files(several) == files(written(tmp_path / "a.zarr"))
    before = files(several)
    write_shard(several, "dose", ((0, 8), (8, 13), (16, 17)), VALUES[0:8, 8:13, 16:17])
    assert files(several) == before  # a repeat writes the same


@pytest.mark.parametrize("region", [((0, 8), (0, 8), (4, 12)), ((0, 4), (0, 8), (0, 8)), ((0, 16), (0, 8), (0, 8))])
def test_what_is_not_exactly_one_shard_is_refused(tmp_path: Path, region: tuple[tuple[int, int], ...]) -> None:
    folder = written(tmp_path / "a.zarr")
    before = files(folder)
    with pytest.raises(StoreError) as caught:
        write_shard(folder, "dose", region, VALUES[tuple(slice(*r) for r in region)])
    assert caught.value.kind == "store.shard"
    with pytest.raises(StoreError, match="shape"):
        write_shard(folder, "dose", ((0, 8), (0, 8), (0, 8)), VALUES[:8, :8, :7])
    assert files(folder) == before


def dies_at_shard(folder: str, last: int) -> None:
    """A writer that is killed after its n-th shard, before anything is published."""
    passed = 0

    def hook(name: str) -> None:
        nonlocal passed
        passed += name == "shard-written"
        if passed == last:
            os.kill(os.getpid(), signal.SIGKILL)

    atomic.set_checkpoint_hook(hook)
    staged = Path(folder) / "staged"
    staged.mkdir()
    written(staged / "dose.zarr")
    publish_folder(staged, Path(folder) / "published")


@pytest.mark.long
def test_processes_that_share_an_array_lose_no_shard(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        several = written(tmp_path / "b.zarr", pool.map)
    assert files(several) == files(written(tmp_path / "a.zarr"))


@pytest.mark.long
@pytest.mark.parametrize("last", [1, 20])
def test_a_killed_writer_leaves_whole_shards_in_staging_and_nothing_published(tmp_path: Path, last: int) -> None:
    import zarr

    process = multiprocessing.get_context("spawn").Process(target=dies_at_shard, args=(str(tmp_path), last))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "published").exists()
    group: Any = zarr.open_group(str(tmp_path / "staged" / "dose.zarr"), mode="r")
    there = [(n, r) for n in ("dose", "label") for r in regions(SHAPE, (8, 8, 8))][:last]
    for name, region in there:
        at = tuple(slice(*r) for r in region)
        assert np.array_equal(group[name][at], VALUES[at] if name == "dose" else np.rint(VALUES[at]))
    whole = files(written(tmp_path / "again.zarr"))
    left = files(tmp_path / "staged" / "dose.zarr")
    assert {k: v for k, v in left.items() if ".partial" not in k}.items() <= whole.items()
    assert sum("/c." in k for k in left) == last
