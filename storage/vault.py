"""The vault: the site's pseudonym key, and who each pseudonym is. Outside TDT_HOME, readable by the owner only.

A pseudonym is HMAC-SHA-256(key, assigning authority + patient id), 160 bits of it in base32; a plain hash would not do, since
patient ids can be enumerated. UIDs go through the same key into the root 2.25, so links between series, studies and frames of
reference survive. The vault also holds each patient's origin of time (UTC and offset), so that files elsewhere need hours only.

    <vault>/key.json             key and its id
    <vault>/patients/<pid>.json  identity, origin, original UIDs
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from storage.atomic import disk_errors, write_atomic
from storage.dicom.uids import derived_uid
from storage.home import loose_permissions
from storage.locks import lock
from tdt_core.errors import StoreError

SCHEMA_VERSION = 1
_KEY_BYTES = 32
_PID_BYTES = 20


@dataclass(frozen=True)
class VaultEntry:
    """What the vault knows of one pseudonym.

    Attributes
    ----------
    identity : patient_id, issuer, name, birth_date (ISO), sex; only here, never elsewhere.
    origin : start of the first therapy administration, UTC; hour 0 of the patient's time axis. Set once, never moved.
    offset_min : offset of the site's clock from UTC at the origin, minutes.
    uids : pseudonymised UID -> original UID, for an export back into the clinic's archive.
    """

    pid: str
    key_id: str
    identity: Mapping[str, str]
    origin: datetime
    offset_min: int
    uids: Mapping[str, str] = field(default_factory=dict)

    @property
    def zone(self) -> timezone:
        """The site's offset from UTC at the origin."""
        return timezone(timedelta(minutes=self.offset_min))

    def at(self, time_h: float) -> datetime:
        """The absolute time of an hour of the patient's axis, in the site's offset."""
        return (self.origin + timedelta(hours=time_h)).astimezone(self.zone)


