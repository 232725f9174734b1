"""Quantiles of absorbed dose and of BED in every voxel, from every draw.

With basis maps B a voxel's dose in draw d is linear, D_d = sum_s a_ds B_s. Noise of the activity pattern is common to no two
voxels in the way that the draws of activity are, so it is laid over each draw as a log-normal factor of mean 1:

    D_d exp(+-s z_d) / c        s^2 = ln(1 + pattern variance / mean^2)        c the mean of exp(+-s z_d), near exp(s^2/2)

with fixed normal scores z_d in an order that does not depend on the draws, and both signs, so that chance gives the two
sources of error no correlation. Without pattern noise the quantiles are those of the draws. BED is D + g_d D^2 / (alpha/beta)
of the same values, so it carries both sources too; it is not linear, and its mean lies above the BED of the mean dose.

Voxels are worked on in blocks of one region each, cut the same way whatever `map` runs them; a piece of work is a few blocks
with their part of the basis.

Cost: a sort per voxel, some 2 microseconds for 200 draws with pattern noise and BED. Memory: `BLOCK_VALUES` floats a few times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from tdt_core.dosimetry.units import Array32, FloatArray
from tdt_core.draws import LEVELS
from tdt_core.errors import InputError
from tdt_core.lazy import Lazy
from tdt_core.reproducible import one_blas_thread

BLOCK_VALUES = 4_000_000
"""Voxels times values per voxel that are worked on at a time."""
PIECE_VALUES = 16_000_000
"""Voxels times draws of one piece of work, 0.2 to 0.5 s of one core."""
_ORDER_SEED = 20


@dataclass(frozen=True, eq=False)
class Response:
    """How a region's tissue responds to dose.

    Attributes
    ----------
    g : (draws,) Lea-Catcheside factor, paired with the draws of activity.
    alpha_beta_gy : alpha/beta, Gy.
    alpha_per_gy : radiosensitivity for survival-equivalent doses, 1/Gy; None if unknown.
    eud_a : exponent of the generalised equivalent uniform dose; None if unknown.
    """

    g: FloatArray
    alpha_beta_gy: float
    alpha_per_gy: float | None = None
    eud_a: float | None = None

    def __post_init__(self) -> None:
        if np.ndim(self.g) != 1 or not np.isfinite(self.g).all() or (np.asarray(self.g) < 0).any():
            raise InputError("Lea-Catcheside factors", expected="(draws,) finite and >= 0", kind="input.response")
        if not self.alpha_beta_gy > 0 or (self.alpha_per_gy is not None and not self.alpha_per_gy > 0):
            raise InputError("alpha/beta or alpha that is not positive", expected="Gy and 1/Gy, > 0", kind="input.response")
        if self.eud_a is not None and (self.eud_a == 0 or not np.isfinite(self.eud_a)):
            raise InputError(f"EUD exponent {self.eud_a}", expected="finite and not 0", kind="input.eud")


@dataclass(frozen=True, eq=False)
class VoxelBands:
    """Maps on the grid of the dose, float32, Gy. Quantiles are stacked in the order of `tdt_core.draws.LEVELS`.

    Attributes
    ----------
    dose_gy : (3, z, y, x). bed_mean_gy, bed_sd_gy : (z, y, x). bed_gy : (3, z, y, x). BED is NaN where no response is known.
    """

    dose_gy: Array32
    bed_mean_gy: Array32
    bed_sd_gy: Array32
    bed_gy: Array32


@dataclass(frozen=True, eq=False)
class Block:
    """Voxels of one region: (sources, voxels) of the basis and (voxels,) log-normal SD of the pattern, None without noise."""

    region: int
    basis: Array32
    spread: Array32 | None


@dataclass(frozen=True, eq=False)
class _Draws:
    """What the blocks have in common, called with a piece of work. By region, that of no region (-1) last.

    Attributes
    ----------
    activity : (sources, draws) each, MBq h over the region's mass factor. slope : (draws,) G over alpha/beta, 1/Gy, or None.
    scores : (draws,) of the pattern's noise.
    """

    activity: tuple[Array32, ...]
    slope: tuple[Array32 | None, ...]
    scores: Array32
    task = "blocks of voxels"

    @one_blas_thread
    def __call__(self, piece: Sequence[Block]) -> list[tuple[Array32, Array32 | None]]:
        """Per block (levels, voxels) quantiles of dose, and (2 + levels, voxels) mean, SD and quantiles of BED."""
        return [self._block(block) for block in piece]

    def _block(self, block: Block) -> tuple[Array32, Array32 | None]:
        values = block.basis.T @ self.activity[block.region]
        if block.spread is not None:
            values = _with_pattern(values, block.spread, self.scores)
        slope, bed = self.slope[block.region], None
        if slope is not None:
            twice = slope if block.spread is None else np.concatenate([slope, slope])
            effective = np.asarray(values * (np.float32(1.0) + twice * values), np.float32)
            bed = np.empty((2 + len(LEVELS), len(values)), np.float32)
            bed[0] = effective.mean(axis=1, dtype=np.float64)
            bed[1] = effective.std(axis=1, dtype=np.float64, ddof=1) if effective.shape[1] > 1 else 0.0
            bed[2:] = _quantiles(effective)
        return _quantiles(values), bed


def voxel_bands(
    basis: Array32,
    owner: npt.NDArray[np.int16],
    tia: FloatArray,
    factors: FloatArray,
    pattern_rel_variance: Array32 | None,
    responses: Sequence[Response | None],
    map: Callable[..., Iterable[Any]] = map,
) -> VoxelBands:
    """Quantile maps of (sources, z, y, x) basis maps, Gy per MBq h.

    owner : (z, y, x) region of each voxel, -1 for none. tia : (draws, sources), factors : (draws, regions): see `credible`.
    pattern_rel_variance : (z, y, x) variance of the pattern over the squared mean; None without pattern noise.
    responses : per region, None where BED is not defined. map : runs the pieces of work; results do not depend on it.
    """
    draws = len(tia)
    if any(r is not None and len(r.g) != draws for r in responses):
        raise InputError("Lea-Catcheside factors", expected=f"one for each of the {draws} draws", kind="input.response")
    flat, owners = basis.reshape(len(basis), -1), owner.ravel()
    spread = None if pattern_rel_variance is None else np.sqrt(np.log1p(pattern_rel_variance.ravel()))
    everywhere = [tia / factors[:, [r]] for r in range(len(responses))] + [tia]
    slopes = [None if r is None else (r.g / r.alpha_beta_gy).astype(np.float32) for r in responses]
    law = _Draws(tuple(a.astype(np.float32).T for a in everywhere), (*slopes, None), _scores(draws))
    pieces = _pieces(flat, owners, [s is not None for s in (*slopes, None)], draws)

    def gathered(n: int) -> list[Block]:
        return [Block(r, flat[:, at], None if spread is None else spread[at]) for r, at in pieces[n]]

    dose = np.zeros((len(LEVELS), owners.size), np.float32)
    bed = np.full((len(LEVELS) + 2, owners.size), np.nan, np.float32)
    for piece, found in zip(pieces, map(law, Lazy(gathered, len(pieces))), strict=True):
        for (_, at), (quantiles, effective) in zip(piece, found, strict=True):
            dose[:, at] = quantiles
            if effective is not None:
                bed[:, at] = effective
    shape = owner.shape
    return VoxelBands(dose.reshape(-1, *shape), bed[0].reshape(shape), bed[1].reshape(shape), bed[2:].reshape(-1, *shape))


def _pieces(
    flat: Array32, owners: npt.NDArray[np.int16], responds: Sequence[bool], draws: int
) -> list[list[tuple[int, npt.NDArray[np.int32]]]]:
    """Blocks as (region, voxels), gathered to pieces of about `PIECE_VALUES`. Without a response, voxels without dose are left
    out: most of what no region holds takes none."""
    block, enough = max(1, BLOCK_VALUES // (2 * draws)), PIECE_VALUES // draws
    pieces: list[list[tuple[int, npt.NDArray[np.int32]]]] = []
    size = enough
    for r in range(-1, len(responds) - 1):
        voxels = np.flatnonzero(owners == r).astype(np.int32)
        if not responds[r]:
            voxels = voxels[_takes_dose(flat, voxels)]
        for start in range(0, voxels.size, block):
            if size >= enough:
                pieces.append([])
                size = 0
            pieces[-1].append((r, voxels[start : start + block]))
            size += pieces[-1][-1][1].size
    return pieces


def _takes_dose(flat: Array32, voxels: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Where any source gives dose; source by source, so that no second basis is in memory."""
    some = np.zeros(voxels.size, bool)
    for source in flat:
        some |= source[voxels] != 0
    return some


