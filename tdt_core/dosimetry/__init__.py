"""Absorbed dose: kernels, engines, voxel and sphere S values, credible maps, dose-volume histograms."""

from tdt_core.dosimetry.absorbed import absorbed_dose
from tdt_core.dosimetry.density import MATERIALS
from tdt_core.dosimetry.engines import DoseEngine, EngineSetting, build_engine, engines, register_engine

__all__ = [
    "MATERIALS",
    "DoseEngine",
    "EngineSetting",
    "absorbed_dose",
    "build_engine",
    "engines",
    "register_engine",
]