class Vault:
    """Pseudonyms of one site. `Vault.open(folder)` for a real one; `Vault.in_memory()` to look without leaving a trace."""

    def __init__(self, key: bytes, key_id: str, folder: Path | None = None) -> None:
        if len(key) < _KEY_BYTES:
            raise StoreError(
                f"a pseudonym key of {len(key)} bytes",
                expected=f"at least {_KEY_BYTES} random bytes",
                remedy="let the vault make its own key",
                kind="vault.key",
            )
        self._key = key
        self.key_id = key_id
        self.folder = folder
        self._memory: dict[str, VaultEntry] = {}

    def __repr__(self) -> str:
        return f"Vault(key_id={self.key_id!r})"

    @classmethod
    def in_memory(cls) -> Vault:
        """A vault with a fresh key that is gone with the process."""
        return cls(secrets.token_bytes(_KEY_BYTES), "memory")

    @classmethod
    def open(cls, folder: Path | str, *, create: bool = True) -> Vault:
        """Open a vault folder; make it with a new key when it is absent and `create`.

        Raises
        ------
        StoreError
            `vault.missing`, `vault.permissions` (others may read it), `vault.key` (unreadable key file).
        """
        folder = Path(folder).expanduser().resolve()
        path = folder / "key.json"
        if not path.exists():
            if not create:
                raise StoreError("there is no vault in this folder", remedy="set the vault's folder", kind="vault.missing")
            _make(folder)
        loose = loose_permissions(folder, folder / "patients", path)
        if loose:
            raise StoreError(
                f"{len(loose)} of the vault's folder and files can be read by others",
                expected="mode 0700 for folders and 0600 for files",
                remedy="chmod -R go= the vault's folder, and find out who read it",
                kind="vault.permissions",
            )
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            key, key_id = bytes.fromhex(data["key"]), str(data["key_id"])
        except (ValueError, KeyError, TypeError) as e:
            raise StoreError("the vault's key file cannot be read", remedy="restore key.json", kind="vault.key") from e
        return cls(key, key_id, folder)

    def pid(self, authority: str, patient_id: str) -> str:
        """The pseudonym of a patient: 32 characters, a-z and 2-7. The same authority and id give the same pseudonym."""
        text = f"pid\x1f{authority}\x1f{patient_id}".encode()
        raw = hmac.new(self._key, text, hashlib.sha256).digest()[:_PID_BYTES]
        return base64.b32encode(raw).decode().lower()

    def uid(self, original: str) -> str:
        """The pseudonym of a UID, itself a UID; "" stays ""."""
        return derived_uid("uid", original, key=self._key) if original else ""

    def token(self, kind: str, original: str) -> str:
        """16 hex digits that stand for a text that must not travel (a laboratory's record number)."""
        return hmac.new(self._key, f"{kind}\x1f{original}".encode(), hashlib.sha256).hexdigest()[:16]

    def entry(self, pid: str) -> VaultEntry | None:
        """What is known of a pseudonym, or None. Raises StoreError `vault.damaged`."""
        if pid in self._memory:
            return self._memory[pid]
        path = self._path(pid)
        if path is None or not path.exists():
            return None
        return _read_entry(path)

    def remember(self, entry: VaultEntry) -> VaultEntry:
        """Keep an entry; an origin that is there already stays, UIDs are added. Returns what the vault now holds.

        Raises StoreError `vault.origin` when the entry comes with another origin than the one kept.
        """
        path = self._path(entry.pid)
        if self.folder is None or path is None:
            self._memory[entry.pid] = self._merged(entry)
            return self._memory[entry.pid]
        with lock(self.folder / "lock"), disk_errors("writing the vault"):
            merged = self._merged(entry)
            if merged != self.entry(entry.pid):
                write_atomic(path, _entry_json(merged), mode=0o600)
        return merged

    def _merged(self, entry: VaultEntry) -> VaultEntry:
        old = self.entry(entry.pid)
        if old is None:
            return entry
        if old.origin != entry.origin:
            raise StoreError(
                "the vault holds another origin of time for this patient",
                expected="one origin for ever, since every stored hour counts from it",
                remedy="read the origin from the vault before taking data in",
                kind="vault.origin",
            )
        identity = {**old.identity, **{k: v for k, v in entry.identity.items() if v}}
        return VaultEntry(old.pid, old.key_id, identity, old.origin, old.offset_min, {**old.uids, **entry.uids})

    def _path(self, pid: str) -> Path | None:
        if self.folder is None:
            return None
        if not pid.isalnum():
            raise StoreError(
                "a pseudonym that cannot name a file",
                expected="letters and digits",
                remedy="use pseudonyms that the vault gave",
                kind="vault.pid",
            )
        return self.folder / "patients" / f"{pid}.json"


def _make(folder: Path) -> None:
    with disk_errors("making the vault"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "patients").mkdir(mode=0o700, exist_ok=True)
        with lock(folder / "lock"):
            if (folder / "key.json").exists():
                return
            key = secrets.token_bytes(_KEY_BYTES)
            key_id = hashlib.sha256(b"key-id" + key).hexdigest()[:12]
            data = {"schema": SCHEMA_VERSION, "key_id": key_id, "key": key.hex()}
            write_atomic(folder / "key.json", (json.dumps(data) + "\n").encode(), mode=0o600)


def _entry_json(entry: VaultEntry) -> bytes:
    data: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "pid": entry.pid,
        "key_id": entry.key_id,
        "identity": dict(entry.identity),
        "origin": entry.origin.astimezone(UTC).isoformat(),
        "offset_min": entry.offset_min,
        "uids": dict(sorted(entry.uids.items())),
    }
    return (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()


def _read_entry(path: Path) -> VaultEntry:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA_VERSION:
            raise StoreError(
                f"a vault entry of schema {data['schema']}",
                expected=f"{SCHEMA_VERSION}",
                remedy="use the newer software that wrote it",
                kind="vault.version",
            )
        return VaultEntry(
            pid=data["pid"],
            key_id=data["key_id"],
            identity=data["identity"],
            origin=datetime.fromisoformat(data["origin"]),
            offset_min=int(data["offset_min"]),
            uids=data["uids"],
        )
    except (ValueError, KeyError, TypeError) as e:
        raise StoreError("a vault entry cannot be read", remedy="restore it from a backup", kind="vault.damaged") from e
