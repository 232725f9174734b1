"""Linear attenuation (1/mm) at the photopeak: of the phantom's tissues for the truth, of the CT for the reconstruction.

Total cross sections (narrow beam, coherent scattering included) of `material_composition.csv` through xraydb's Elam tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import xraydb

from tdt_core.dosimetry.density import MATERIALS
from tdt_core.imaging.ct_calibration import packaged_calibration
from tdt_core.parameters import packaged_csv
from tdt_core.phantom.anatomy import Anatomy, Structure, UInt8

Float32 = npt.NDArray[np.float32]
BODY_PER_MM = 0.002
"""Above it a voxel counts as body: between air and lung at any energy that is imaged."""
MEDIUM_OF_TISSUE = {
    "air": "air",
    "adipose": "adipose",
    "lung": "lung",
    "bone": "cortical_bone",
    "marrow": "red_marrow",
    "urine": "water",
    "lesion_bone": "red_marrow",
}
"""Composition of a tissue; soft tissue where absent. Density decides more than composition at these energies."""


@cache
def mass_attenuation_mm2_g(material: str, energy_kev: float) -> float:
    """Total mass attenuation coefficient of a medium of `MATERIALS`, mm2/g."""
    parts = [(r["name"], float(r["value"])) for r in packaged_csv("material_composition.csv") if r["material"] == material]
    total = sum(w * float(xraydb.mu_elam(e, energy_kev * 1000)) for e, w in parts if e != "mean_excitation_energy")
    return total * 100.0


def of_tissues(anatomy: Anatomy, labels: UInt8, structures: Sequence[Structure], energy_kev: float) -> Float32:
    """True attenuation of every half voxel: its density times its tissue's coefficient."""
    per_density = [mass_attenuation_mm2_g(MEDIUM_OF_TISSUE.get(s.tissue, "soft_tissue"), energy_kev) / 1000 for s in structures]
    return np.asarray(anatomy.density(labels) * np.array(per_density, np.float32)[labels], np.float32)


def of_ct(hu: npt.NDArray[np.integer], energy_kev: float) -> Float32:
    """What a scanner makes of its CT: the packaged CT calibration's density and medium of every voxel, in 1/mm."""
    used = packaged_calibration()
    coefficient = np.array([mass_attenuation_mm2_g(m, energy_kev) / 1000 for m in MATERIALS], np.float32)
    values = np.asarray(hu, np.float32)
    return np.asarray(used.density(values) * coefficient[used.material(values)], np.float32)
