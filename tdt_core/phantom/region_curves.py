"""The reference patient without images: true activity of every region over time, for tests of kinetics alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tdt_core.imaging.regions import region_named, with_volume
from tdt_core.phantom.activity import Curves, curves, shares
from tdt_core.phantom.anatomy import tissues
from tdt_core.phantom.chain import half_life_h
from tdt_core.phantom.patient import ReferencePatient
from tdt_core.twin import Administration, Region

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RegionCurves:
    """Truth of one therapy.

    regions (r,) with their true volume and mass, `rest` last; `curves` by structure; `columns` region -> its structures.
    """

    administration: Administration
    regions: tuple[Region, ...]
    curves: Curves
    columns: Mapping[str, tuple[int, ...]]

    def activity(self, times_h: FloatArray) -> FloatArray:
        """(t,) hours after the administration -> (regions, t) MBq."""
        at = self.curves.activity(np.asarray(times_h, dtype=float))
        return np.stack([at[:, self.columns[r.name]].sum(axis=1) for r in self.regions])

    def time_integrated_activity(self) -> FloatArray:
        """(regions,) MBq h."""
        integrals = self.curves.integral()
        return np.array([integrals[list(self.columns[r.name])].sum() for r in self.regions])


def region_curves(patient: ReferencePatient, cycle: int = 1) -> RegionCurves:
    """Regions of a therapy as a clinic would segment them without error, and the remainder of the field of view."""
    run = patient.kinetics(cycle)
    structures = patient.anatomy.structures()
    labels = patient.anatomy.with_lesions(run.physiology.volumes_ml)
    count = np.bincount(labels.ravel(), minlength=len(structures)).astype(float)
    count[0] = 0.0  # air
    volumes = count * patient.anatomy.grid.voxel_ml
    medulla = {k: run.physiology.at("kidney.medulla_ratio", k) for k in run.parameters.kidneys}
    share = shares(run.parameters, patient.body, structures, volumes, medulla)
    bladder = next((s.code for s in structures if s.name == "bladder" and volumes[s.code] > 0), None)
    given = run.administration
    found = curves(run.course, share, bladder, half_life_h(given.nuclide), given.net_activity_mbq)
    columns = {name: tuple(s.code for s in structures if s.region == name) for name in patient.anatomy.regions()}
    taken = {code for codes in columns.values() for code in codes}
    columns["rest"] = tuple(s.code for s in structures if s.code not in taken and s.name != "air")
    density = np.array([tissues()[s.tissue].density_g_cm3 for s in structures])
    regions = []
    for name, codes in columns.items():
        volume, mass = float(volumes[list(codes)].sum()), float((volumes * density)[list(codes)].sum())
        if volume > 0:
            regions.append(with_volume(region_named(name), volume, mass, 0.0))
    return RegionCurves(given, tuple(regions), found, columns)
