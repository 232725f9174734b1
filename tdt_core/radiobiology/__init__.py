"""Response of tissue to absorbed dose and its rate."""

from tdt_core.radiobiology.dose_rate import (
    bed,
    bed_high_let,
    dose_of_bed,
    eqd2,
    lea_catcheside,
    lea_catcheside_components,
    lea_catcheside_constant,
    lea_catcheside_sampled,
    quadratic_dose,
    repair_rate,
)
from tdt_core.radiobiology.equivalent_uniform import generalised_eud, survival_eubed

__all__ = [
    "bed",
    "bed_high_let",
    "dose_of_bed",
    "eqd2",
    "generalised_eud",
    "lea_catcheside",
    "lea_catcheside_components",
    "lea_catcheside_constant",
    "lea_catcheside_sampled",
    "quadratic_dose",
    "repair_rate",
    "survival_eubed",
]
