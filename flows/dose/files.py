"""The files of a dosimetry, written whole or not at all: into a folder beside the target, then renamed.

dose.zarr                          absorbed dose, SD, BED, time-integrated activity, CT and regions on one grid
dose.nii.gz dose_sd.nii.gz bed.nii.gz
dose.dcm bed.dcm                   RTDOSE, PHYSICAL and EFFECTIVE
dose_sd.dcm                        Parametric Map, Gy
regions.dcm                        SEG
regions.csv dose.json page.html    tables, everything but the maps, and a page with pictures
"""

from __future__ import annotations

import json
import shutil
import uuid
from datetime import date
from pathlib import Path

import numpy as np
import xarray as xr

from flows import progress
from flows.dose.calculate import Dosimetry
from flows.dose.page import render
from flows.dose.tables import Row, curve_rows, document, region_csv, result_id
from storage.atomic import disk_errors, publish_folder
from storage.dicom.write_common import RESEARCH_USE, DicomPatient
from storage.exports import ExportReference, export_maps
from storage.posterior_files import write_dose
from tdt_core.errors import UsageError


def target_of(folder: Path, out: Path | None) -> Path:
    """Where the files go: `out`, else `<name>-dose` beside the folder. It must be new or empty, and not in the folder."""
    target = folder.with_name(f"{folder.name}-dose") if out is None else out
    if target == folder or folder in target.parents:
        raise UsageError(
            "an output folder inside the input folder",
            expected="another place: the input is only read",
            remedy="give --out a folder outside",
            kind="dose.out",
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(
            "the output folder is not empty",
            expected="a new or empty folder: nothing is overwritten",
            remedy="give --out another folder, or move the old result away",
            kind="dose.out",
        )
    return target


def dataset(found: Dosimetry) -> xr.Dataset:
    """The maps with units and the grid's place. `rest` has no label, as in a twin's `dose.zarr`."""
    images = found.images
    labels = images.labels.labels
    units = {"dose_mean_gy": "Gy", "dose_sd_gy": "Gy", "bed_mean_gy": "Gy", "tia_mbq_h": "MBq h", "ct_hu": "HU", "label": "1"}
    maps = {
        "dose_mean_gy": found.dose_gy,
        "dose_sd_gy": found.sd_gy,
        "bed_mean_gy": found.bed_gy,
        "tia_mbq_h": found.tia_mbq_h,
        "ct_hu": np.rint(images.ct_hu.array).astype(np.int16),
        "label": np.where(labels == len(images.regions), 0, labels).astype(np.int16),
    }
    return xr.Dataset(
        {name: (("z", "y", "x"), array, {"units": units[name]}) for name, array in maps.items()},
        attrs={
            "affine": [float(x) for x in images.affine.ravel()],
            "regions": json.dumps([r.name for r in images.regions if r.name != "rest"]),
            "frame_of_reference": images.frame_of_reference,
            "dose_is": f"engine {found.options.engine}",
        },
    )


def write(found: Dosimetry, target: Path, *, identified: bool = False) -> tuple[Row, list[str]]:
    """Write all files into `target`; returns the document and the file names.

    Parameters
    ----------
    identified : DICOM files name the patient and stand in the original frame of reference, so that the clinic's own software
        lays them over its CT. Otherwise they carry a pseudonym whose key is thrown away.
    """
    told, maps = document(found), dataset(found)
    staged = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    with disk_errors("writing the dose"):
        target.parent.mkdir(parents=True, exist_ok=True)
        staged.mkdir(mode=0o700)
        try:
            with progress.step("files"):
                write_dose(staged / "dose.zarr", maps)
                export_maps(staged, maps, reference(found, identified=identified), found.images.regions)
                (staged / "regions.csv").write_text(region_csv(told), encoding="utf-8")
                (staged / "dose.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
                (staged / "page.html").write_text(render(told, curve_rows(found), maps), encoding="utf-8")
            if not publish_folder(staged, target):
                raise UsageError(
                    "the output folder was filled meanwhile",
                    expected="an empty one",
                    remedy="give --out another folder",
                    kind="dose.out",
                )
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
    return told, sorted(p.name for p in target.iterdir())


def reference(found: Dosimetry, *, identified: bool) -> ExportReference:
    """What the DICOM files say that they are of."""
    taken = found.taken
    frame = found.images.frame_of_reference
    identity = taken.entry.identity
    person = None
    if identified:
        frame = taken.entry.uids.get(frame, frame)
        person = DicomPatient(
            identity["patient_id"],
            identity.get("name", ""),
            taken.patient.sex,
            date.fromisoformat(identity["birth_date"]),
            comments=RESEARCH_USE,
        )
    return ExportReference(
        taken.pid,
        result_id(found),
        taken.cycle.number,
        frame,
        taken.therapy.time_h,
        taken.patient.sex,
        patient=person,
        of="Dosimetry",
    )
