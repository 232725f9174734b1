"""A small reference patient with canaries in every identity field, and the loop on its files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pydicom

from flows.settings import load_settings
from flows.site import Site, open_site
from storage.phantom_files import write_reference_patient
from tdt_core.phantom import PhantomSettings, reference_patient

CANARY = "KANARIENVOGEL"
IDENTITY = {
    "PatientName": f"{CANARY}^NAME",
    "PatientID": f"{CANARY}-ID",
    "PatientAddress": f"{CANARY} STREET",
    "PatientComments": f"{CANARY} COMMENT",
    "OtherPatientIDs": f"{CANARY}-OTHER",
    "InstitutionName": f"{CANARY} HOSPITAL",
    "InstitutionAddress": f"{CANARY} TOWN",
    "ReferringPhysicianName": f"{CANARY}^DOCTOR",
    "PerformingPhysicianName": f"{CANARY}^PERFORMER",
    "OperatorsName": f"{CANARY}^OPERATOR",
    "AccessionNumber": f"{CANARY}1",
    "StudyID": f"{CANARY}2",
    "StudyDescription": f"{CANARY} STUDY",
    "SeriesDescription": f"{CANARY} SERIES",
    "StationName": f"{CANARY}3",
    "ImageComments": f"{CANARY} IMAGE",
    "ProtocolName": f"{CANARY} PROTOCOL",
    "RequestedProcedureDescription": f"{CANARY} REQUEST",
}


def write_patient(folder: Path, *, seed: int = 7, canaries: bool = False, matrix: int = 32, pet: bool = True) -> Path:
    """A patient of two cycles; returns the inbox."""
    settings = PhantomSettings(seed=seed, cycles=2, matrix=matrix, pet=pet)
    inbox = write_reference_patient(folder, reference_patient(settings))
    if canaries:
        plant(inbox)
    return inbox


def plant(inbox: Path) -> None:
    """Put the canary into every identity field of every file."""
    for path in inbox.rglob("*.dcm"):
        d = pydicom.dcmread(path)
        for name, value in IDENTITY.items():
            setattr(d, name, value)
        d.add_new(0x00091001, "LO", f"{CANARY} PRIVATE")
        d.save_as(path)
    record = json.loads((inbox / "administrations.json").read_text())
    known = record["patient"]["id"]
    for path in (inbox / "administrations.json", inbox / "labs.fhir.json", inbox / "labs.csv"):
        path.write_text(path.read_text().replace(known, IDENTITY["PatientID"]))


def new_site(folder: Path, **settings: object) -> Site:
    """An empty site in a folder of its own."""
    return open_site(load_settings(home=folder / "home", n_draws=100, **settings))


def only_cycle(inbox: Path, target: Path, cycles: tuple[int, ...], administrations: int) -> Path:
    """A copy of an inbox with some cycles' images and the first administrations only."""
    target.mkdir(parents=True)
    for number in cycles:
        shutil.copytree(inbox / f"cycle-{number}", target / f"cycle-{number}")
    record = json.loads((inbox / "administrations.json").read_text())
    record["administrations"] = record["administrations"][:administrations]
    (target / "administrations.json").write_text(json.dumps(record))
    for name in ("calibration.json", "labs.csv"):
        shutil.copy(inbox / name, target / name)
    return target


def fingerprint(site: Site) -> dict[str, bytes]:
    """Bytes of every file of every state but provenance, which holds the time of day."""
    return {
        str(path.relative_to(site.home.twins)): path.read_bytes()
        for path in sorted(site.home.twins.rglob("*"))
        if path.is_file() and "states" in path.parts and path.name not in ("provenance.json", "COMMITTED")
    }
