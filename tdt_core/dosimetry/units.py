"""Constants that turn decays and keV into joule and gray."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Array32 = npt.NDArray[np.float32]

JOULE_PER_KEV = 1.602176634e-16
"""Exact since the 2019 revision of the SI."""

DECAYS_PER_MBQ_H = 3.6e9
DECAYS_PER_MBQ_S = 1.0e6

JOULE_PER_MBQ_H_KEV = DECAYS_PER_MBQ_H * JOULE_PER_KEV
"""Energy in J of 1 MBq h at 1 keV per decay."""
