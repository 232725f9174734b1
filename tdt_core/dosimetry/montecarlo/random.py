"""Random numbers of one block of histories: xoroshiro128+, seeded by splitmix64 from (seed, block).

Each block owns its stream, so results do not depend on which thread runs it. Blackman and Vigna, ACM TOMS 47 (2021) 36.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

State = npt.NDArray[np.uint64]


@njit(cache=True, nogil=True, error_model="numpy")
def _splitmix(x: Any) -> Any:
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True, nogil=True, error_model="numpy")
def seeded(seed: Any, block: Any) -> State:
    """(2,) state of one block's stream; `seed` and `block` are uint64."""
    state = np.empty(2, np.uint64)
    state[0] = _splitmix(_splitmix(seed) ^ (block * np.uint64(0xD1342543DE82EF95)))
    state[1] = _splitmix(state[0] + np.uint64(0x632BE59BD9B4E019))
    for _ in range(8):
        uniform(state)
    return state


@njit(cache=True, nogil=True, error_model="numpy")
def uniform(state: State) -> float:
    """A number in [0, 1) with 53 bits."""
    a, b = state[0], state[1]
    out = a + b
    b ^= a
    state[0] = ((a << np.uint64(24)) | (a >> np.uint64(40))) ^ b ^ (b << np.uint64(16))
    state[1] = (b << np.uint64(37)) | (b >> np.uint64(27))
    return float(out >> np.uint64(11)) * 1.1102230246251565e-16


@njit(cache=True, nogil=True, error_model="numpy")
def exponential(state: State) -> float:
    """A free path of mean 1."""
    return float(-np.log(1.0 - uniform(state)))


@njit(cache=True, nogil=True, error_model="numpy")
def isotropic(state: State) -> tuple[float, float, float]:
    """A direction, uniform on the sphere."""
    while True:
        a, b = 2.0 * uniform(state) - 1.0, 2.0 * uniform(state) - 1.0
        r2 = a * a + b * b
        if r2 < 1.0:  # Marsaglia 1972
            scale = 2.0 * np.sqrt(1.0 - r2)
            return a * scale, b * scale, 1.0 - 2.0 * r2


@njit(cache=True, nogil=True, error_model="numpy")
def turned(state: State, u: float, v: float, w: float, cosine: float) -> tuple[float, float, float]:
    """A direction at the given cosine to (u, v, w), at a random azimuth."""
    sine = np.sqrt(max(0.0, 1.0 - cosine * cosine))
    # a point in the unit disc gives the azimuth without trigonometry
    while True:
        a, b = 2.0 * uniform(state) - 1.0, 2.0 * uniform(state) - 1.0
        r2 = a * a + b * b
        if 1e-12 < r2 <= 1.0:
            break
    scale = sine / np.sqrt(r2)
    a, b = a * scale, b * scale
    # orthonormal basis without branches but one sign (Duff et al. 2017)
    sign = 1.0 if w >= 0.0 else -1.0
    p = -1.0 / (sign + w)
    q = u * v * p
    x = cosine * u + a * (1.0 + sign * u * u * p) + b * q
    y = cosine * v + a * sign * q + b * (sign + v * v * p)
    z = cosine * w - a * sign * u - b * v
    norm = 1.0 / np.sqrt(x * x + y * y + z * z)
    return x * norm, y * norm, z * norm
