"""Arrays of voxels on the disk in shards: one file per shard, written once and whole, by one writer.

A shard holds up to 2 x 2 x 2 chunks, so that a large map is a few files, each of them one sync. Writers own whole shards: two
writers in one shard would each put back the other's chunks as they were before. A file appears under its name only when it
is whole (temporary file and rename); the group is seen by nobody before its staging folder is published.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.atomic import checkpoint
from tdt_core.errors import StoreError
from tdt_core.lazy import Lazy

Array = npt.NDArray[Any]
Region = tuple[tuple[int, int], ...]
"""Begin and end along every axis."""

CHUNKS_PER_SHARD = 2
"""Along each axis."""


def shard_shape(shape: tuple[int, ...], chunk: tuple[int, ...]) -> tuple[int, ...] | None:
    """Voxels of a shard along each axis; None where an array is one chunk, which is its own shard."""
    cut = tuple(c if n <= c else CHUNKS_PER_SHARD * c for n, c in zip(shape, chunk, strict=True))
    return None if cut == chunk else cut


def regions(shape: tuple[int, ...], shard: tuple[int, ...]) -> list[Region]:
    """Every shard of an array, cut at its end, in the order of the axes: together they are the array, and none overlap."""
    axes = [[(a, min(a + s, n)) for a in range(0, n, s)] for n, s in zip(shape, shard, strict=True)]
    return list(itertools.product(*axes))


def write_shard(folder: Path | str, name: str, region: Region, values: Array) -> None:
    """Write one shard of an array of a zarr group made earlier; call it from any process, one to a shard. Repeats are harmless.

    Raises StoreError `store.shard` when the region is not exactly one shard, or values have another shape.
    """
    import zarr

    array: Any = zarr.open_group(store=str(folder), mode="r+", zarr_format=3)[name]
    shape = tuple(end - begin for begin, end in region)
    if region not in regions(array.shape, array.shards or array.chunks) or np.shape(values) != shape:
        raise StoreError(
            f"values of shape {np.shape(values)} for {list(region)} of {name}, shape {array.shape}",
            expected=f"one whole shard, cut at {array.shards or array.chunks}",
            remedy="cut the array by storage.shards.regions",
            kind="store.shard",
        )
    array[tuple(slice(*r) for r in region)] = values
    checkpoint("shard-written")


def write_shards(
    folder: Path, arrays: Mapping[str, Array], map: Callable[..., Iterable[Any]] = map
) -> Iterator[tuple[str, Region]]:
    """Write all shards of arrays made earlier, each as one piece of work over `map`; yields what is written, in order.

    Workers on other machines must see the folder under the same path.
    """
    import zarr

    group: Any = zarr.open_group(store=str(folder), mode="r", zarr_format=3)
    work = [(n, r) for n in arrays for r in regions(group[n].shape, group[n].shards or group[n].chunks)]

    def block(i: int) -> Array:
        name, region = work[i]
        return np.ascontiguousarray(arrays[name][tuple(slice(*r) for r in region)])

    names, places = [n for n, _ in work], [r for _, r in work]
    written = map(write_shard, [str(folder)] * len(work), names, places, Lazy(block, len(work)))
    for done, _ in zip(work, written, strict=True):
        yield done
