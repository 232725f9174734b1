"""The uniform dose that would do as much as a distribution over equal voxels.

Generalised EUD: (mean D^a)^(1/a) (Niemierko 1999); a = 1 the mean, a -> inf the maximum, a -> -inf the minimum. By survival
(Niemierko 1997, with BED for the linear-quadratic model): EUBED = -ln(mean exp(-alpha BED)) / alpha.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tdt_core.errors import InputError

FloatArray = npt.NDArray[np.float64]


def generalised_eud(doses_gy: npt.NDArray[np.floating], a: float) -> FloatArray:
    """(voxels, ...) doses, Gy -> (...) generalised EUD, Gy. Raises InputError unless `a` is finite and not 0."""
    if a == 0 or not np.isfinite(a):
        raise InputError(f"EUD exponent {a}", expected="finite and not 0", kind="input.eud")
    doses = np.asarray(doses_gy, dtype=float)
    most = doses.max(axis=0) if a > 0 else doses.min(axis=0)  # the term that rules the sum; keeps powers within range
    unit = np.where(most > 0, most, 1.0)
    with np.errstate(over="ignore"):
        powers = (np.where(most > 0, doses, 1.0) / unit) ** a
    return np.asarray(np.where(most > 0, unit * powers.mean(axis=0) ** (1.0 / a), 0.0))


def survival_eubed(bed_gy: npt.NDArray[np.floating], alpha_per_gy: float) -> FloatArray:
    """(voxels, ...) BED, Gy -> (...) uniform BED of equal survival, Gy. Raises InputError unless alpha is positive."""
    if not alpha_per_gy > 0:
        raise InputError(f"alpha of {alpha_per_gy} 1/Gy", expected="> 0", kind="input.eud")
    values = np.asarray(bed_gy, dtype=float)
    least = values.min(axis=0)
    return np.asarray(least - np.log(np.exp(-alpha_per_gy * (values - least)).mean(axis=0)) / alpha_per_gy)
