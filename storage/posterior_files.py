"""Arrays of a state as zarr v3: `posterior.zarr` (posterior and dose ledger) and `dose.zarr` (voxel maps).

Fixed chunks, volumes in shards of one writer each (`storage.shards`), zstd, no consolidated metadata, every chunk written:
the same arrays give the same bytes, whoever writes the shards. Both open with `xarray.open_dataset(path, engine="zarr",
consolidated=False)` or plain zarr, without this code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from storage.shards import shard_shape, write_shards
from tdt_core.codec import to_plain
from tdt_core.errors import StoreError
from tdt_core.twin import DoseLedger, Posterior

if TYPE_CHECKING:
    import xarray

SCHEMA_VERSION = 1
CHUNK = 64
"""Voxels along each axis of a chunk of a volume."""
ZSTD_LEVEL = 3
FLAT_KEYS: dict[str, Any] = {"name": "default", "separator": "."}
"""Chunks as files `c.0.1.2` in the array's folder: a folder per axis would cost a sync each."""

Array = npt.NDArray[Any]
Dims = tuple[str, ...]


def write_group(
    folder: Path,
    arrays: Mapping[str, tuple[Dims, Array, Mapping[str, Any]]],
    attributes: Mapping[str, Any],
    *,
    chunk: int | None = None,
    map: Callable[..., Iterable[Any]] = map,
) -> None:
    """Write named arrays `(dims, values, attributes)` as one zarr v3 group that xarray can open.

    `chunk` is the chunk's length along every axis of arrays of three or more axes, which are cut into shards and written over
    `map`; other arrays are one chunk each.
    """
    import zarr
    from zarr.codecs import ZstdCodec

    group = zarr.create_group(store=str(folder), zarr_format=3, attributes={"schema_version": SCHEMA_VERSION, **attributes})
    for name in sorted(arrays):
        dims, values, attrs = arrays[name]
        if values.dtype.kind not in "biuf" or values.ndim != len(dims):
            raise StoreError(
                f"array {name!r} has type {values.dtype} and {values.ndim} axes",
                expected=f"numbers along {dims}",
                kind="store.type",
            )
        whole = chunk is None or values.ndim < 3
        chunks = tuple(max(1, n if whole or chunk is None else min(n, chunk)) for n in values.shape)
        # create_array has one signature for data and one for a shape
        content: dict[str, Any] = (
            {"data": np.ascontiguousarray(values)} if whole else {"shape": values.shape, "dtype": values.dtype}
        )
        group.create_array(
            name,
            **content,
            chunks=chunks,
            shards=None if whole else shard_shape(values.shape, chunks),
            compressors=[ZstdCodec(level=ZSTD_LEVEL)],
            dimension_names=dims,
            attributes=dict(to_plain(attrs)),
            chunk_key_encoding=FLAT_KEYS,
            config={"write_empty_chunks": True},  # an omitted chunk reads as +0, also where -0 was meant
        )
    if chunk is not None:
        list(write_shards(folder, {n: arrays[n][1] for n in sorted(arrays) if arrays[n][1].ndim >= 3}, map))


def read_group(folder: Path) -> dict[str, Array]:
    """All arrays of a zarr group, in memory."""
    import zarr

    group = zarr.open_group(store=str(folder), mode="r", zarr_format=3)
    version = group.attrs.get("schema_version")
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{folder.name} has schema version {version}",
            expected=f"{SCHEMA_VERSION}",
            remedy="use the newer software that wrote it",
            kind="store.version",
        )
    return {name: np.asarray(array[...]) for name, array in group.arrays()}


def write_posterior(folder: Path, posterior: Posterior, ledger: DoseLedger) -> None:
    """Write the arrays of a posterior and of its dose ledger. Draws are paired along `draw`; a ledger may hold NaN (no BED)."""
    rows: Dims = ("row", "region", "ledger_draw")
    write_group(
        folder,
        {
            "mean": (("parameter",), posterior.mean, {}),
            "cholesky": (
                ("parameter", "parameter_transposed"),
                posterior.cholesky,
                {"long_name": "covariance = L L^T"},
            ),
            "draws": (("draw", "parameter"), posterior.draws, {"long_name": "joint draws in unconstrained space"}),
            "dose_gy": (rows, ledger.dose_gy, {"units": "Gy"}),
            "bed_gy": (rows, ledger.bed_gy, {"units": "Gy", "long_name": "biologically effective dose"}),
        },
        {"parameters": list(posterior.names), "regions": list(ledger.regions), "cycles": list(ledger.cycles)},
    )


def write_dose(folder: Path, dose: xarray.Dataset, map: Callable[..., Iterable[Any]] = map) -> None:
    """Write the voxel maps of a cycle (design note 002). Every floating variable needs `units` and, attached, the affine.

    `map` runs the writing of shards; its workers must see `folder`.

    Raises StoreError `store.dose` without affine, regions or units, `store.type` on anything but numbers.
    """
    missing = {"affine", "regions"} - set(dose.attrs)
    unitless = [str(n) for n, v in dose.data_vars.items() if v.dtype.kind == "f" and not v.attrs.get("units")]
    if missing or unitless:
        raise StoreError(
            f"voxel maps without {sorted(missing | set(unitless))}",
            expected="attributes affine and regions, and units on every map",
            kind="store.dose",
        )
    arrays = {
        str(name): (tuple(str(d) for d in variable.dims), np.asarray(variable.values), dict(variable.attrs))
        for name, variable in dose.variables.items()
    }
    write_group(folder, arrays, to_plain(dict(dose.attrs)), chunk=CHUNK, map=map)


def open_dose(folder: Path) -> xarray.Dataset:
    """The voxel maps, lazily."""
    import xarray as xr

    return xr.open_dataset(folder, engine="zarr", chunks=None, backend_kwargs={"consolidated": False, "zarr_format": 3})
