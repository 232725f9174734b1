"""One cycle of an intake as one evidence item, so that later steps need its digest only, never an inbox."""

from __future__ import annotations

from typing import Any

from storage.evidence import EvidenceStore, digest_labels
from storage.intake import CycleIntake, Intake
from tdt_core.codec import from_plain, to_plain
from tdt_core.twin import Administration, LabResult, Patient, PriorTherapy, Sample

KIND = "cycle"


def put_cycles(evidence: EvidenceStore, intake: Intake) -> dict[int, str]:
    """Store every cycle of an intake; returns cycle number -> digest. Scans and labels must be in the store already."""
    return {cycle.number: evidence.put_json(KIND, _plain(intake, cycle)) for cycle in intake.cycles}


def get_cycle(evidence: EvidenceStore, digest: str) -> tuple[str, Patient, CycleIntake]:
    """Pseudonym, patient and cycle behind a digest."""
    data = evidence.get_json(digest, KIND)
    labels = evidence.get_labels(data["labels"]) if data["labels"] else None
    cycle = CycleIntake(
        number=int(data["number"]),
        administrations=tuple(from_plain(Administration, a) for a in data["administrations"]),
        scans=tuple(evidence.get_scan(d) for d in data["scans"]),
        cts={frame: evidence.get_scan(d) for frame, d in data["cts"].items()},
        labels=labels,
        labels_for=data["labels_for"],
        labs=tuple(from_plain(LabResult, x) for x in data["labs"]),
        digests=tuple(data["digests"]),
        findings=tuple(data["findings"]),
        prior_therapies=tuple(from_plain(PriorTherapy, x) for x in data.get("prior_therapies", [])),
        samples=tuple(from_plain(Sample, x) for x in data.get("samples", [])),
    )
    return data["pid"], from_plain(Patient, data["patient"]), cycle


def digests_by_cycle(evidence: EvidenceStore, bundles: dict[int, str]) -> dict[int, tuple[str, ...]]:
    """Cycle number -> digests of what it brought.

    The bundle itself is not among them: it also holds findings, whose wording may change with the software, while evidence
    that is assimilated must stay assimilated.
    """
    return {number: tuple(evidence.get_json(bundle, KIND)["digests"]) for number, bundle in bundles.items()}


def _plain(intake: Intake, cycle: CycleIntake) -> dict[str, Any]:
    return {
        "pid": intake.pid,
        "patient": to_plain(intake.patient),
        "number": cycle.number,
        "administrations": to_plain(cycle.administrations),
        "scans": [scan.id for scan in cycle.scans],
        "cts": {frame: scan.id for frame, scan in cycle.cts.items()},
        "labels": None if cycle.labels is None else digest_labels(cycle.labels),
        "labels_for": cycle.labels_for,
        "labs": to_plain(cycle.labs),
        "prior_therapies": to_plain(cycle.prior_therapies),
        **({"samples": to_plain(cycle.samples)} if cycle.samples else {}),
        "digests": sorted(cycle.digests),
        "findings": list(cycle.findings) + list(intake.findings),
    }
