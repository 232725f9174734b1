"""Electrons: condensed history with a random hinge, steps that are measured in energy, hard collisions one by one.

A step is an amount of mean energy loss, not a length. The electron flies straight through the voxels, each with its own medium
and density, until a uniformly random share of that loss is spent; there it turns by the multiple scattering of the whole step,
at the energy and in the medium of that point, and flies the rest. Because the hinge is uniform, the mean deflection is right
also when the step crosses media, and nothing stops at voxel walls. Collisions above the cut and bremsstrahlung above 2 keV are
single events. Losses below the cut fluctuate with their first two moments. An electron that cannot reach a wall stops at once;
the photons that it would have made on its way are sampled from the thick-target spectrum.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tdt_core.dosimetry.montecarlo.elastic import ETA_NODES, K_OCTAVES, K_PER_OCTAVE, PLURAL, QUANTILES
from tdt_core.dosimetry.montecarlo.geometry import (
    ELECTRONS_OUT,
    Grid,
    at,
    between,
    clearance,
    place,
    score,
    score_along,
    to_wall,
)
from tdt_core.dosimetry.montecarlo.grid import ELECTRON_REST_KEV, LOWEST_KEV
from tdt_core.dosimetry.montecarlo.radiative import PHOTON_CUT_KEV
from tdt_core.dosimetry.montecarlo.random import State, exponential, isotropic, turned, uniform
from tdt_core.dosimetry.montecarlo.tables import (
    CSDA,
    ETA,
    FIRST,
    HARD,
    LOSS,
    PER_LOSS,
    RADIATIVE,
    SCREENING,
    STEP,
    STRAGGLING,
    THICK,
    Tables,
)
from tdt_core.dosimetry.units import FloatArray

PHOTON, ELECTRON = 0.0, 1.0
STACK_SIZE = 256
_ROOM = 32  # what one step and the photons of a stop may put on the stack

_LOWEST_K = 2.0**-K_OCTAVES


@njit(cache=True, nogil=True, error_model="numpy")
def push(
    stack: FloatArray, top: int, kind: float, energy: float,
    z: float, y: float, x: float, w: float, v: float, u: float, iz: int, iy: int, ix: int,
) -> int:  # fmt: skip
    """Put a particle on the stack."""
    row = stack[top]
    row[0], row[1] = kind, energy
    row[2], row[3], row[4] = z, y, x
    row[5], row[6], row[7] = w, v, u
    row[8], row[9], row[10] = iz, iy, ix
    return top + 1


@njit(cache=True, nogil=True, error_model="numpy")
def multiple_scattering(
    state: State, physics: Tables, medium: int, index: int, fraction: float, k: float, w: float, v: float, u: float
) -> tuple[float, float, float]:
    """Direction after a path of `k` transport mean free paths."""
    collisions = k / at(physics.rows, medium, index, fraction, FIRST)
    if collisions < PLURAL:
        eta = at(physics.rows, medium, index, fraction, SCREENING)
        product, limit = uniform(state), np.exp(-collisions)
        while product > limit:
            r = uniform(state)
            w, v, u = turned(state, w, v, u, 1.0 - 2.0 * eta * r / (1.0 + eta - r))
            product *= uniform(state)
        return w, v, u
    scale = 1.0
    if k < _LOWEST_K:
        scale, k = k / _LOWEST_K, _LOWEST_K
    position = min(k, 0.999999) * 2.0**K_OCTAVES
    octave = int(np.float32(position).view(np.int32) >> 23) - 127
    inside = (position / (1 << octave) - 1.0) * K_PER_OCTAVE
    j = int(inside)
    if uniform(state) < inside - j:
        j += 1
    j += octave * K_PER_OCTAVE
    node = at(physics.rows, medium, index, fraction, ETA)
    i = int(node)
    if uniform(state) < node - i and i + 1 < ETA_NODES:
        i += 1
    a = physics.gs_a[i, j]
    q = uniform(state) * (QUANTILES - 1)
    n = int(q)
    t = between(physics.gs_t[i, j], n, q - n)
    return turned(state, w, v, u, 1.0 - 2.0 * min(1.0, scale * a * t / (1.0 + a - t)))


@njit(cache=True, nogil=True, error_model="numpy")
def fluctuating(state: State, mean: float, variance: float, most: float) -> float:
    """A loss with the given mean and variance, never negative; at most `most`."""
    if mean * mean > 9.0 * variance:
        spread = 2.0 * np.sqrt(variance)
        loss = mean + spread * (uniform(state) + uniform(state) + uniform(state) - 1.5)
    elif mean * mean > 3.0 * variance:
        loss = mean + np.sqrt(3.0 * variance) * (2.0 * uniform(state) - 1.0)
    else:
        nothing = (3.0 * variance - mean * mean) / (3.0 * variance + 3.0 * mean * mean)
        r = uniform(state)
        loss = 0.0 if r < nothing else 1.5 * (variance + mean * mean) / mean * (r - nothing) / (1.0 - nothing)
    return min(loss, most)


@njit(cache=True, nogil=True, error_model="numpy")
def quantile_energy(quantiles: FloatArray, r: float, energy: float) -> float:
    """Photon energy at probability r, see `radiative`."""
    q = r * (quantiles.size - 1)
    n = min(int(q), quantiles.size - 2)
    return PHOTON_CUT_KEV * (energy / PHOTON_CUT_KEV) ** between(quantiles, n, q - n)


@njit(cache=True, nogil=True, error_model="numpy")
def stop(
    state: State, physics: Tables, grid: Grid, tally: FloatArray, shells: FloatArray, account: FloatArray, stack: FloatArray,
    top: int, energy: float, z: float, y: float, x: float, iz: int, iy: int, ix: int,
) -> int:  # fmt: skip
    """All that is left of an electron, here: energy to the voxel, and the photons of its last path to the stack."""
    voxel = (iz * grid.ny + iy) * grid.nx + ix
    if energy > PHOTON_CUT_KEV:
        index, fraction = place(energy)
        expected = at(physics.rows, grid.material[voxel], index, fraction, THICK)
        while uniform(state) < expected:
            expected -= 1.0
            k = quantile_energy(physics.thick_k[index + 1], uniform(state), energy)
            if k >= energy:
                break
            u, v, w = isotropic(state)
            top = push(stack, top, PHOTON, k, z, y, x, w, v, u, iz, iy, ix)
            energy -= k
    score(grid, tally, shells, account, voxel, x, y, z, energy)
    return top


@njit(cache=True, nogil=True, error_model="numpy")
def moller(state: State, energy: float, cut: float) -> float:
    """Energy of the slower electron after a collision, above `cut` <= energy / 2."""
    tau = energy / ELECTRON_REST_KEV
    c2, c3 = (tau / (tau + 1.0)) ** 2, (2.0 * tau + 1.0) / (tau + 1.0) ** 2
    highest = max(1.0, 2.0 + c2 / 4.0 - c3)
    while True:
        w = cut / (1.0 - uniform(state) * (1.0 - 2.0 * cut / energy))
        s = w / (energy - w)
        if uniform(state) * highest <= 1.0 + s * s + c2 * (w / energy) ** 2 - c3 * s:
            return w


@njit(cache=True, nogil=True, error_model="numpy")
def electron(
    state: State, physics: Tables, grid: Grid, tally: FloatArray, shells: FloatArray, account: FloatArray,
    stack: FloatArray, top: int, energy: float,
    z: float, y: float, x: float, w: float, v: float, u: float, iz: int, iy: int, ix: int,
) -> int:  # fmt: skip
    """Follow one electron to its end; what it sets free goes on the stack, whose new top is returned."""
    ny, nx = grid.ny, grid.nx
    voxel = (iz * ny + iy) * nx + ix
    until_event = -1.0  # drawn once the electron is known to move
    while True:
        medium = grid.material[voxel]
        index, fraction = place(energy)
        reach = at(physics.rows, medium, index, fraction, CSDA)
        near = grid.reject_cm if grid.reject_cm > 0.0 else clearance(grid, iz, iy, ix, z, y, x)
        if energy <= LOWEST_KEV or reach < near * grid.density[voxel] or top > STACK_SIZE - _ROOM:
            return stop(state, physics, grid, tally, shells, account, stack, top, energy, z, y, x, iz, iy, ix)
        step = at(physics.rows, medium, index, fraction, STEP)
        after, after_fraction = place(max(energy - step, LOWEST_KEV))
        events = at(physics.rows, medium, index, fraction, HARD) - at(physics.rows, medium, after, after_fraction, HARD)
        if until_event < 0.0:
            until_event = exponential(state)
        event = until_event < events
        if event:
            step *= until_event / events
        else:
            until_event -= events
        loss = fluctuating(state, step, step * at(physics.rows, medium, index, fraction, STRAGGLING), energy)
        factor = loss / step
        hinge = uniform(state)
        left = step * hinge
        for half in range(2):
            middle = max(energy - (step * hinge / 2.0 if half == 0 else step * (1.0 + hinge) / 2.0), LOWEST_KEV)
            index, fraction = place(middle)
            while True:
                voxel = (iz * ny + iy) * nx + ix
                per_cm = at(physics.rows, grid.material[voxel], index, fraction, LOSS) * grid.density[voxel]
                dz, dy, dx = to_wall(grid.ez, iz, z, w), to_wall(grid.ey, iy, y, v), to_wall(grid.ex, ix, x, u)
                wall = min(dz, min(dy, dx))
                if left <= wall * per_cm:
                    length = left / per_cm if per_cm > 0.0 else 0.0
                    score_along(state, grid, tally, shells, account, voxel, x, y, z, u, v, w, length, left * factor)
                    z, y, x = z + w * length, y + v * length, x + u * length
                    break
                spent = wall * per_cm
                score_along(state, grid, tally, shells, account, voxel, x, y, z, u, v, w, wall, spent * factor)
                left -= spent
                z, y, x = z + w * wall, y + v * wall, x + u * wall
                if wall == dz:
                    iz += 1 if w > 0.0 else -1
                    z = (iz if w > 0.0 else iz + 1) * grid.ez
                    outside = iz < 0 or iz >= grid.nz
                elif wall == dy:
                    iy += 1 if v > 0.0 else -1
                    y = (iy if v > 0.0 else iy + 1) * grid.ey
                    outside = iy < 0 or iy >= ny
                else:
                    ix += 1 if u > 0.0 else -1
                    x = (ix if u > 0.0 else ix + 1) * grid.ex
                    outside = ix < 0 or ix >= nx
                if outside:
                    rest = left if half == 1 else left + step * (1.0 - hinge)
                    account[ELECTRONS_OUT] += energy - loss + rest * factor
                    return top
            if half == 0:
                medium = grid.material[voxel]
                index, fraction = place(max(energy - step * hinge, LOWEST_KEV))
                k = step * at(physics.rows, medium, index, fraction, PER_LOSS)
                w, v, u = multiple_scattering(state, physics, medium, index, fraction, k, w, v, u)
                left = step * (1.0 - hinge)
        energy -= loss
        if event:
            until_event = -1.0
            index, fraction = place(energy)
            medium = grid.material[voxel]
            if uniform(state) < at(physics.rows, medium, index, fraction, RADIATIVE):
                if energy > PHOTON_CUT_KEV:
                    k = min(quantile_energy(physics.thin_k[index + 1], uniform(state), energy), energy)
                    beta = np.sqrt(energy * (energy + 2.0 * ELECTRON_REST_KEV)) / (energy + ELECTRON_REST_KEV)
                    r = 2.0 * uniform(state) - 1.0
                    pw, pv, pu = turned(state, w, v, u, (r + beta) / (1.0 + r * beta))
                    top = push(stack, top, PHOTON, k, z, y, x, pw, pv, pu, iz, iy, ix)
                    energy -= k
            elif energy > 2.0 * physics.cut_kev:
                freed = moller(state, energy, physics.cut_kev)
                rest = energy - freed
                sum_ = energy + 2.0 * ELECTRON_REST_KEV
                cosine = np.sqrt(freed * sum_ / (energy * (freed + 2.0 * ELECTRON_REST_KEV)))
                sw, sv, su = turned(state, w, v, u, cosine)
                top = push(stack, top, ELECTRON, freed, z, y, x, sw, sv, su, iz, iy, ix)
                cosine = np.sqrt(rest * sum_ / (energy * (rest + 2.0 * ELECTRON_REST_KEV)))
                w, v, u = turned(state, w, v, u, cosine)
                energy = rest
