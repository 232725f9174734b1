"""What lies in an inbox: mixed files sorted into series by what they are, tables by name, the rest left out with a reason.

Classified by SOP class and ImageType, before anything is decoded. NM volumes are `RECON TOMO`; projections and planar images
have frames too, and a reader that stacks them makes a volume of nothing. Secondary captures may have names burnt in.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydicom.dataset import Dataset

from storage.atomic import sha256_file
from storage.dicom.parse import is_dicom, open_file, text, uid
from storage.nifti import is_nifti_name, stem_of
from storage.quality import QualityItem, item_of
from tdt_core.errors import InputError, TwinError

Kind = Literal["NM", "PT", "CT", "SEG", "RTSTRUCT"]

TABLES = (
    "administrations.json",
    "calibration.json",
    "ct_calibration.csv",
    "labs.csv",
    "labs.fhir.json",
    "prior_therapy.csv",
    "samples.csv",
)
MAX_FILES = 50_000

_SOP_KINDS: dict[str, Kind] = {
    "1.2.840.10008.5.1.4.1.1.20": "NM",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT",
}
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


class LeftOut(InputError):
    """An object that the twin does not need; the rest of the folder goes on."""


@dataclass(frozen=True, eq=False)
class SeriesFiles:
    """Files of one series with their headers (no pixels), in order of SOP instance UID."""

    kind: Kind
    series_uid: str
    study_uid: str
    paths: tuple[Path, ...]
    headers: tuple[Dataset, ...]


@dataclass(frozen=True)
class LabelMapFiles:
    """A NIfTI label map and the sidecar that says whose it is and what its labels mean."""

    path: Path
    sidecar: Path


@dataclass(frozen=True, eq=False)
class Sorted:
    """A sorted folder. `items` are the lines of the quality report so far: what was left out or refused on the way."""

    series: tuple[SeriesFiles, ...]
    tables: dict[str, Path]
    items: tuple[QualityItem, ...]
    projections: frozenset[str]
    """Studies that hold projections; a refusal only where no reconstruction came with them."""
    findings: tuple[str, ...] = ()
    label_maps: tuple[LabelMapFiles, ...] = ()


def kind_of(d: Dataset) -> Kind:
    """What a DICOM object is.

    Raises
    ------
    LeftOut
        `dicom.secondary_capture`, `dicom.burnt_in`, `dicom.projections`, `dicom.planar`, `dicom.localizer`,
        `dicom.not_needed`.
    """
    sop = text(d, "SOPClassUID")
    if sop == _SECONDARY_CAPTURE or sop.startswith(_SECONDARY_CAPTURE + "."):
        raise _left_out("a secondary capture: a picture, perhaps with burnt-in text", "dicom.secondary_capture")
    if text(d, "BurnedInAnnotation").upper() == "YES":
        raise _left_out("an image with burnt-in text", "dicom.burnt_in")
    if sop not in _SOP_KINDS:
        raise _left_out("an object of a class that the twin does not use", "dicom.not_needed")
    kind = _SOP_KINDS[sop]
    words = text(d, "ImageType").upper().split("\\")
    third = words[2] if len(words) > 2 else ""
    if kind == "NM" and third not in ("RECON TOMO", "RECON GATED TOMO"):
        if third in ("TOMO", "GATED TOMO"):
            raise _left_out("SPECT projections, not a reconstruction", "dicom.projections", "export the reconstructed SPECT")
        raise _left_out("a planar or dynamic NM image", "dicom.planar")
    if kind == "CT" and "LOCALIZER" in words:
        raise _left_out("a CT localiser", "dicom.localizer")
    return kind


def _left_out(found: str, kind: str, remedy: str = "nothing, unless it was meant to be used") -> LeftOut:
    return LeftOut(found, expected="SPECT, PET, CT, SEG or RTSTRUCT", remedy=remedy, kind=kind)


def sort_folder(folder: Path) -> Sorted:
    """Sort every file below a folder. Links are refused, hidden files and folders (being written) are passed over."""
    items: list[QualityItem] = []
    tables: dict[str, Path] = {}
    found: dict[str, list[tuple[Path, Dataset, Kind]]] = {}
    instances: dict[str, Path] = {}
    projections, findings, maps = set(), [], []
    for n, path in enumerate(_walk(folder)):
        if n >= MAX_FILES:
            raise InputError(
                f"more than {MAX_FILES} files",
                expected="the files of one patient",
                remedy="send one patient's folder",
                kind="file.count",
            )
        name = path.name
        try:
            if name in TABLES and not path.is_symlink():
                if name in tables:
                    raise InputError(f"two files {name}", expected="one", remedy="keep the one in force", kind="file.twice")
                tables[name] = path
                continue
            if path.is_symlink() or name.lower().endswith(".dcm") or is_dicom(path):
                d = open_file(path, pixels=False)
                instance = uid(d, "SOPInstanceUID")
                if instance in instances:
                    _same_bytes(instances[instance], path)
                    findings.append("a file came twice with the same bytes; one was dropped")
                    continue
                instances[instance] = path
                kind = kind_of(d)
                found.setdefault(uid(d, "SeriesInstanceUID"), []).append((path, d, kind))
            elif is_nifti_name(path):
                maps.append(path)
            else:
                items.append(
                    QualityItem("another file", "left_out", "file.unknown", "no DICOM and no known table", paths=(path,))
                )
        except LeftOut as e:
            if e.kind == "dicom.projections":
                projections.add(text(d, "StudyInstanceUID"))
            items.append(item_of("DICOM object", e, [path], "left_out"))
        except TwinError as e:
            items.append(item_of("file", e, [path]))
    series = []
    for series_uid, members in sorted(found.items()):
        try:
            series.append(_series(series_uid, members))
        except TwinError as e:
            items.append(item_of("series", e, [m[0] for m in members]))
    pairs = _label_maps(maps, items, findings)
    sidecars = {_sidecar(p) for p in maps}
    items = [i for i in items if i.kind != "file.unknown" or i.paths[0] not in sidecars]
    return Sorted(tuple(series), tables, tuple(items), frozenset(projections), tuple(sorted(set(findings))), pairs)


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{stem_of(path)}.json")


def _label_maps(maps: list[Path], items: list[QualityItem], findings: list[str]) -> tuple[LabelMapFiles, ...]:
    """NIfTI files with their sidecars; one without is refused, the same pair twice counts once."""
    pairs: dict[tuple[str, str], LabelMapFiles] = {}
    names = [_sidecar(p) for p in maps]
    for path, sidecar in zip(maps, names, strict=True):
        if sidecar.is_symlink() or not sidecar.is_file() or sidecar.name in TABLES:
            error = InputError(
                "a NIfTI file without a sidecar",
                expected="a JSON file of the same name beside it, with patient, frame of reference and labels",
                remedy="write the sidecar; a label map alone says neither whose it is nor what its numbers mean",
                kind="nifti.sidecar_missing",
            )
            items.append(item_of("NIfTI label map", error, [path]))
        elif names.count(sidecar) > 1:
            error = InputError(
                "NAME.nii and NAME.nii.gz with one sidecar",
                expected="one of them",
                remedy="keep the one in force",
                kind="file.twice",
            )
            items.append(item_of("NIfTI label map", error, [path]))
        else:
            key = (sha256_file(path), sha256_file(sidecar))
            if key in pairs:
                findings.append("a file came twice with the same bytes; one was dropped")
            pairs.setdefault(key, LabelMapFiles(path, sidecar))
    return tuple(pairs[key] for key in sorted(pairs))


def _walk(folder: Path) -> Iterator[Path]:
    """Files in a stable order. A linked folder is given as it is, not entered."""
    for root, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted([*names, *(f for f in folders if (Path(root) / f).is_symlink())]):
            if not name.startswith("."):
                yield Path(root) / name


def _same_bytes(first: Path, second: Path) -> None:
    if hashlib.sha256(first.read_bytes()).digest() != hashlib.sha256(second.read_bytes()).digest():
        raise InputError(
            "two different files with one SOP instance UID",
            expected="one file per object",
            remedy="find out which of the two is right and remove the other; nothing else is safe",
            kind="dicom.duplicate",
        )


def _series(series_uid: str, members: list[tuple[Path, Dataset, Kind]]) -> SeriesFiles:
    kinds = {kind for _, _, kind in members}
    studies = {uid(d, "StudyInstanceUID") for _, d, _ in members}
    if len(kinds) > 1 or len(studies) > 1:
        raise InputError(
            f"one series of {len(kinds)} kinds of objects in {len(studies)} studies",
            expected="one kind, one study",
            remedy="export the series again",
            kind="dicom.mixed_series",
        )
    members = sorted(members, key=lambda m: text(m[1], "SOPInstanceUID"))
    return SeriesFiles(kinds.pop(), series_uid, studies.pop(), tuple(m[0] for m in members), tuple(m[1] for m in members))
