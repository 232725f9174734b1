"""Blocks of decays over cores, merged in order: mean energy per voxel, its statistical uncertainty and the energy balance.

Each block is an independent sample of the whole source with its own random stream, so the result depends on the seed and on the
number of decays and blocks, never on the number of threads. The uncertainty of a voxel is the scatter of its blocks.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.dosimetry.montecarlo.geometry import ACCOUNTS, ELECTRONS_OUT, EMITTED, PHOTONS_OUT, Grid
from tdt_core.dosimetry.montecarlo.history import block
from tdt_core.dosimetry.montecarlo.source import Source
from tdt_core.dosimetry.montecarlo.tables import Tables
from tdt_core.dosimetry.units import FloatArray
from tdt_core.errors import ConservationError, ModelError

BLOCKS = 25
BALANCE_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Scored:
    """What a run found, per decay.

    Attributes
    ----------
    energy_kev, sd_kev : (z, y, x) mean energy deposited, and standard deviation of that mean.
    shells_kev, shells_sd_kev : (shells + 1,) the same by distance from the centre; the last is beyond the last radius.
    emitted_kev, photons_out_kev, electrons_out_kev : emitted, and carried out of the grid.
    decays : number followed.
    """

    energy_kev: FloatArray
    sd_kev: FloatArray
    shells_kev: FloatArray
    shells_sd_kev: FloatArray
    emitted_kev: float
    photons_out_kev: float
    electrons_out_kev: float
    decays: int


def threads_or_all(threads: int | None) -> int:
    """The given number, or all cores that this process may use. Raises ModelError below 1."""
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads < 1:
        raise ModelError(f"{threads} threads", expected="at least one", kind="model.setting")
    return threads


def simulate(
    weights: npt.NDArray[Any],
    physics: Tables,
    grid: Grid,
    source: Source,
    *,
    decays: int,
    seed: int = 1,
    blocks: int = BLOCKS,
    threads: int | None = None,
    at_centre: bool = False,
) -> Scored:
    """Follow about `decays` decays, spread over the voxels as `weights` (z, y, x), >= 0; `at_centre` puts all into one point.

    Raises ModelError for fewer decays than blocks or less than two blocks, ConservationError when energy is missing.
    """
    if blocks < 2 or decays < blocks:
        raise ModelError(
            f"{decays} decays in {blocks} blocks", expected="two blocks or more, a decay in each", kind="model.setting"
        )
    flat = np.ascontiguousarray(weights, dtype=np.float64).ravel()
    probability = flat / flat.sum()
    workers = min(threads_or_all(threads), blocks)

    nothing = np.zeros(0)

    def one(number: int) -> tuple[int, FloatArray, FloatArray, FloatArray]:
        tally, shells, account = np.zeros(flat.size), np.zeros(grid.radii2.size + 1), np.zeros(ACCOUNTS)
        done = block(
            np.uint64(seed), np.uint64(number), decays / blocks, probability, physics, grid, source, tally, shells, account,
            nothing, nothing, at_centre,
        )  # fmt: skip
        return done, tally, shells, account

    total, square = np.zeros((2, flat.size))
    shell_total, shell_square = np.zeros((2, grid.radii2.size + 1))
    account, done = np.zeros(ACCOUNTS), 0
    with ThreadPoolExecutor(workers) as pool:
        for count, tally, shells, accounted in _in_order(pool, one, blocks, workers + 1):
            done += count
            total += tally
            square += tally**2
            shell_total += shells
            shell_square += shells**2
            account += accounted
            _check(float(tally.sum()), accounted)
    return Scored(
        energy_kev=(total / done).reshape(weights.shape),
        sd_kev=_sd(total, square, blocks, done).reshape(weights.shape),
        shells_kev=shell_total / done,
        shells_sd_kev=_sd(shell_total, shell_square, blocks, done),
        emitted_kev=float(account[EMITTED]) / done,
        photons_out_kev=float(account[PHOTONS_OUT]) / done,
        electrons_out_kev=float(account[ELECTRONS_OUT]) / done,
        decays=done,
    )


def escaping(
    weights: npt.NDArray[Any],
    physics: Tables,
    grid: Grid,
    source: Source,
    emitted_kev: float,
    *,
    decays: int,
    seed: int = 2,
    blocks: int = BLOCKS,
    threads: int | None = None,
) -> FloatArray:
    """(z, y, x) mean fraction of a decay's energy that leaves the grid or ends in its sinks, by voxel of origin.

    Decays are spread as `weights`; a voxel from which none started takes the mean over all.
    """
    flat = np.ascontiguousarray(weights, dtype=np.float64).ravel()
    probability = flat / flat.sum()

    def one(number: int) -> tuple[FloatArray, FloatArray]:
        lost, followed = np.zeros((2, flat.size))
        block(
            np.uint64(seed), np.uint64(number), decays / blocks, probability, physics, grid, source,
            np.zeros(flat.size), np.zeros(grid.radii2.size + 1), np.zeros(ACCOUNTS), lost, followed, False,
        )  # fmt: skip
        return lost, followed

    total, count = np.zeros((2, flat.size))
    workers = min(threads_or_all(threads), blocks)
    with ThreadPoolExecutor(workers) as pool:
        for lost, followed in _in_order(pool, one, blocks, workers + 1):
            total += lost
            count += followed
    everywhere = total.sum() / max(count.sum(), 1.0)
    per_decay = np.divide(total, count, out=np.full(flat.size, everywhere), where=count > 0)
    return np.asarray(per_decay / emitted_kev).reshape(weights.shape)


def _in_order(pool: ThreadPoolExecutor, one: Any, blocks: int, ahead: int) -> Iterator[Any]:
    """Results in the order of the blocks, at most `ahead` of them in memory."""
    pending: deque[Future[Any]] = deque()
    for number in range(blocks):
        pending.append(pool.submit(one, number))
        if len(pending) >= ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _sd(total: FloatArray, square: FloatArray, blocks: int, done: int) -> FloatArray:
    variance = np.maximum(square - total**2 / blocks, 0.0) / (blocks - 1)
    return np.asarray(np.sqrt(variance * blocks) / done)


def _check(deposited: float, account: FloatArray) -> None:
    emitted = float(account[EMITTED])
    difference = deposited + float(account[PHOTONS_OUT]) + float(account[ELECTRONS_OUT]) - emitted
    if not math.isfinite(difference) or abs(difference) > BALANCE_TOLERANCE * max(emitted, 1e-300):
        raise ConservationError(
            f"{difference / emitted:.1e} of the emitted energy is neither deposited nor outside the grid",
            expected=f"less than {BALANCE_TOLERANCE:.0e}",
            remedy="report this: it is a defect of the Monte Carlo engine",
            kind="conservation.energy",
        )
