"""Absorbed dose at organ level: S values of ellipsoids, parts of the kidney, red marrow, comparison with the voxel level."""

from tdt_core.dosimetry.organ.bodies import Ellipsoid, ellipsoid, ellipsoids_of_labels
from tdt_core.dosimetry.organ.kidney import activity_shares, kidney_s_values
from tdt_core.dosimetry.organ.level import organ_level
from tdt_core.dosimetry.organ.marrow import (
    MarrowDose,
    blood_draws,
    blood_time_integral,
    marrow_dose,
    marrow_to_blood_ratio,
)
from tdt_core.dosimetry.organ.s_values import (
    OrganSValues,
    organ_s_values,
    remainder_s_value,
    scaled_s_value,
    self_s_value,
)

__all__ = [
    "Ellipsoid",
    "MarrowDose",
    "OrganSValues",
    "activity_shares",
    "blood_draws",
    "blood_time_integral",
    "ellipsoid",
    "ellipsoids_of_labels",
    "kidney_s_values",
    "marrow_dose",
    "marrow_to_blood_ratio",
    "organ_level",
    "organ_s_values",
    "remainder_s_value",
    "scaled_s_value",
    "self_s_value",
]