def _scores(draws: int) -> Array32:
    """(draws,) normal scores of unit variance in a fixed disorder."""
    scores = ndtri((np.arange(draws) + 0.5) / draws)
    spread = float(np.sqrt(np.mean(scores**2)))
    order = np.random.default_rng(_ORDER_SEED).permutation(draws)
    return np.asarray(scores[order] / (spread or 1.0), np.float32)


def _with_pattern(values: Array32, spread: Array32, scores: Array32) -> Array32:
    """(voxels, draws) doses under both signs of the pattern's error: (voxels, 2 draws)."""
    rise = np.exp(spread[:, None] * scores)
    fall = np.float32(1.0) / rise
    level = values / (0.5 * (rise.mean(axis=1) + fall.mean(axis=1)))[:, None]
    return np.concatenate([level * rise, level * fall], axis=1)


def _quantiles(values: Array32) -> Array32:
    """(levels, voxels) quantiles of (voxels, n) values, linear between them. `values` is sorted in place."""
    values.sort(axis=1)
    last = values.shape[1] - 1
    at = np.array(LEVELS) * last
    low = np.minimum(at.astype(int), max(last - 1, 0))
    high = np.minimum(low + 1, last)
    share = (at - low).astype(np.float32)
    return np.asarray((values[:, low] + share * (values[:, high] - values[:, low])).T)
