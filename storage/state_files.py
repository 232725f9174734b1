"""The folder of one twin state: what is in it, how it is written into staging, read back and checked.

    state.json       canonical JSON: identity and everything that follows from it
    posterior.zarr   arrays of the posterior and of the dose ledger
    dose.zarr        voxel maps of the cycle
    provenance.json  when it became known, what it replaced, who ran what: beside the identity, outside the hash
    manifest.json    size and SHA-256 of every file of the three above
    COMMITTED        SHA-256 of manifest.json and provenance.json; its presence makes the folder a state

state.json, both zarr folders and manifest.json have the same bytes whenever the same state is computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storage.atomic import checkpoint, sha256_file
from storage.posterior_files import read_group, write_dose, write_posterior
from tdt_core.assimilation import rungs_of
from tdt_core.codec import canonical_json, digest, from_plain, to_plain
from tdt_core.errors import StoreError
from tdt_core.twin import SCHEMA_VERSION, DoseLedger, Evidence, JsonDict, Lesion, Patient, Posterior, Proposal, TwinState

if TYPE_CHECKING:
    import xarray

STATE = "state.json"
POSTERIOR = "posterior.zarr"
DOSE = "dose.zarr"
PROVENANCE = "provenance.json"
MANIFEST = "manifest.json"
COMMITTED = "COMMITTED"

Migration = Callable[[JsonDict], JsonDict]

STATE_MIGRATIONS: Mapping[int, Migration] = {}
"""Entry n turns the plain content of a state.json of version n into that of n + 1. States on disk are never rewritten: they
are brought forward while they are read. Each entry has a test and a kept fixture."""

_ARRAYS = {"posterior": ("mean", "cholesky", "draws"), "ledger": ("dose_gy", "bed_gy")}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in the store. `path` is relative to TDT_HOME."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def state_plain(state: TwinState) -> JsonDict:
    """A state without its arrays, as plain JSON."""
    plain: JsonDict = {}
    for field in fields(TwinState):
        value = getattr(state, field.name)
        if field.name in _ARRAYS:
            names = [f.name for f in fields(value) if f.name not in _ARRAYS[field.name]]
            plain[field.name] = {name: to_plain(getattr(value, name)) for name in names}
        else:
            plain[field.name] = to_plain(value)
    return plain


def state_from_plain(
    plain: JsonDict, arrays: Mapping[str, Any], *, migrations: Mapping[int, Migration] = STATE_MIGRATIONS
) -> TwinState:
    """Rebuild a state from state.json and the arrays of posterior.zarr; an older version is brought forward first."""
    while (version := plain.get("schema_version")) != SCHEMA_VERSION:
        if not isinstance(version, int) or version not in migrations:
            raise StoreError(
                f"a state of schema version {version}",
                expected=f"{SCHEMA_VERSION} or older",
                remedy="use the newer software that wrote it",
                kind="store.version",
            )
        plain = migrations[version](plain)
    posterior = plain["posterior"]
    ledger = plain["ledger"]
    return TwinState(
        id=plain["id"],
        identity=plain["identity"],
        pid=plain["pid"],
        cycle=plain["cycle"],
        parent=plain["parent"],
        valid_time_h=float(plain["valid_time_h"]),
        model=plain["model"],
        patient=from_plain(Patient, plain["patient"]),
        posterior=Posterior(
            names=tuple(posterior["names"]),
            model=posterior["model"],
            diagnostics=posterior["diagnostics"],
            fit_report=tuple(posterior["fit_report"]),
            **{name: arrays[name] for name in _ARRAYS["posterior"]},
        ),
        ledger=DoseLedger(
            cycles=tuple(ledger["cycles"]),
            administrations=tuple(float(t) for t in ledger["administrations"]),
            kinds=tuple(ledger["kinds"]),
            activities_mbq=tuple(float(a) for a in ledger["activities_mbq"]),
            regions=tuple(ledger["regions"]),
            radiation=ledger["radiation"],
            opening_gy={k: float(v) for k, v in ledger["opening_gy"].items()},
            **{name: arrays[name] for name in _ARRAYS["ledger"]},
        ),
        lesions=tuple(from_plain(Lesion, item) for item in plain["lesions"]),
        evidence=from_plain(Evidence, plain["evidence"]),
        proposal=None if plain["proposal"] is None else from_plain(Proposal, plain["proposal"]),
        summary=plain["summary"],
        schema_version=plain["schema_version"],
    )


def check_state(state: TwinState) -> None:
    """Refuse a state that contradicts its own identity or lacks finite numbers (`store.identity`, `store.nonfinite`)."""
    if digest(state.identity) != state.id:
        raise StoreError("a state whose id is not the digest of its identity", remedy="use state_id()", kind="store.identity")
    for name in ("pid", "cycle", "parent", "schema_version"):
        if state.identity.get(name) != getattr(state, name):
            raise StoreError(
                f"a state whose {name} is {getattr(state, name)!r} and that of its identity {state.identity.get(name)!r}",
                expected="the same",
                kind="store.identity",
            )
    allowed = rungs_of(str(state.identity.get("model")))
    if state.model not in allowed:
        raise StoreError(
            f"a state whose model is {state.model!r} and that of its identity {state.identity.get('model')!r}",
            expected=f"one of {', '.join(allowed)}",
            kind="store.identity",
        )
    if state.patient.pid != state.pid:
        raise StoreError("a state of one pseudonym with the patient of another", kind="store.identity")
    if missing := set(state.evidence.digests) - set(state.identity.get("evidence", ())):
        raise StoreError(f"{len(missing)} evidence digests of the cycle are not in the identity", kind="store.identity")
    for name in ("mean", "cholesky", "draws"):
        if not np.isfinite(getattr(state.posterior, name)).all():
            raise StoreError(f"the posterior's {name} is not finite", kind="store.nonfinite")
    if not np.isfinite(state.ledger.dose_gy).all():
        raise StoreError("the dose ledger is not finite", kind="store.nonfinite")


def write_state_folder(folder: Path, state: TwinState, dose: xarray.Dataset, provenance: JsonDict) -> None:
    """Fill an empty staging folder with a whole state, COMMITTED last. Nothing is synced here."""
    write_posterior(folder / POSTERIOR, state.posterior, state.ledger)
    checkpoint("posterior-written")
    write_dose(folder / DOSE, dose)
    checkpoint("dose-written")
    (folder / STATE).write_text(canonical_json(state_plain(state)), encoding="utf-8")
    checkpoint("state-written")
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "state": state.id,
        "files": {name: {"size": p.stat().st_size, "sha256": sha256_file(p)} for name, p in _payload(folder)},
    }
    (folder / MANIFEST).write_text(canonical_json(manifest), encoding="utf-8")
    (folder / PROVENANCE).write_text(canonical_json(provenance), encoding="utf-8")
    checkpoint("manifest-written")
    committed = {"state": state.id, **seals(folder)}
    (folder / COMMITTED).write_text(canonical_json(committed), encoding="utf-8")
    checkpoint("staged")


def seals(folder: Path) -> dict[str, str]:
    """SHA-256 of manifest.json and provenance.json: what COMMITTED and the audit trail hold of a state."""
    return {"manifest": sha256_file(folder / MANIFEST), "provenance": sha256_file(folder / PROVENANCE)}


def _payload(folder: Path) -> Iterator[tuple[str, Path]]:
    """Relative name and path of every file of state.json, posterior.zarr and dose.zarr, sorted."""
    files = [Path(root) / name for root, _, names in os.walk(folder) for name in names]
    for path in sorted(files):
        name = path.relative_to(folder).as_posix()
        if name not in (MANIFEST, PROVENANCE, COMMITTED):
            yield name, path


def read_json(path: Path) -> JsonDict:
    """A JSON file of the store; a damaged one is a StoreError `store.damaged` that names it."""
    try:
        plain = json.loads(path.read_bytes())
    except (OSError, ValueError) as e:
        raise StoreError(
            f"{path.parent.name[:12]}/{path.name} cannot be read",
            remedy="restore it from a backup; `tdt twin verify` lists what else differs",
            kind="store.damaged",
        ) from e
    if not isinstance(plain, dict):
        raise StoreError(f"{path.parent.name[:12]}/{path.name} holds no object", kind="store.damaged")
    return plain


def damage(folder: Path, root: Path, seal: Mapping[str, Any] | None = None) -> list[Problem]:
    """What differs in a state folder from what was committed.

    `seal` is the audit trail's `commit` record of the state; with it, a damaged manifest.json, provenance.json or COMMITTED
    is told apart from the others. `root` is TDT_HOME.
    """

    def problem(path: Path, what: str) -> Problem:
        return Problem(path.relative_to(root).as_posix(), what)

    if not (folder / COMMITTED).is_file():
        return [problem(folder / COMMITTED, "is missing")]
    absent = [problem(folder / name, "is missing") for name in (MANIFEST, PROVENANCE) if not (folder / name).is_file()]
    if absent:
        return absent
    actual = seals(folder)
    whole = canonical_json({"state": folder.name, **actual}).encode()
    if (folder / COMMITTED).read_bytes() != whole:
        if seal is None:
            return [problem(folder / COMMITTED, "does not fit manifest.json and provenance.json: one of the three is damaged")]
        files = {"manifest": MANIFEST, "provenance": PROVENANCE}
        wrong = [problem(folder / files[k], "is damaged") for k in files if actual[k] != seal[k]]
        return wrong or [problem(folder / COMMITTED, "is damaged")]
    problems = []
    if seal is not None and any(actual[k] != seal[k] for k in actual):
        problems.append(problem(folder / COMMITTED, "differs from the audit trail"))
    listed = read_json(folder / MANIFEST)["files"]
    present = dict(_payload(folder))
    for name, entry in listed.items():
        if name not in present:
            problems.append(problem(folder / name, "is missing"))
        elif present[name].stat().st_size != entry["size"] or sha256_file(present[name]) != entry["sha256"]:
            problems.append(problem(folder / name, "is damaged"))
    problems += [problem(folder / name, "does not belong here") for name in sorted(present.keys() - listed.keys())]
    if not problems and digest(read_json(folder / STATE)["identity"]) != folder.name:
        problems.append(problem(folder / STATE, "is not the state that the folder names"))
    return problems


def read_state(folder: Path) -> TwinState:
    """Read a committed state after checking the files that it is read from (`store.damaged`)."""
    _require_whole(folder, lambda name: not name.startswith(f"{DOSE}/"))
    return state_from_plain(read_json(folder / STATE), read_group(folder / POSTERIOR))


def require_whole_dose(folder: Path) -> None:
    """Check the files of dose.zarr (`store.damaged`)."""
    _require_whole(folder, lambda name: name.startswith(f"{DOSE}/"))


def _require_whole(folder: Path, wanted: Callable[[str], bool]) -> None:
    if sha256_file(folder / MANIFEST) != read_json(folder / COMMITTED)["manifest"]:
        raise StoreError(f"manifest.json of state {folder.name[:12]} is damaged", kind="store.damaged")
    for name, entry in read_json(folder / MANIFEST)["files"].items():
        if not wanted(name):
            continue
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            raise StoreError(
                f"{name} of state {folder.name[:12]} is damaged",
                remedy="restore the folder from a backup, or remove it and run again: the same state comes back",
                kind="store.damaged",
            )
