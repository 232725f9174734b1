"""From a folder to the one therapy cycle that dosimetry is wanted for. The folder is only read, and no store is written."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from storage.intake import CycleIntake, read_inbox
from storage.vault import Vault, VaultEntry
from tdt_core.errors import InputError, TimeError, UsageError
from tdt_core.imaging.volume import LabelVolume
from tdt_core.twin import Administration, Patient


@dataclass(frozen=True, eq=False)
class TakenIn:
    """One cycle, ready for dosimetry: `cycle.scans` show the therapy's nuclide only, all after `therapy`.

    `entry` knows who the pseudonym is; it lives in memory only.
    """

    pid: str
    patient: Patient
    cycle: CycleIntake
    therapy: Administration
    labels: LabelVolume
    entry: VaultEntry
    findings: tuple[str, ...]

    def hours(self, time_h: float) -> float:
        """Hours after the start of the therapy."""
        return time_h - self.therapy.time_h


def take_in(folder: Path, number: int | None = None) -> TakenIn:
    """Read a folder as the inbox does.

    Parameters
    ----------
    number : which therapy cycle, where the folder holds several.

    Raises
    ------
    RefusedInbox with the whole quality report; UsageError `dose.cycle` (several cycles, or not that one); InputError
    `dose.scans`, `dose.labels`; TimeError for a scan during the administration.
    """
    vault = Vault.in_memory()
    intake = read_inbox(folder, vault)
    entry = vault.entry(intake.pid)
    assert entry is not None  # read_inbox remembers whom it takes in
    cycle = _chosen(intake.cycles, number)
    therapy = next(a for a in cycle.administrations if a.intent == "therapy")
    kept = tuple(s for s in cycle.scans if s.nuclide == therapy.nuclide)
    left_out = len(cycle.scans) - len(kept)
    if not kept:
        raise InputError(
            f"cycle {cycle.number} has no scan of {therapy.nuclide}",
            expected="at least one quantitative scan of the nuclide that was given",
            remedy="send the SPECT or PET of this therapy with its CT",
            kind="dose.scans",
        )
    if cycle.labels is None:
        raise InputError(
            f"cycle {cycle.number} has no segmentation",
            expected="regions as RTSTRUCT, SEG or NIfTI label map on one of its scans",
            remedy="segment one time point of the cycle and export it",
            kind="dose.labels",
        )
    early = [s.time_h - therapy.time_h for s in kept if s.time_h - therapy.time_h <= therapy.duration_h]
    if early:
        raise TimeError(
            f"a scan {early[0]:.2f} h after the start of an administration of {therapy.duration_h:.2f} h",
            expected="scans after the administration",
            remedy="leave out scans during the infusion, or correct the times",
            kind="dose.times",
        )
    findings = list(cycle.findings)
    if left_out:
        findings.append(f"{left_out} scan(s) of another nuclide than {therapy.nuclide} are not used")
    cycle = dataclasses.replace(cycle, scans=kept)
    return TakenIn(intake.pid, intake.patient, cycle, therapy, cycle.labels, entry, tuple(findings))  # type: ignore[arg-type]


def _chosen(cycles: tuple[CycleIntake, ...], number: int | None) -> CycleIntake:
    therapies = {c.number: c for c in cycles if any(a.intent == "therapy" for a in c.administrations)}
    if number is None and len(therapies) == 1:
        return next(iter(therapies.values()))
    if number is None or number not in therapies:
        known = ", ".join(map(str, therapies))
        raise UsageError(
            f"cycle {number} of a folder with therapy cycles {known}" if number else f"a folder with therapy cycles {known}",
            expected=f"--cycle with one of {known}" if len(therapies) > 1 else f"cycle {known}",
            remedy="name a cycle that is there",
            kind="dose.cycle",
        )
    return therapies[number]
