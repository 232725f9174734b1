"""Absorbed dose: kernels, engines, voxel and sphere S values, credible maps, dose-volume histograms."""

from tdt_core.dosimetry.absorbed import absorbed_dose
from tdt_core.dosimetry.credible import CredibleDose, credible_dose
from tdt_core.dosimetry.density import MATERIALS
from tdt_core.dosimetry.dvh import DoseVolume, dvh, equivalent_uniform_dose
from tdt_core.dosimetry.engines import DoseEngine, EngineSetting, build_engine, engines, register_engine
from tdt_core.dosimetry.s_values import point_kernels, sphere_s_value, voxel_s_values
from tdt_core.dosimetry.voxel_bands import Response, VoxelBands

__all__ = [
    "MATERIALS",
    "CredibleDose",
    "DoseEngine",
    "DoseVolume",
    "EngineSetting",
    "Response",
    "VoxelBands",
    "absorbed_dose",
    "build_engine",
    "credible_dose",
    "dvh",
    "engines",
    "equivalent_uniform_dose",
    "point_kernels",
    "register_engine",
    "sphere_s_value",
    "voxel_s_values",
]
