"""One cycle as one evidence item (`storage.pool` makes it), so that later steps need its digest only, never an inbox."""

from __future__ import annotations

from storage.evidence import EvidenceStore
from storage.intake_types import CycleIntake
from tdt_core.codec import from_plain
from tdt_core.twin import Administration, LabResult, Patient, PriorTherapy, Sample

KIND = "cycle"


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
