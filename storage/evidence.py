"""Evidence at rest: content-addressed scans, label volumes and JSON items, pseudonymised before they come here.

`evidence/<digest>/meta.json` is the canonical JSON of kind, content and, with an array, its dtype, shape and the SHA-256 of
its raw bytes; `array.npy` is the array in C order, little-endian. The digest is the SHA-256 of meta.json, and so covers both;
it does not depend on when, where or in which order the evidence came, and a damaged file is known by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.atomic import disk_errors, publish_folder
from storage.home import Home
from tdt_core.codec import canonical_json, from_plain, to_plain
from tdt_core.errors import StoreError
from tdt_core.imaging.ct_calibration import CtCalibration
from tdt_core.imaging.volume import LabelVolume, Scan, Volume
from tdt_core.twin import CalibrationRecord, Region

SCHEMA_VERSION = 1

META = "meta.json"
ARRAY = "array.npy"


@dataclass(frozen=True, eq=False)
class Item:
    """One item ready to be stored: canonical meta and, for volumes, the array it describes."""

    meta: bytes
    array: npt.NDArray[Any] | None

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the meta, which holds that of the array."""
        return hashlib.sha256(self.meta).hexdigest()


def _item(kind: str, content: Any, array: npt.NDArray[Any] | None = None) -> Item:
    meta: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "kind": kind, "content": content}
    if array is not None:
        array = np.ascontiguousarray(array)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        if array.dtype.kind not in "biuf":
            raise StoreError(f"an array of type {array.dtype}", expected="numbers", kind="store.type")
        meta["array"] = {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": _raw_sha256(array)}
    return Item(canonical_json(meta).encode(), array)


def _raw_sha256(array: npt.NDArray[Any]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _scan_item(scan: Scan) -> Item:
    content = {
        "modality": scan.modality,
        "time_h": scan.time_h,
        "duration_s": scan.duration_s,
        "nuclide": scan.nuclide,
        "calibration": to_plain(scan.calibration),
        "counts_per_mbq": scan.counts_per_mbq,
        "value_branch": scan.value_branch,
        "affine": _floats(scan.volume.affine),
        "unit": scan.volume.unit,
        "frame_of_reference": scan.volume.frame_of_reference,
    }
    if scan.ct_calibration is not None:  # a CT without one keeps the name that it had before there were any
        content["ct_calibration"] = to_plain(scan.ct_calibration)
    return _item("scan", content, scan.volume.array)


def _labels_item(labels: LabelVolume) -> Item:
    content = {
        "affine": _floats(labels.affine),
        "frame_of_reference": labels.frame_of_reference,
        "regions": to_plain(labels.regions),
    }
    return _item("labels", content, labels.labels)


def _floats(affine: npt.NDArray[np.float64]) -> list[list[float]]:
    return [[float(x) for x in row] for row in affine]


def digest_scan(scan: Scan) -> str:
    """SHA-256 that names a scan: its values, geometry, unit, time and calibration; its `id` plays no part."""
    return _scan_item(scan).digest


def digest_labels(labels: LabelVolume) -> str:
    """SHA-256 that names a label volume."""
    return _labels_item(labels).digest


def digest_json(kind: str, obj: Any) -> str:
    """SHA-256 that names a JSON item."""
    return _item(kind, to_plain(obj)).digest


class EvidenceStore:
    """Evidence of one TDT_HOME. Putting the same content twice writes once and gives the same digest."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def put_scan(self, scan: Scan) -> str:
        """Store a scan; returns its digest. Raises StoreError (`store.full`, `store.readonly`, `store.damaged`)."""
        return self._put(_scan_item(scan))

    def put_labels(self, labels: LabelVolume) -> str:
        """Store a label volume; returns its digest."""
        return self._put(_labels_item(labels))

    def put_json(self, kind: str, obj: Any) -> str:
        """Store plain data (administrations, labs, patient, lesions); returns its digest. `kind` names what it is."""
        return self._put(_item(kind, to_plain(obj)))

    def get_scan(self, digest: str) -> Scan:
        """The scan of that digest, `id` set to it; values are a read-only view of the file. Verified on the way."""
        content, array = self._get(digest, "scan")
        calibration, of_ct = content["calibration"], content.get("ct_calibration")
        return Scan(
            id=digest,
            modality=content["modality"],
            volume=Volume(_present(array, digest), np.array(content["affine"]), content["unit"], content["frame_of_reference"]),
            time_h=content["time_h"],
            duration_s=content["duration_s"],
            nuclide=content["nuclide"],
            calibration=None if calibration is None else from_plain(CalibrationRecord, calibration),
            counts_per_mbq=content["counts_per_mbq"],
            value_branch=content["value_branch"],
            ct_calibration=None if of_ct is None else from_plain(CtCalibration, of_ct),
        )

    def get_labels(self, digest: str) -> LabelVolume:
        """The label volume of that digest."""
        content, array = self._get(digest, "labels")
        regions = tuple(from_plain(Region, r) for r in content["regions"])
        return LabelVolume(_present(array, digest), np.array(content["affine"]), content["frame_of_reference"], regions)

    def get_json(self, digest: str, kind: str | None = None) -> Any:
        """The plain data of that digest; with `kind`, an item of another kind is a StoreError."""
        return self._get(digest, kind)[0]

    def about(self, digest: str) -> Mapping[str, Any]:
        """What the item says beside its array, which is not read."""
        content: Mapping[str, Any] = self._meta(digest)["content"]
        return content

    def kind(self, digest: str) -> str:
        """What the item is: `scan`, `labels` or the kind given to `put_json`."""
        return str(self._meta(digest)["kind"])

    def has(self, digest: str) -> bool:
        """Whether the item is there (its bytes are not read)."""
        return (self.path(digest) / META).is_file()

    def path(self, digest: str) -> Path:
        """Folder of an item."""
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise StoreError("a malformed evidence digest", expected="64 hexadecimal digits", kind="store.unknown")
        return self.home.evidence / digest

    def digests(self) -> list[str]:
        """Digests of all items, sorted."""
        return sorted(p.name for p in self.home.evidence.iterdir() if p.is_dir())

    def verify(self, digest: str) -> list[Path]:
        """Files of an item that are damaged, missing or do not belong; empty when the item is whole."""
        folder = self.path(digest)
        meta_path, array_path = folder / META, folder / ARRAY
        if not meta_path.is_file() or hashlib.sha256(meta_path.read_bytes()).hexdigest() != digest:
            return [meta_path]
        spec = json.loads(meta_path.read_bytes()).get("array")
        wrong = [p for p in sorted(folder.iterdir()) if p.name != META and (spec is None or p.name != ARRAY)]
        if spec is not None:
            header = npy_header(spec["dtype"], tuple(spec["shape"]))
            data = array_path.read_bytes() if array_path.is_file() else b""
            raw = memoryview(data)[len(header) :]
            if data[: len(header)] != header or hashlib.sha256(raw).hexdigest() != spec["sha256"]:
                wrong.insert(0, array_path)
        return wrong

    def _put(self, item: Item) -> str:
        digest = item.digest
        target = self.path(digest)
        if target.exists():
            self._check(digest)
            return digest
        with disk_errors("storing evidence"), self.home.stage(digest) as folder:
            (folder / META).write_bytes(item.meta)
            if item.array is not None:
                with (folder / ARRAY).open("wb") as f:
                    f.write(npy_header(item.array.dtype.str, item.array.shape))
                    f.write(item.array.tobytes())
            publish_folder(folder, target, label="evidence")
        return digest

    def _check(self, digest: str) -> None:
        if wrong := self.verify(digest):
            raise StoreError(
                f"evidence file {wrong[0].relative_to(self.home.root)} is damaged",
                remedy="restore it from a backup, or remove its folder and take the source in again",
                kind="store.damaged",
            )

    def _meta(self, digest: str) -> dict[str, Any]:
        path = self.path(digest) / META
        if not path.is_file():
            raise StoreError(f"no evidence {digest[:12]}", remedy="take its source in again", kind="store.unknown")
        meta: dict[str, Any] = json.loads(path.read_bytes())
        return meta

    def _get(self, digest: str, kind: str | None) -> tuple[Any, npt.NDArray[Any] | None]:
        if not self.has(digest):
            raise StoreError(f"no evidence {digest[:12]}", remedy="take its source in again", kind="store.unknown")
        self._check(digest)
        meta = self._meta(digest)
        if meta["schema_version"] != SCHEMA_VERSION:
            raise StoreError(
                f"evidence of schema version {meta['schema_version']}",
                expected=f"{SCHEMA_VERSION}",
                remedy="use the newer software that wrote it",
                kind="store.version",
            )
        if kind is not None and meta["kind"] != kind:
            raise StoreError(f"evidence {digest[:12]} is {meta['kind']!r}", expected=kind, kind="store.type")
        array = None
        if "array" in meta:
            array = np.asarray(np.load(self.path(digest) / ARRAY, mmap_mode="r", allow_pickle=False))
        return meta["content"], array


def _present(array: npt.NDArray[Any] | None, digest: str) -> npt.NDArray[Any]:
    if array is None:
        raise StoreError(f"evidence {digest[:12]} has no array", kind="store.damaged")
    return array


def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Header of a version 1.0 npy file, padded to 64 bytes; written here so that its bytes never change with numpy.

    Source: the NPY format description (NumPy Enhancement Proposal 1).
    """
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {tuple(int(n) for n in shape)!r}, }}"
    length = len(text) + 1 + 10
    text += " " * (-length % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode("latin-1")
