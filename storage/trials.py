"""Virtual trials at rest: one folder per trial, written member by member by parallel workers, then compacted by one writer.

    trials/<id>/
      trial.json        the specification; its SHA-256 is the id
      members.zarr      while it runs: one chunk per member and variable, so that one worker owns whole chunks
      failures/<n>.json why a member has no result; failed members are results too
      results.zarr      when it is finished: the same arrays, one chunk along the members
      manifest.json     size and SHA-256 of every other file; its presence makes the trial finished

`write_member` takes a path and numbers only, so that any worker process can call it; it may be repeated, since a member draws
from a seed of its own. A variable is `(members, *its own axes)`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from storage.atomic import checkpoint, disk_errors, fsync_tree, publish_folder, sha256_file, write_atomic
from storage.audit import AuditTrail
from storage.home import Home
from storage.locks import lock
from storage.posterior_files import FLAT_KEYS, write_group
from storage.state_files import Problem, read_json
from tdt_core.codec import canonical_json, digest, to_plain
from tdt_core.errors import StoreError

if TYPE_CHECKING:
    import xarray

SCHEMA_VERSION = 1

TRIAL = "trial.json"
MEMBERS = "members.zarr"
RESULTS = "results.zarr"
FAILURES = "failures"
MANIFEST = "manifest.json"

STATUS = "member_status"
PENDING, DONE, FAILED = 0, 1, 2


@dataclass(frozen=True)
class Variable:
    """One result of every member: the names of its axes after the member axis, its unit (`1` for a pure number)."""

    dims: tuple[str, ...]
    unit: str
    dtype: str = "float64"
    long_name: str = ""


@dataclass(frozen=True)
class Progress:
    """How far a trial is."""

    done: int
    failed: int
    pending: tuple[int, ...]


class TrialStore:
    """Trials of one TDT_HOME."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def create(
        self,
        trial: Mapping[str, Any],
        *,
        members: int,
        coords: Mapping[str, Sequence[Any]],
        variables: Mapping[str, Variable],
        member_dim: str = "patient",
    ) -> Path:
        """Make the folder of a trial with its empty arrays; the folder of a trial begun earlier is returned as it is.

        Parameters
        ----------
        trial : everything that decides the results (arms, model, seed, science digest), plain data.
        members : number of virtual patients.
        coords : labels along every axis that the variables name: numbers or texts.
        variables : name -> `Variable`.

        Raises StoreError `store.trial` when an axis has no labels or a name is taken.
        """
        lost = {d for v in variables.values() for d in v.dims} - set(coords)
        if members < 1 or lost or STATUS in variables or member_dim in coords:
            raise StoreError(
                f"a trial of {members} members, axes without labels {sorted(lost)}",
                expected=f"at least one member, labels on every axis, and no variable {STATUS!r} or axis {member_dim!r}",
                kind="store.trial",
            )
        plain = {
            "schema_version": SCHEMA_VERSION,
            "trial": to_plain(trial),
            "members": members,
            "member_dim": member_dim,
            "coords": {k: to_plain(list(v)) for k, v in coords.items()},
            "variables": {k: to_plain(v) for k, v in variables.items()},
        }
        trial_id = digest(plain)
        target = self.home.trials / trial_id
        if (target / TRIAL).is_file():
            return target
        with disk_errors("making a trial"), self.home.stage(trial_id) as staged:
            (staged / FAILURES).mkdir()
            (staged / TRIAL).write_text(canonical_json(plain), encoding="utf-8")
            _write_template(staged / MEMBERS, plain)
            publish_folder(staged, target, label="trial")
        return target

    def path(self, trial_id: str) -> Path:
        """Folder of a trial. Raises StoreError `store.unknown`."""
        path = self.home.trials / trial_id
        if not (path / TRIAL).is_file():
            raise StoreError(f"no trial {trial_id[:12]}", kind="store.unknown")
        return path

    def list(self) -> tuple[str, ...]:
        """Ids of all trials, sorted."""
        return tuple(sorted(p.name for p in self.home.trials.iterdir() if (p / TRIAL).is_file()))

    def finished(self, trial_id: str) -> bool:
        """Whether the trial is finished."""
        return (self.path(trial_id) / MANIFEST).is_file()

    def specification(self, trial_id: str) -> dict[str, Any]:
        """What `create` was given, as plain data."""
        return read_json(self.path(trial_id) / TRIAL)

    def finish(self, trial_id: str) -> Path:
        """Compact a trial of which no member is pending, write its manifest, and tell the audit trail. Repeats are harmless.

        Raises StoreError `store.trial` when members are pending.
        """
        folder = self.path(trial_id)
        with disk_errors("finishing a trial"), lock(self.home.locks / f"trial-{trial_id[:16]}.lock"):
            if not self.finished(trial_id):
                if not (folder / RESULTS).is_dir():
                    self._compact(folder)
                fsync_tree(folder / FAILURES)
                shutil.rmtree(folder / MEMBERS, ignore_errors=True)
                listed = {name: {"size": p.stat().st_size, "sha256": sha256_file(p)} for name, p in _payload(folder)}
                manifest = {"schema_version": SCHEMA_VERSION, "trial": trial_id, "files": listed}
                checkpoint("trial-compacted")
                write_atomic(folder / MANIFEST, canonical_json(manifest).encode(), label="trial-manifest")
            seal = sha256_file(folder / MANIFEST)
            trail = AuditTrail(self.home)
            if not any(e["event"] == "trial" and e["trial"] == trial_id for e in trail.events()):
                trail.append("trial", {"trial": trial_id, "manifest": seal})
        return folder

    def _compact(self, folder: Path) -> None:
        left = progress(folder)
        if left.pending:
            raise StoreError(
                f"{len(left.pending)} members of trial {folder.name[:12]} are pending, first {left.pending[0]}",
                expected="a result or a failure of every member",
                remedy="run the trial again: finished members are kept",
                kind="store.trial",
            )
        plain = read_json(folder / TRIAL)
        data = {name: (dims, values, attrs) for name, dims, values, attrs in _member_arrays(folder, plain)}
        with self.home.stage(folder.name) as staged:
            write_group(staged / RESULTS, data, {"trial": folder.name})
            publish_folder(staged / RESULTS, folder / RESULTS)

    def open(self, trial_id: str) -> xarray.Dataset:
        """Results with their labels, in memory; of an unfinished trial those that are there (`member_status` says which)."""
        import xarray as xr

        folder = self.path(trial_id)
        plain = read_json(folder / TRIAL)
        source = folder / (RESULTS if (folder / RESULTS).is_dir() else MEMBERS)
        with xr.open_dataset(source, engine="zarr", chunks=None, backend_kwargs=_ZARR) as opened:
            loaded = opened.load()
        coords = {k: np.asarray(v) for k, v in plain["coords"].items() if k in loaded.dims}
        return loaded.assign_coords(coords)

    def verify(self, trial_id: str) -> tuple[Problem, ...]:
        """Damaged, missing and foreign files of a trial; of an unfinished one only its specification is checked."""
        folder = self.path(trial_id)

        def problem(name: str, what: str) -> Problem:
            return Problem((folder / name).relative_to(self.home.root).as_posix(), what)

        if sha256_file(folder / TRIAL) != trial_id:
            return (problem(TRIAL, "is damaged"),)
        if not self.finished(trial_id):
            return ()
        told = [e["manifest"] for e in AuditTrail(self.home).scan()[0] if e["event"] == "trial" and e["trial"] == trial_id]
        if told and told[-1] != sha256_file(folder / MANIFEST):
            return (problem(MANIFEST, "is damaged"),)
        listed, present = read_json(folder / MANIFEST)["files"], dict(_payload(folder))
        wrong = [problem(n, "is missing") for n in sorted(listed.keys() - present.keys())]
        wrong += [problem(n, "does not belong here") for n in sorted(present.keys() - listed.keys())]
        wrong += [problem(n, "is damaged") for n in sorted(listed.keys() & present.keys()) if not _same(present[n], listed[n])]
        return tuple(wrong)


