"""From an inbox folder to typed, pseudonymised cycles, or to a refusal with its reason.

The inbox holds mixed DICOM, NIfTI label maps, `administrations.json`, `labs.csv` and/or `labs.fhir.json`, `calibration.json`
and, where there are any, `ct_calibration.csv`, `prior_therapy.csv` and `samples.csv`; formats and reasons of refusal stand in
`docs/data-in.md`. Nothing that is not named in a whitelist enters the types. A folder is taken in whole or not at all: one
refused item refuses the folder, so that no twin ever rests on half a delivery.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from storage.assembly import cycles_of
from storage.dicom.classify import Sorted, sort_folder
from storage.evidence import EvidenceStore
from storage.intake_types import CycleIntake, Intake
from storage.quality import QualityReport, RefusedInbox, item_of
from storage.quarantine import quarantine
from storage.reading import Collector, Material, read_material
from storage.samples import in_hours
from storage.vault import Vault, VaultEntry
from tdt_core.errors import InputError

__all__ = ["CycleIntake", "Intake", "RefusedInbox", "check", "read_inbox"]

SAME_THERAPY_H = 24.0


@dataclass(frozen=True, eq=False)
class _Taken:
    """Outcome of reading a folder, before anything is written anywhere."""

    report: QualityReport
    intake: Intake | None
    entry: VaultEntry | None


def read_inbox(
    folder: Path,
    vault: Vault,
    *,
    evidence: EvidenceStore | None = None,
    calibration_file: Path | None = None,
    ct_calibration_file: Path | None = None,
    quarantine_folder: Path | None = None,
    amends: bool = False,
) -> Intake:
    """Take in one patient's folder.

    Parameters
    ----------
    folder : the inbox folder; it is only read.
    vault : gives pseudonyms and origin of time, and keeps identity, origin and original UIDs of an accepted patient.
    evidence : where scans, labels, administrations and labs are put; None keeps them in memory.
    calibration_file, ct_calibration_file : used in place of the folder's `calibration.json` and `ct_calibration.csv`.
    quarantine_folder : where copies of refused and left-out items go with their reason; None makes none.
    amends : the folder may hold a part of what a known patient's cycles rest on (`storage.pool` puts the parts together).

    Raises
    ------
    RefusedInbox
        Its `kind` is that of the first refusal, its `report` holds all. Nothing is written to vault or evidence then.
    """
    taken = _take(Path(folder), vault, calibration_file, ct_calibration_file, amends)
    if quarantine_folder is not None:
        for item in taken.report.items:
            if item.verdict in ("left_out", "refused"):
                quarantine(item, quarantine_folder)
    if taken.intake is None or taken.entry is None:
        raise RefusedInbox(taken.report)
    vault.remember(taken.entry)
    if evidence is not None:
        for cycle in taken.intake.cycles:
            _put(cycle, evidence)
    return taken.intake


def check(
    folder: Path,
    vault: Vault | None = None,
    *,
    calibration_file: Path | None = None,
    ct_calibration_file: Path | None = None,
) -> QualityReport:
    """The data-quality report of a folder. Changes nothing: no vault entry, no evidence, no quarantine.

    Parameters
    ----------
    vault : to know the patient's origin of time; None looks with a key that is thrown away.
    """
    return _take(Path(folder), vault or Vault.in_memory(), calibration_file, ct_calibration_file, amends=True).report


def _take(folder: Path, vault: Vault, calibration_file: Path | None, ct_calibration_file: Path | None, amends: bool) -> _Taken:
    if not folder.is_dir():
        raise InputError(
            "there is no such folder", remedy="name the folder that holds the patient's files", kind="input.folder"
        )
    files = sort_folder(folder.resolve())
    collector = Collector(list(files.items), list(files.findings))
    material = read_material(files, vault, calibration_file, ct_calibration_file, collector)
    record = material.record
    known = amends and record is not None and vault.entry(vault.pid(material.authority, record.patient_id)) is not None
    _check_complete(files, collector, known)
    cycles: Sequence[CycleIntake] = ()
    intake, entry = None, None
    if material.record is not None and not any(i.kind.startswith("identity") for i in collector.items):
        pid = vault.pid(material.authority, material.record.patient_id)
        with collector.item("patient"):
            entry = _entry(pid, material, vault)
            patient = material.record.patient(pid, entry.origin.astimezone(entry.zone))
            origin = entry.origin.astimezone(entry.zone)
            cycles = cycles_of(material, origin, vault, collector, known=known)
            intake = Intake(
                pid,
                patient,
                tuple(cycles),
                tuple(dict.fromkeys(collector.findings)),
                issued=material.record.issued,
                withdrawn_labs=tuple(sorted(vault.token("lab", r) for r in material.withdrawn_labs)),
                lines=in_hours(material.samples, origin),
                midnight_h=(origin - origin.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds() / 3600,
            )
    report = QualityReport(tuple(collector.items), tuple(dict.fromkeys(collector.findings)) + _remarks(cycles))
    return _Taken(report, intake if report.ok else None, entry if report.ok else None)


def _remarks(cycles: Sequence[CycleIntake]) -> tuple[str, ...]:
    return tuple(f"cycle {c.number}: {remark}" for c in cycles for remark in c.findings)


def _check_complete(files: Sorted, collector: Collector, known: bool) -> None:
    """Projections without a reconstruction, and a folder without any scan of a patient who is not known yet, are refused."""
    reconstructed = {s.study_uid for s in files.series if s.kind in ("NM", "PT")}
    for _ in sorted(files.projections - reconstructed):
        error = InputError(
            "a study with SPECT projections and no reconstruction",
            expected="reconstructed SPECT (RECON TOMO)",
            remedy="reconstruct with attenuation and scatter correction, and export the result",
            kind="scan.projections_only",
        )
        paths = [p for i in files.items if i.kind == "dicom.projections" for p in i.paths]
        collector.items.append(item_of("SPECT", error, paths))
    emission = [s for s in files.series if s.kind in ("NM", "PT")]
    if not emission and not files.projections and not known:
        error = InputError(
            "no SPECT or PET in the folder",
            expected="at least one quantitative scan",
            remedy="send the scans; a record and laboratory values alone are taken in of a known patient only",
            kind="scan.missing",
        )
        collector.items.append(item_of("scans", error))


def _entry(pid: str, material: Material, vault: Vault) -> VaultEntry:
    """The vault entry that this folder would leave: the known origin, else the start of its first therapy."""
    first = next(g.start for g in material.given if g.intent == "therapy")
    known = vault.entry(pid)
    origin = first.astimezone(UTC) if known is None else known.origin
    _check_history(first, origin)
    offset_min = int((first.utcoffset() or timedelta(0)).total_seconds() // 60) if known is None else known.offset_min
    originals = {u for f in material.images for u in (f.image.frame_of_reference, f.image.study_uid, f.image.series_uid)}
    uids = {vault.uid(u): u for u in sorted(originals)}
    return VaultEntry(pid, vault.key_id, material.identity, origin, offset_min, uids)


def _check_history(first: datetime, origin: datetime) -> None:
    """Refuse a therapy before hour 0. A folder may begin with a later therapy: hour 0 is known, and so is what came before."""
    hours = (first - origin).total_seconds() / 3600
    if hours < -SAME_THERAPY_H:
        raise InputError(
            f"a therapy {-hours / 24:.0f} days before the first one known of this patient",
            expected="no therapy before hour 0 of the patient's time axis",
            remedy="an earlier therapy moves hour 0 of every stored time: start this patient's twin anew",
            kind="administration.history",
        )


def _put(cycle: CycleIntake, evidence: EvidenceStore) -> None:
    for scan in (*cycle.scans, *cycle.cts.values()):
        evidence.put_scan(scan)
    for labels in (*(() if cycle.labels is None else (cycle.labels,)), *cycle.further_labels):
        evidence.put_labels(labels)
    if cycle.administrations:
        evidence.put_json("administrations", cycle.administrations)
    if cycle.labs:
        evidence.put_json("labs", cycle.labs)
    if cycle.prior_therapies:
        evidence.put_json("prior_therapies", cycle.prior_therapies)
    if cycle.samples:
        evidence.put_json("samples", cycle.samples)
