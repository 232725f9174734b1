"""Photons: Woodcock tracking through the voxels; photoelectric, Compton, Rayleigh, pair production.

A photoelectron carries all the photon's energy: the K edges of these media lie below 5 keV (iron in marrow apart, 7 keV), so
fluorescence is local. The recoil electron of Compton scattering carries the whole loss; binding acts through the scattering
function only. Annihilation photons start where the pair was made.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tdt_core.dosimetry.montecarlo.electron import ELECTRON, PHOTON, push
from tdt_core.dosimetry.montecarlo.geometry import PHOTONS_OUT, Grid, at, between, place, score
from tdt_core.dosimetry.montecarlo.grid import ELECTRON_REST_KEV, LOWEST_KEV
from tdt_core.dosimetry.montecarlo.photons import HC_KEV_ANGSTROM
from tdt_core.dosimetry.montecarlo.random import State, exponential, isotropic, turned, uniform
from tdt_core.dosimetry.montecarlo.tables import COHERENT, INCOHERENT, MU, PHOTO, Tables
from tdt_core.dosimetry.units import FloatArray


@njit(cache=True, nogil=True, error_model="numpy")
def photoelectron_cosine(state: State, energy: float) -> float:
    """Cosine to the photon of a K photoelectron, Sauter's distribution (sampling as in the PENELOPE manual)."""
    gamma = 1.0 + energy / ELECTRON_REST_KEV
    beta = np.sqrt(energy * (energy + 2.0 * ELECTRON_REST_KEV)) / (energy + ELECTRON_REST_KEV)
    a = 1.0 / beta - 1.0
    b = 0.5 * beta * gamma * (gamma - 1.0) * (gamma - 2.0)
    highest = 2.0 * (1.0 / a + b)
    while True:
        r = uniform(state)
        t = 2.0 * a / ((a + 2.0) ** 2 - 4.0 * r) * (2.0 * r + (a + 2.0) * np.sqrt(r))
        if uniform(state) * highest <= (2.0 - t) * (1.0 / (a + t) + b):
            return float(1.0 - t)


@njit(cache=True, nogil=True, error_model="numpy")
def compton(state: State, physics: Tables, medium: int, energy: float) -> tuple[float, float]:
    """Energy of the scattered photon over that of the photon, and its cosine."""
    kappa = energy / ELECTRON_REST_KEV
    least = 1.0 / (1.0 + 2.0 * kappa)
    first, second = -np.log(least), (1.0 - least * least) / 2.0
    while True:
        if uniform(state) * (first + second) < first:
            ratio = np.exp(-first * uniform(state))
        else:
            ratio = np.sqrt(least * least + (1.0 - least * least) * uniform(state))
        t = (1.0 - ratio) / (kappa * ratio)
        if uniform(state) > 1.0 - ratio * t * (2.0 - t) / (1.0 + ratio * ratio):
            continue
        x = np.sqrt(t / 2.0) * energy / HC_KEV_ANGSTROM
        if uniform(state) <= 1.0 - np.exp(-((x / physics.binding[medium, 0]) ** physics.binding[medium, 1])):
            return ratio, 1.0 - t


@njit(cache=True, nogil=True, error_model="numpy")
def rayleigh(state: State, physics: Tables, medium: int, energy: float) -> float:
    """Cosine of coherent scattering."""
    most = (energy / HC_KEV_ANGSTROM) ** 2
    x2, form = physics.x2[medium], physics.form[medium]
    n = np.searchsorted(x2, most) - 1
    whole = form[n] + (most - x2[n]) / (x2[n + 1] - x2[n]) * (form[n + 1] - form[n])
    while True:
        target = uniform(state) * whole
        n = np.searchsorted(form, target, side="right") - 1
        s = x2[n] + (target - form[n]) / (form[n + 1] - form[n]) * (x2[n + 1] - x2[n])
        cosine = max(-1.0, 1.0 - 2.0 * s / most)
        if 2.0 * uniform(state) <= 1.0 + cosine * cosine:
            return cosine


@njit(cache=True, nogil=True, error_model="numpy")
def photon(
    state: State, physics: Tables, grid: Grid, tally: FloatArray, shells: FloatArray, account: FloatArray,
    stack: FloatArray, top: int, energy: float, z: float, y: float, x: float, w: float, v: float, u: float,
) -> int:  # fmt: skip
    """Follow one photon to its end; what it sets free goes on the stack, whose new top is returned."""
    nz, ny, nx = grid.nz, grid.ny, grid.nx
    depth, height, width = nz * grid.ez, ny * grid.ey, nx * grid.ex
    per_z, per_y, per_x = 1.0 / grid.ez, 1.0 / grid.ey, 1.0 / grid.ex
    index, fraction = place(energy)
    densest = between(grid.majorant, index, fraction)
    while True:
        length = exponential(state) / densest
        z, y, x = z + w * length, y + v * length, x + u * length
        if z < 0.0 or y < 0.0 or x < 0.0 or z >= depth or y >= height or x >= width:
            account[PHOTONS_OUT] += energy
            return top
        iz, iy, ix = min(int(z * per_z), nz - 1), min(int(y * per_y), ny - 1), min(int(x * per_x), nx - 1)
        voxel = (iz * ny + iy) * nx + ix
        medium = grid.material[voxel]
        mu = at(physics.rows, medium, index, fraction, MU) * grid.density[voxel]
        if uniform(state) * densest >= mu:
            continue
        r = uniform(state)
        if r < at(physics.rows, medium, index, fraction, PHOTO):
            cosine = photoelectron_cosine(state, energy)
            w, v, u = turned(state, w, v, u, cosine)
            return push(stack, top, ELECTRON, energy, z, y, x, w, v, u, iz, iy, ix)
        if r < at(physics.rows, medium, index, fraction, INCOHERENT):
            ratio, cosine = compton(state, physics, medium, energy)
            pw, pv, pu = turned(state, w, v, u, cosine)
            given = energy * (1.0 - ratio)
            if given > LOWEST_KEV:
                # momentum of the recoil electron, in units of the photon's
                ew, ev, eu = w - ratio * pw, v - ratio * pv, u - ratio * pu
                norm = 1.0 / np.sqrt(ew * ew + ev * ev + eu * eu)
                top = push(stack, top, ELECTRON, given, z, y, x, ew * norm, ev * norm, eu * norm, iz, iy, ix)
            else:
                score(grid, tally, shells, account, voxel, x, y, z, given)
            energy *= ratio
            w, v, u = pw, pv, pu
            if energy <= LOWEST_KEV:
                score(grid, tally, shells, account, voxel, x, y, z, energy)
                return top
            index, fraction = place(energy)
            densest = between(grid.majorant, index, fraction)
        elif r < at(physics.rows, medium, index, fraction, COHERENT):
            w, v, u = turned(state, w, v, u, rayleigh(state, physics, medium, energy))
        else:
            shared = energy - 2.0 * ELECTRON_REST_KEV
            if shared <= 0.0:
                continue  # the table's step at the threshold
            part = shared * uniform(state)
            top = push(stack, top, ELECTRON, part, z, y, x, w, v, u, iz, iy, ix)
            top = push(stack, top, ELECTRON, shared - part, z, y, x, w, v, u, iz, iy, ix)
            pu, pv, pw = isotropic(state)
            top = push(stack, top, PHOTON, ELECTRON_REST_KEV, z, y, x, pw, pv, pu, iz, iy, ix)
            return push(stack, top, PHOTON, ELECTRON_REST_KEV, z, y, x, -pw, -pv, -pu, iz, iy, ix)