_ZARR = {"consolidated": False, "zarr_format": 3}


def write_member(folder: Path | str, member: int, values: Mapping[str, npt.ArrayLike]) -> None:
    """Write the results of one member (`write_members` with a block of one); values in the variables' own shapes."""
    write_members(folder, member, {name: np.asarray(value)[np.newaxis] for name, value in values.items()})


def write_members(folder: Path | str, first: int, values: Mapping[str, npt.ArrayLike]) -> None:
    """Write the results of the members `first`, `first + 1`, ...; call it from any process, one process to a member.

    Every variable is given, `(members of the block, *its own axes)`; the status of the members is written last. A repeat
    writes the same bytes. Chunks hold one member each, so that blocks of any size never share one.
    Raises StoreError `store.trial` on another shape, a missing or an unknown variable, or members out of range.
    """
    import zarr

    folder = Path(folder)
    plain = read_json(folder / TRIAL)
    declared = plain["variables"]
    if not values or set(values) != set(declared):
        raise StoreError(
            f"members from {first} bring {sorted(set(values) ^ set(declared))} too many or too few",
            expected=f"exactly {sorted(declared)}",
            kind="store.trial",
        )
    arrays = {name: np.asarray(values[name], dtype=v["dtype"]) for name, v in declared.items()}
    count = next(iter(arrays.values())).shape[0]
    _check_member(plain, first)
    _check_member(plain, first + count - 1)
    group = zarr.open_group(store=str(folder / MEMBERS), mode="r+", zarr_format=3)
    for name, variable in declared.items():
        shape = (count, *(len(plain["coords"][d]) for d in variable["dims"]))
        if arrays[name].shape != shape:
            raise StoreError(f"{name} has shape {arrays[name].shape}", expected=f"{shape}", kind="store.trial")
        _array(group, name)[first : first + count] = arrays[name]
    _array(group, STATUS)[first : first + count] = np.full(count, DONE, np.int8)


