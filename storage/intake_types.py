"""What an inbox becomes: typed, pseudonymised cycles of one patient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from storage.samples import HourLine
from tdt_core.imaging.volume import LabelVolume, Scan
from tdt_core.twin import LabResult, Patient, PriorTherapy, Sample, Schedule


@dataclass(frozen=True, eq=False)
class CycleIntake:
    """What one cycle brought, before imaging turns it into region activities.

    Attributes
    ----------
    number : 0 = before the first therapy (pre-therapy PET), k = from therapy k until before therapy k + 1.
    administrations : those that started in this cycle, in order of time.
    scans : SPECT and PET, MBq/mL at `time_h`, in order of time.
    cts : frame of reference (pseudonymised) -> the CT that belongs to the scans of that frame.
    labels : regions of this cycle, or None.
    labels_for : frame of reference that `labels` is drawn on, "" without labels.
    labs : results of this cycle, in order of time; censored values are kept.
    digests : SHA-256 of every evidence item, sorted.
    findings : data-quality remarks in words that did not lead to a refusal.
    prior_therapies : therapies outside this system that ended in this cycle, in order of time.
    samples : activity measured without an image in this cycle, in order of time.
    remarks : those of the findings that belong to one scan, CT or label volume, by its digest.
    further_labels : regions on later scans of the cycle; `labels` are those of the first.
    """

    number: int
    administrations: Schedule
    scans: tuple[Scan, ...]
    cts: Mapping[str, Scan]
    labels: LabelVolume | None
    labels_for: str
    labs: tuple[LabResult, ...]
    digests: tuple[str, ...]
    findings: tuple[str, ...] = ()
    prior_therapies: tuple[PriorTherapy, ...] = ()
    samples: tuple[Sample, ...] = ()
    remarks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    further_labels: tuple[LabelVolume, ...] = ()


@dataclass(frozen=True, eq=False)
class Intake:
    """All cycles of one patient, as one inbox folder tells them.

    Attributes
    ----------
    findings : remarks that belong to no cycle, such as what of the folder was not used.
    issued : when the sender made the record, if it says so.
    withdrawn_labs : record numbers (pseudonymised) of results entered in error, in whichever delivery they came.
    lines : the samples as they were measured, on the patient's time axis.
    midnight_h : hours from midnight to hour 0, at the site: earlier therapies are known to the day.
    """

    pid: str
    patient: Patient
    cycles: tuple[CycleIntake, ...]
    findings: tuple[str, ...] = ()
    issued: datetime | None = None
    withdrawn_labs: tuple[str, ...] = ()
    lines: tuple[HourLine, ...] = ()
    midnight_h: float = 0.0
