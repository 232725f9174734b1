"""From sorted files to images, masks, record and laboratory lines; a refusal of one item does not hide those of the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset

from storage.administrations import Given, PatientRecord, read_administrations
from storage.atomic import sha256_file
from storage.calibrations import Calibrations, read_calibrations
from storage.ct_calibrations import NAME as CT_CALIBRATION
from storage.ct_calibrations import read_ct_calibrations
from storage.dicom.classify import LabelMapFiles, SeriesFiles, Sorted
from storage.dicom.ct_pt import read_ct, read_pt
from storage.dicom.images import ReadImage
from storage.dicom.nm import read_nm
from storage.dicom.parse import items, open_file, text
from storage.dicom.rtstruct import read_rtstruct
from storage.dicom.seg import read_seg
from storage.labs import Line, merged, read_lab_csv, read_lab_fhir, withdrawn
from storage.masks import Grid, Mask
from storage.nifti_regions import read_label_map, read_sidecar
from storage.prior_therapy import NAME, PriorLine, read_prior_therapy
from storage.quality import QualityItem, following, item_of
from storage.samples import NAME as SAMPLES
from storage.samples import SampleLine, read_samples
from storage.vault import Vault
from tdt_core.errors import IdentityError, InputError, TwinError
from tdt_core.imaging.ct_calibration import CtCalibration

CALIBRATION = "calibration.json"


@dataclass
class Collector:
    """Lines of the quality report while a folder is read."""

    items: list[QualityItem] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    """What others look for and a refused item would have given (a UID, a table, the CT of a frame) -> that item."""

    @contextmanager
    def item(self, name: str, paths: Iterable[Path] = (), gives: Iterable[str] = ()) -> Iterator[list[str]]:
        """A line for what happens inside: ok, or refused with the error's reason.

        gives : what others will look for in this item. The block adds what it looks for itself to the list that it gets: an
        error about something that a refused item would have given is marked as following from that item.
        """
        needs: list[str] = []
        try:
            yield needs
        except TwinError as e:
            line, cause = item_of(name, e, paths), next((self.lost[n] for n in needs if n in self.lost), "")
            line = following(line, cause) if cause else line
            self.items.append(line)
            self.lost.update(dict.fromkeys(gives, cause if line.verdict == "follows" else name))
        else:
            self.items.append(QualityItem(name, paths=tuple(paths)))

    @property
    def refused(self) -> bool:
        """Whether anything was refused so far."""
        return any(i.verdict == "refused" for i in self.items)


@dataclass(frozen=True, eq=False)
class FoundImage:
    """An image with its name in reports and its files."""

    image: ReadImage
    name: str
    paths: tuple[Path, ...]


@dataclass(frozen=True, eq=False)
class FoundMasks:
    """The masks of one segmentation object on one grid."""

    masks: tuple[Mask, ...]
    grid: Grid
    name: str
    paths: tuple[Path, ...]


@dataclass(frozen=True, eq=False)
class Material:
    """Everything that a folder holds, decoded and checked item by item."""

    record: PatientRecord | None
    given: tuple[Given, ...]
    authority: str
    identity: dict[str, str]
    images: tuple[FoundImage, ...]
    masks: tuple[FoundMasks, ...]
    labs: tuple[Line, ...]
    prior: tuple[PriorLine, ...]
    samples: tuple[SampleLine, ...]
    withdrawn_labs: tuple[str, ...] = ()


def read_material(
    files: Sorted, vault: Vault, calibration_file: Path | None, ct_calibration_file: Path | None, collector: Collector
) -> Material:
    """Decode all items of a sorted folder."""
    record, given = _record(files, collector)
    authority, identity = _identity(files.series, record, vault, collector)
    calibrations = Calibrations()
    path = calibration_file or files.tables.get(CALIBRATION)
    if path is not None:
        with collector.item("calibration records", [path], gives=[CALIBRATION]):
            calibrations = read_calibrations(path)
    scanners: Mapping[str, CtCalibration] = {}
    path = ct_calibration_file or files.tables.get(CT_CALIBRATION)
    if path is not None:
        with collector.item("CT calibration", [path]):
            scanners = read_ct_calibrations(path)
    images = _images(files.series, calibrations, scanners, vault, collector)
    grids = _grids(images)
    masks = _masks(files.series, grids, vault, collector)
    masks += _label_maps(files.label_maps, grids, record, vault, collector)
    labs: tuple[Line, ...] = ()
    errors: tuple[str, ...] = ()
    prior: tuple[PriorLine, ...] = ()
    samples: tuple[SampleLine, ...] = ()
    if record is not None:
        pid = vault.pid(authority, record.patient_id)
        labs, errors = _labs(files.tables, record, pid, vault, collector)
        if NAME in files.tables:
            with collector.item("earlier therapies", [files.tables[NAME]]):
                prior = read_prior_therapy(files.tables[NAME], (record.patient_id, pid), record.birth_date)
        if SAMPLES in files.tables:
            with collector.item("samples", [files.tables[SAMPLES]]):
                samples = read_samples(files.tables[SAMPLES], (record.patient_id, pid))
    return Material(record, given, authority, identity, images, masks, labs, prior, samples, errors)


def _record(files: Sorted, collector: Collector) -> tuple[PatientRecord | None, tuple[Given, ...]]:
    path = files.tables.get("administrations.json")
    with collector.item("administration record", [path] if path else []):
        if path is None:
            raise InputError(
                "no administration record in the folder",
                expected="administrations.json",
                remedy="add the record of product, activity, residual and times",
                kind="administration.file_missing",
            )
        return read_administrations(path)
    return None, ()


def _identity(
    series: Sequence[SeriesFiles], record: PatientRecord | None, vault: Vault, collector: Collector
) -> tuple[str, dict[str, str]]:
    """Assigning authority, and identity for the vault, after checking that all images are of the patient of the record."""
    issuers = {record.issuer} if record is not None else set()
    name = ""
    for s in series:
        label = f"identity of {_name(s, vault, len(s.paths))}"
        people = {(text(d, "PatientID"), text(d, "PatientBirthDate"), text(d, "PatientSex")) for d in s.headers}
        issuers |= {text(d, "IssuerOfPatientID") for d in s.headers}
        name = name or text(s.headers[0], "PatientName")
        try:
            _one_person(people, record)
        except TwinError as e:
            collector.items.append(item_of(label, e, s.paths))
    issuers.discard("")
    if len(issuers) > 1:
        error = IdentityError(
            f"patient ids of {len(issuers)} issuing authorities",
            expected="one authority",
            remedy="the same number means another person elsewhere: send one authority's data at a time",
            kind="identity.issuer",
        )
        collector.items.append(item_of("identity", error, [p for s in series for p in s.paths[:1]]))
    identity = {} if record is None else {"patient_id": record.patient_id, "birth_date": record.birth_date.isoformat()}
    if record is not None:
        identity |= {"name": name, "sex": record.sex, "issuer": next(iter(sorted(issuers)), "")}
    return next(iter(sorted(issuers)), ""), identity


def _one_person(people: set[tuple[str, str, str]], record: PatientRecord | None) -> None:
    ids = {p[0] for p in people}
    if "" in ids:
        raise IdentityError(
            "images without a patient id",
            expected="PatientID",
            remedy="send images of a known patient",
            kind="identity.missing",
        )
    if len(ids) > 1 or (record is not None and ids != {record.patient_id}):
        raise IdentityError(
            "images of another patient than the administration record",
            expected="one patient id in images, administration record and laboratory results",
            remedy="find out whose images these are before anything else; the folder mixes two patients",
            kind="identity.swapped_patient",
        )
    if record is None:
        return
    births, sexes = {p[1] for p in people} - {""}, {p[2] for p in people} - {""}
    if births - {record.birth_date.strftime("%Y%m%d")} or sexes - {record.sex[0].upper()}:
        raise IdentityError(
            "images with another birth date or sex than the administration record",
            expected="the same person in both",
            remedy="check which of the two is right; a patient id may have been reused or mistyped",
            kind="identity.contradiction",
        )


def _images(
    series: Sequence[SeriesFiles],
    calibrations: Calibrations,
    scanners: Mapping[str, CtCalibration],
    vault: Vault,
    collector: Collector,
) -> tuple[FoundImage, ...]:
    found = []
    for s in series:
        if s.kind not in ("NM", "PT", "CT"):
            continue
        groups = [(p,) for p in s.paths] if s.kind == "NM" else [s.paths]
        for paths in groups:
            name = _name(s, vault, len(paths))
            with collector.item(name, paths, gives=_gives(s)) as needs:
                needs.append(CALIBRATION)
                data = [open_file(p, pixels=True) for p in paths]
                image = _read(s.kind, data, calibrations, scanners)
                found.append(FoundImage(image, name, paths))
    return tuple(found)


def _gives(s: SeriesFiles) -> list[str]:
    """What others look for in an image series: itself, its frames of reference and, in a CT, the CT of these."""
    frames = sorted({text(d, "FrameOfReferenceUID") for d in s.headers} - {""})
    return [s.series_uid, *frames, *(ct_of(f) for f in frames if s.kind == "CT")]


def ct_of(frame_of_reference: str) -> str:
    """What a scan looks for: the CT in its frame of reference."""
    return f"CT of {frame_of_reference}"


def _frames(d: Dataset) -> list[str]:
    """Frames of reference that a SEG or RTSTRUCT is drawn on."""
    rois = items(d, "StructureSetROISequence")
    return [text(d, "FrameOfReferenceUID"), *(text(roi, "ReferencedFrameOfReferenceUID") for roi in rois)]


def _read(kind: str, data: Sequence[Dataset], calibrations: Calibrations, scanners: Mapping[str, CtCalibration]) -> ReadImage:
    if kind == "NM":
        return read_nm(data[0], calibrations)
    return read_ct(data, scanners) if kind == "CT" else read_pt(data, calibrations)


def _grids(images: Sequence[FoundImage]) -> list[Grid]:
    grids = []
    for f in images:
        z, y, x = f.image.array.shape
        grids.append(Grid((z, y, x), f.image.affine, f.image.frame_of_reference, f.image.series_uid))
    return grids


def _masks(series: Sequence[SeriesFiles], grids: Sequence[Grid], vault: Vault, collector: Collector) -> tuple[FoundMasks, ...]:
    found = []
    for s in series:
        if s.kind not in ("SEG", "RTSTRUCT"):
            continue
        for path in s.paths:
            name = _name(s, vault, 1)
            with collector.item(name, [path]) as needs:
                d = open_file(path, pixels=s.kind == "SEG")
                needs += _frames(d)
                if s.kind == "SEG":
                    masks, grid = read_seg(d, grids, lambda u: vault.token("lesion", u))
                else:
                    masks, grid, remarks = read_rtstruct(d, grids)
                    collector.findings += remarks
                found.append(FoundMasks(tuple(masks), grid, name, (path,)))
    return tuple(found)


def _label_maps(
    files: Sequence[LabelMapFiles], grids: Sequence[Grid], record: PatientRecord | None, vault: Vault, collector: Collector
) -> tuple[FoundMasks, ...]:
    found = []
    for f in files:
        name = f"NIfTI label map {vault.token('label map', sha256_file(f.path))[:8]}"
        with collector.item(name, [f.path, f.sidecar]) as needs:
            sidecar = read_sidecar(f.sidecar)
            needs.append(sidecar.place)
            _one_person({(sidecar.patient_id, "", "")}, record)
            masks, grid = read_label_map(f.path, sidecar, grids)
            found.append(FoundMasks(tuple(masks), grid, name, (f.path, f.sidecar)))
    return tuple(found)


def _labs(
    tables: dict[str, Path], record: PatientRecord, pid: str, vault: Vault, collector: Collector
) -> tuple[tuple[Line, ...], tuple[str, ...]]:
    """Results that hold, and record numbers that were entered in error."""
    subjects, lines, paths = (record.patient_id, pid), [], []
    for name, reader in (("labs.csv", read_lab_csv), ("labs.fhir.json", read_lab_fhir)):
        if name in tables:
            paths.append(tables[name])
            with collector.item(f"laboratory results ({'CSV' if name.endswith('csv') else 'FHIR'})", [tables[name]]):
                read, remarks = reader(tables[name], subjects)
                lines += read
                collector.findings += remarks
    standing: list[Line] = []
    if lines:
        with collector.item("laboratory results together", paths):
            standing, remarks = merged(lines, lambda record: vault.token("lab", record))
            collector.findings += remarks
    return tuple(standing), withdrawn(lines)


def _name(s: SeriesFiles, vault: Vault, files: int) -> str:
    return f"{s.kind} series {vault.token('series', s.series_uid)[:8]} ({files} file{'s' * (files > 1)})"