def write_failure(folder: Path | str, member: int, error: Mapping[str, str]) -> None:
    """Record that a member has no result, and why (`TwinError.as_dict`). Its arrays stay NaN, or 0 for whole numbers."""
    import zarr

    folder = Path(folder)
    _check_member(read_json(folder / TRIAL), member)
    write_atomic(folder / FAILURES / f"{member:06d}.json", canonical_json(dict(error)).encode())
    group = zarr.open_group(store=str(folder / MEMBERS), mode="r+", zarr_format=3)
    _array(group, STATUS)[member : member + 1] = np.array([FAILED], np.int8)


def progress(folder: Path | str) -> Progress:
    """How many members are done or failed, and which are pending."""
    import zarr

    folder = Path(folder)
    source = folder / (RESULTS if (folder / RESULTS).is_dir() else MEMBERS)
    status = np.asarray(_array(zarr.open_group(store=str(source), mode="r", zarr_format=3), STATUS)[...])
    pending = tuple(int(n) for n in np.flatnonzero(status == PENDING))
    return Progress(int((status == DONE).sum()), int((status == FAILED).sum()), pending)


def failures(folder: Path | str) -> dict[int, dict[str, str]]:
    """Why members failed."""
    found = sorted((Path(folder) / FAILURES).glob("*.json"))
    return {int(p.stem): {k: str(v) for k, v in json.loads(p.read_bytes()).items()} for p in found}


def _array(group: Any, name: str) -> Any:
    return group[name]


def _check_member(plain: Mapping[str, Any], member: int) -> None:
    if not 0 <= member < plain["members"]:
        raise StoreError(f"member {member} of a trial of {plain['members']}", expected="a member in range", kind="store.trial")


def _write_template(folder: Path, plain: Mapping[str, Any]) -> None:
    """Metadata of every array, and no chunk: an absent chunk is a pending member."""
    import zarr
    from zarr.codecs import ZstdCodec

    group = zarr.create_group(store=str(folder), zarr_format=3)
    specs = {n: (v["dims"], v["dtype"], _attributes(v)) for n, v in plain["variables"].items()}
    specs[STATUS] = ([], "int8", {"units": "1", "long_name": "0 pending, 1 done, 2 failed"})
    for name, (dims, dtype, attributes) in specs.items():
        shape = tuple(len(plain["coords"][d]) for d in dims)
        group.create_array(
            name,
            shape=(plain["members"], *shape),
            chunks=(1, *(max(1, n) for n in shape)),
            dtype=dtype,
            fill_value=np.nan if np.dtype(dtype).kind == "f" else 0,
            compressors=[ZstdCodec(level=3)],
            dimension_names=(plain["member_dim"], *dims),
            attributes=attributes,
            chunk_key_encoding=FLAT_KEYS,
            config={"write_empty_chunks": True},
        )


def _attributes(variable: Mapping[str, Any]) -> dict[str, Any]:
    return {"units": variable["unit"]} | ({"long_name": variable["long_name"]} if variable["long_name"] else {})


def _member_arrays(folder: Path, plain: Mapping[str, Any]) -> Any:
    import zarr

    group = zarr.open_group(store=str(folder / MEMBERS), mode="r", zarr_format=3)
    for name, array in group.arrays():
        dims = (plain["member_dim"], *plain["variables"].get(name, {"dims": ()})["dims"])
        yield name, dims, np.asarray(array[...]), dict(array.attrs)


def _payload(folder: Path) -> Any:
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root) / name
            if path != folder / MANIFEST:
                yield path.relative_to(folder).as_posix(), path


def _same(path: Path, entry: Mapping[str, Any]) -> bool:
    return path.stat().st_size == entry["size"] and sha256_file(path) == entry["sha256"]
