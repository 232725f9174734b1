"""One block of decays: sampled over the voxels, each followed until nothing moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from tdt_core.dosimetry.montecarlo.electron import ELECTRON, PHOTON, STACK_SIZE, electron, push
from tdt_core.dosimetry.montecarlo.geometry import ELECTRONS_OUT, EMITTED, PHOTONS_OUT, SUNK, Grid, score
from tdt_core.dosimetry.montecarlo.photon import photon
from tdt_core.dosimetry.montecarlo.random import State, isotropic, seeded, uniform
from tdt_core.dosimetry.montecarlo.source import Source
from tdt_core.dosimetry.montecarlo.tables import Tables
from tdt_core.dosimetry.units import FloatArray


@njit(cache=True, nogil=True, error_model="numpy")
def drawn(state: State, energies: FloatArray, keep: FloatArray, alias: npt.NDArray[Any]) -> float:
    """An energy from an alias table."""
    r = uniform(state) * energies.size
    column = int(r)
    return energies[column] if r - column < keep[column] else energies[alias[column]]


@njit(cache=True, nogil=True, error_model="numpy")
def decay(
    state: State, physics: Tables, grid: Grid, source: Source, tally: FloatArray, shells: FloatArray,
    account: FloatArray, stack: FloatArray, iz: int, iy: int, ix: int, at_centre: bool,
) -> None:  # fmt: skip
    """One decay in a voxel: everything that it emits, followed to the end."""
    ny, nx = grid.ny, grid.nx
    if at_centre:
        z, y, x = grid.cz, grid.cy, grid.cx
    else:
        z = (iz + uniform(state)) * grid.ez
        y = (iy + uniform(state)) * grid.ey
        x = (ix + uniform(state)) * grid.ex
    if source.local_kev > 0.0:
        account[EMITTED] += source.local_kev
        score(grid, tally, shells, account, (iz * ny + iy) * nx + ix, x, y, z, source.local_kev)
    top = 0
    for _ in range(int(source.electrons + uniform(state))):
        energy = drawn(state, source.electron_kev, source.electron_keep, source.electron_alias)
        u, v, w = isotropic(state)
        account[EMITTED] += energy
        top = follow(
            state, physics, grid, tally, shells, account, stack,
            push(stack, top, ELECTRON, energy, z, y, x, w, v, u, iz, iy, ix),
        )  # fmt: skip
    for _ in range(int(source.photons + uniform(state))):
        energy = drawn(state, source.photon_kev, source.photon_keep, source.photon_alias)
        u, v, w = isotropic(state)
        account[EMITTED] += energy
        top = follow(
            state, physics, grid, tally, shells, account, stack,
            push(stack, top, PHOTON, energy, z, y, x, w, v, u, iz, iy, ix),
        )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def follow(
    state: State, physics: Tables, grid: Grid, tally: FloatArray, shells: FloatArray, account: FloatArray,
    stack: FloatArray, top: int,
) -> int:  # fmt: skip
    """Follow what is on the stack until it is empty."""
    while top > 0:
        top -= 1
        row = stack[top]
        kind, energy = row[0], row[1]
        z, y, x, w, v, u = row[2], row[3], row[4], row[5], row[6], row[7]
        if kind == ELECTRON:
            iz, iy, ix = int(row[8]), int(row[9]), int(row[10])
            top = electron(state, physics, grid, tally, shells, account, stack, top, energy, z, y, x, w, v, u, iz, iy, ix)
        else:
            top = photon(state, physics, grid, tally, shells, account, stack, top, energy, z, y, x, w, v, u)
    return 0


@njit(cache=True, nogil=True, error_model="numpy")
def lost(account: FloatArray) -> float:
    """Energy so far that left the grid or went into its sinks."""
    return account[PHOTONS_OUT] + account[ELECTRONS_OUT] + account[SUNK]


@njit(cache=True, nogil=True, error_model="numpy")
def block(
    seed: Any, number: Any, decays: float, probability: FloatArray, physics: Tables, grid: Grid, source: Source,
    tally: FloatArray, shells: FloatArray, account: FloatArray, escaped: FloatArray, followed: FloatArray, at_centre: bool,
) -> int:  # fmt: skip
    """Run one block of about `decays` decays spread over the voxels; scores are added to the arrays.

    The number in each voxel is its expectation rounded up or down by one random offset for the block (systematic sampling).
    `probability` is (voxels,) with sum 1. `escaped` and `followed`, if not empty, take the energy lost to the grid and the
    number of decays by voxel of origin. Returns the number of decays.
    """
    state = seeded(seed, number)
    stack = np.zeros((STACK_SIZE, 11))
    offset = uniform(state)
    expected, done = 0.0, 0
    for iz in range(grid.nz):
        for iy in range(grid.ny):
            for ix in range(grid.nx):
                share = probability[(iz * grid.ny + iy) * grid.nx + ix]
                if share == 0.0:
                    continue
                expected += share * decays
                wanted = int(expected + offset)
                before, first = lost(account), done
                while done < wanted:
                    decay(state, physics, grid, source, tally, shells, account, stack, iz, iy, ix, at_centre)
                    done += 1
                if escaped.size:
                    voxel = (iz * grid.ny + iy) * grid.nx + ix
                    escaped[voxel] += lost(account) - before
                    followed[voxel] += done - first
    return done
