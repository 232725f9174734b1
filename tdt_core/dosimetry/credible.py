"""Credible dose: mean, standard deviation and quantiles per voxel, draws per region, from draws of time-integrated activity.

Dose is linear in activity, so one basis map per source region carries all draws:

    D[d, v] = sum_s a[d, s] B[s, v] / f[d, r(v)]          B[s] = dose of 1 MBq h of region s spread by its weights

with f the true mass over the measured mass of the region that holds the voxel (1 outside regions). Mean and covariance of
a / f over the draws give the maps exactly; region doses use the same basis, so they agree with the map. The pattern of
activity inside regions has its own noise: its maps are the dose of the mean activity under redrawn weights, and their variance
is added to that of the draws; `voxel_bands` says how quantiles carry it.

A nuclide whose daughters leave has a second basis, of the daughter and what follows it, and what moves is a source like the
rest, positive where daughters gather and negative where they leave (`tdt_core.kinetics.progeny`).

Cost: one convolution per source and pattern draw, then two products with the (sources, voxels) basis and a sort per voxel;
convolutions, blocks of voxels and histograms run in parallel over `map`. Memory: sources x voxels in float32, 170 MB for 25
regions of 1.7 million voxels, as much again per followed daughter; made by `empty`, so that it may lie on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.dosimetry.conservation import energy_balance
from tdt_core.dosimetry.density import check_spacing, density_map, dose_gy, mass_kg
from tdt_core.dosimetry.dvh_bands import dvh_bands, thinned
from tdt_core.dosimetry.engines import DoseEngine, EngineSetting, StatisticalEngine, build_engine
from tdt_core.dosimetry.units import Array32, FloatArray
from tdt_core.dosimetry.voxel_bands import Response, VoxelBands, voxel_bands
from tdt_core.errors import GeometryError, InputError
from tdt_core.lazy import Lazy
from tdt_core.nuclides import Progeny, decays_per_parent_decay

Mask = npt.NDArray[np.bool_]

_BLOCK = 200_000


@dataclass(frozen=True, eq=False)
class CredibleDose:
    """Absorbed dose of one administration with its uncertainty.

    Attributes
    ----------
    regions : names, in the order of every axis of regions.
    mean_gy, sd_gy : (z, y, x) float32.
    bands : quantile maps of dose, and mean, SD and quantile maps of BED.
    region_dose_gy : (draws, regions) mean over the voxels of a region; its mean over draws is the mean of the map there.
    dose_matrix_gy_per_mbq_h : (target, source) mean dose of a target per MBq h in a source, at the measured masses; sources are
        the regions, then the regions again for each followed daughter.
    dvh : per region what `dvh_bands` gives, plain lists and numbers.
    conservation : `emitted_j`, `deposited_j`, `escaped_fraction`, `balance_relative_difference`,
        `activity_relative_difference`; with followed daughters `emitted_j` is that of all decays of the parent in the regions
        and of all that follow them, and `carried_out_j` the part of daughters that decay in no region.
    """

    regions: tuple[str, ...]
    mean_gy: Array32
    sd_gy: Array32
    bands: VoxelBands
    region_dose_gy: FloatArray
    dose_matrix_gy_per_mbq_h: FloatArray
    dvh: list[dict[str, Any]]
    conservation: dict[str, float]


def in_memory(shape: tuple[int, ...]) -> Array32:
    """An array for basis maps, its values not set."""
    return np.empty(shape, np.float32)


def credible_dose(
    weights: Mapping[str, npt.NDArray[Any]],
    tia_mbq_h: npt.NDArray[Any],
    masks: Mapping[str, Mask],
    *,
    spacing_mm: tuple[float, float, float],
    nuclide: str,
    density_g_cm3: float | npt.NDArray[Any] | None = None,
    material: npt.NDArray[Any] | None = None,
    mass_factors: npt.NDArray[Any] | None = None,
    noise_draws: Iterable[npt.NDArray[Any]] | None = None,
    responses: Mapping[str, Response] | None = None,
    engine: str = "kernel",
    engine_options: Mapping[str, Any] | None = None,
    daughters: Sequence[str] = (),
    progeny: Progeny = "equilibrium",
    cache: MutableMapping[str, Any] | None = None,
    map: Callable[..., Iterable[Any]] = map,
    empty: Callable[[tuple[int, ...]], Array32] = in_memory,
) -> CredibleDose:
    """Mean, SD and quantile maps, region draws, dose matrix and DVH bands.

    Parameters
    ----------
    weights : per source region (z, y, x) share of its activity in each voxel; each sums to 1. Their order is the order of
        regions everywhere.
    tia_mbq_h : (draws, sources) time-integrated activity by region; then for each of `daughters` again by region, what decays
        there beyond what the parent makes in place, negative where daughters leave.
    masks : per region (z, y, x) its voxels; not empty, not overlapping.
    spacing_mm, nuclide, density_g_cm3, material, engine, progeny, cache : as for `absorbed_dose`; `engine_options` are its
        options.
    daughters : nuclides that do not all decay where their parent does; each takes along what follows it.
    mass_factors : (draws, regions) true mass over measured mass; a region's dose is divided by it. That also divides the
        cross-dose, whose energy scales with the mass: an error of the factor's deviation times the cross share.
    noise_draws : arrays (z, y, x) of redrawn weights, in each voxel that of the region whose mask holds it.
    responses : per region that has a BED, how its tissue responds.
    map : `map`, or a parallel one of the same form; results do not depend on it.
    empty : makes the float32 array of a shape that holds the basis maps. `weights` and `masks` may be made when asked for
        (`tdt_core.lazy`), so that the basis is the one large array.

    Raises
    ------
    GeometryError, InputError : grids, masks, draws without meaning. ConservationError : the energy does not balance.
    """
    names = tuple(weights)
    tia = _checked_sources(tia_mbq_h, names, nuclide, daughters)
    parent = tia[:, : len(names)]
    factors = np.ones_like(parent) if mass_factors is None else _checked_draws(mass_factors, names, "mass factors")
    if factors.shape != parent.shape or not (factors > 0).all():
        raise InputError("mass factors", expected="positive, one per draw and region", kind="input.mass")
    check_spacing(spacing_mm)
    shape = _shape(weights[names[0]] if names else np.empty(0))
    stack = Lazy(lambda i: _of_shape(weights[names[i]], shape), len(names))
    owner = _owners(names, masks, shape)
    density = density_map(shape, density_g_cm3, material)
    mass = mass_kg(density, spacing_mm)
    setting = EngineSetting(nuclide, spacing_mm, density, material, progeny, cache, dict(engine_options or {}))
    settings = [setting, *(replace(setting, nuclide=d, progeny="all") for d in daughters)]
    built = [build_engine(engine, x) for x in settings]

    basis = empty((tia.shape[1], *shape))
    deposited_j = np.empty(tia.shape[1])
    statistics = np.zeros(shape, np.float32)
    for i, (energy, sd) in enumerate(pair for emitter in built for pair in _energies(emitter, stack, map)):
        basis[i] = dose_gy(energy, mass)
        if sd is not None:
            mean_tia = np.append((tia[:, [i]] / factors).mean(axis=0), tia[:, i].mean()).astype(np.float32)
            statistics += (mean_tia[owner] * dose_gy(sd, mass)) ** 2
        deposited_j[i] = energy.sum(where=mass > 0, dtype=np.float64)
    conservation = energy_balance(built, stack, tia.mean(axis=0), deposited_j, mass > 0)

    mean, variance = _moments(basis, owner, tia, factors)
    added = statistics
    if noise_draws is not None:
        statistical = isinstance(built[0], StatisticalEngine)
        redrawn = [build_engine("kernel", replace(x, options={})) for x in settings] if statistical else built
        added = statistics + _pattern_variance(redrawn, noise_draws, tia, factors, mass, owner, map)
    pattern = None
    if added.any():
        variance += added
        pattern = np.divide(added, mean**2, out=np.zeros_like(added), where=mean > 0)
    known = [(responses or {}).get(n) for n in names]
    flat, voxels = basis.reshape(len(basis), -1), [np.flatnonzero(owner == r) for r in range(len(names))]
    matrix = np.array([[b[v].mean(dtype=np.float64) for b in flat] for v in voxels])
    return CredibleDose(
        regions=names,
        mean_gy=mean,
        sd_gy=np.sqrt(np.maximum(variance, 0.0, out=variance), out=variance),
        bands=voxel_bands(basis, owner, tia, factors, pattern, known, map),
        region_dose_gy=(tia @ matrix.T) / factors,
        dose_matrix_gy_per_mbq_h=matrix,
        dvh=_histograms(names, flat, voxels, tia, factors, known, map),
        conservation=conservation,
    )


def _histograms(
    names: tuple[str, ...],
    flat: Array32,
    voxels: Sequence[npt.NDArray[np.intp]],
    tia: FloatArray,
    factors: FloatArray,
    known: Sequence[Response | None],
    map: Callable[..., Iterable[Any]],
) -> list[dict[str, Any]]:
    def gathered(r: int) -> Array32:
        return thinned(flat, voxels[r], (tia / factors[:, [r]]).mean(axis=0))

    basis = Lazy(gathered, len(names))
    return list(map(dvh_bands, names, basis, [tia] * len(names), list(factors.T), known))


def _energies(
    engine: DoseEngine, stack: Sequence[Array32], map: Callable[..., Iterable[Any]]
) -> Iterator[tuple[Array32, Array32 | None]]:
    """Energy of each map of weights, with its statistical SD where the engine has one (it then uses all cores itself)."""
    if isinstance(engine, StatisticalEngine):
        for weights in stack:
            yield engine.energy_and_sd(weights)
    else:
        for energy in map(engine.energy, stack):
            yield energy, None


def _checked_draws(values: npt.NDArray[Any], names: tuple[str, ...], what: str) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != len(names) or len(array) < 1:
        raise InputError(f"{what} of shape {array.shape}", expected=f"(draws, {len(names)})", kind="input.draws")
    if not np.isfinite(array).all() or (array < 0).any():
        raise InputError(f"{what} with negative or non-finite values", expected=">= 0", kind="input.draws")
    return array


def _checked_sources(values: npt.NDArray[Any], names: tuple[str, ...], nuclide: str, daughters: Sequence[str]) -> FloatArray:
    """The draws of all sources; no more of a daughter may leave a region than its parent makes there."""
    array, n = np.asarray(values, dtype=np.float64), len(names)
    expected = (1 + len(daughters)) * n
    if array.ndim != 2 or array.shape[1] != expected:
        raise InputError(
            f"time-integrated activity, MBq h of shape {array.shape}", expected=f"(draws, {expected})", kind="input.draws"
        )
    parent = _checked_draws(array[:, :n], names, "time-integrated activity, MBq h")
    for k, daughter in enumerate(daughters, start=1):
        shift = array[:, k * n : (k + 1) * n]
        made = decays_per_parent_decay(nuclide).get(daughter, 0.0) * parent
        if not (shift >= -made * (1.0 + 1e-9)).all():
            raise InputError(
                f"more {daughter} leaves a region than {nuclide} makes there, or not finite",
                expected="shifts down to minus the daughters of the region's own parent",
                kind="input.draws",
            )
    return array


def _shape(weights: npt.NDArray[Any]) -> tuple[int, int, int]:
    if np.ndim(weights) != 3:
        raise GeometryError(f"weights of shape {np.shape(weights)}", expected="(z, y, x)")
    z, y, x = np.shape(weights)
    return z, y, x


def _of_shape(weights: npt.NDArray[Any], shape: tuple[int, int, int]) -> Array32:
    if np.shape(weights) != shape:
        raise GeometryError(f"weights of shapes {shape} and {np.shape(weights)}", expected="one (z, y, x) grid for all regions")
    return np.asarray(weights, np.float32)


def _owners(names: tuple[str, ...], masks: Mapping[str, Mask], shape: tuple[int, int, int]) -> npt.NDArray[np.int16]:
    """(z, y, x) index of the region that holds each voxel, -1 outside. Masks must be complete, disjoint and not empty."""
    owner = np.full(shape, -1, np.int16)
    for i, name in enumerate(names):
        if name not in masks:
            raise GeometryError(f"region {name} has weights but no mask", expected="one mask per region")
        mask = np.asarray(masks[name], dtype=bool)
        if mask.shape != shape:
            raise GeometryError(f"mask of {name} has shape {mask.shape}", expected=f"the grid of the weights, {shape}")
        if not mask.any():
            raise GeometryError(f"region {name} holds no voxel", expected="at least one voxel", kind="input.empty_mask")
        if (owner[mask] >= 0).any():
            other = names[int(owner[mask].max())]
            raise GeometryError(
                f"regions {name} and {other} overlap",
                expected="every voxel in at most one region",
                remedy="cut one of the contours",
                kind="input.overlap",
            )
        owner[mask] = i
    return owner


def _moments(basis: Array32, owner: npt.NDArray[np.int16], tia: FloatArray, factors: FloatArray) -> tuple[Array32, Array32]:
    """Mean and variance per voxel over the draws of a / f."""
    shape = owner.shape
    flat, owners = basis.reshape(len(basis), -1), owner.ravel()
    mean, variance = np.zeros(owners.size, np.float32), np.zeros(owners.size, np.float32)
    for r in range(-1, factors.shape[1]):
        scaled = tia / factors[:, [r]] if r >= 0 else tia
        average = scaled.mean(axis=0).astype(np.float32)
        spread = (scaled - scaled.mean(axis=0)) / np.sqrt(max(len(scaled) - 1, 1))  # covariance C = spread' spread
        root = np.asarray(np.linalg.qr(spread, mode="r"), np.float32)  # C = root' root, so the variance is |root b|^2
        voxels = np.flatnonzero(owners == r)
        for start in range(0, voxels.size, _BLOCK):
            block = voxels[start : start + _BLOCK]
            b = flat[:, block]
            mean[block] = average @ b
            variance[block] = np.square(root @ b).sum(axis=0)
    return mean.reshape(shape), variance.reshape(shape)


def _product(level: Array32, maps: Sequence[Array32], n: int) -> Array32:
    return np.asarray(level * maps[n])


def _pattern_variance(
    emitters: Sequence[DoseEngine],
    noise_draws: Iterable[npt.NDArray[Any]],
    tia: FloatArray,
    factors: FloatArray,
    mass: Array32,
    owner: npt.NDArray[np.int16],
    map: Callable[..., Iterable[Any]],
) -> Array32:
    """Variance of the dose of the mean activity over redrawn patterns (unbiased, about their own mean)."""
    maps = [np.asarray(d, np.float32) for d in noise_draws]
    if len(maps) < 2:
        raise InputError(f"{len(maps)} noise draws", expected="none, or at least two", kind="input.draws")
    if any(m.shape != mass.shape for m in maps):
        raise GeometryError(f"noise draws on grids {sorted({m.shape for m in maps})}", expected=f"{mass.shape}")
    levels = [np.append(a, 0.0)[owner].astype(np.float32) for a in np.split(tia.mean(axis=0), len(emitters))]
    energies = [
        map(e.energy, Lazy(partial(_product, level, maps), len(maps))) for e, level in zip(emitters, levels, strict=True)
    ]
    inverse = np.append(np.mean(1.0 / factors, axis=0), 1.0)[owner].astype(np.float32)
    total, square, centre = np.zeros_like(mass), np.zeros_like(mass), None
    for parts in zip(*energies, strict=True):
        dose = dose_gy(reduce(np.add, parts), mass) * inverse
        centre = dose if centre is None else centre
        dose = dose - centre  # keeps the squares small
        total += dose
        square += dose**2
    n = np.float32(len(maps))
    return np.asarray(np.maximum(square - total**2 / n, 0.0) / (n - 1), np.float32)
