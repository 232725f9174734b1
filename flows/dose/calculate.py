"""Dosimetry of one taken-in cycle: quantification, time integration, dose, BED, each by the functions that the loop uses.

The scans of a region are scaled so that their sum is its corrected activity; voxels keep the pattern of the images. The dose
map is that of the chosen engine. Its relative SD, and the intervals of regions, follow from draws over the error budgets
through the `kernel` engine, to which the noise of voxels and the statistics of Monte Carlo are added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from flows import progress
from flows.dose.integrate import SINGLE, TWIN_ONLY, Integrated, integrate, only
from flows.dose.take_in import TakenIn
from tdt_core.dosimetry import absorbed_dose, credible_dose, dvh, engines
from tdt_core.dosimetry.credible import in_memory
from tdt_core.dosimetry.density import mass_ratio
from tdt_core.dosimetry.dvh import doses_inside, volume_curves
from tdt_core.dosimetry.engines.mc import monte_carlo_dose
from tdt_core.dosimetry.region_curves import DrawnCurve
from tdt_core.dosimetry.time_integration import TimeIntegrated, integrators
from tdt_core.dosimetry.time_integration.intervals import EARLY
from tdt_core.draws import summarised
from tdt_core.errors import InputError, UsageError
from tdt_core.imaging.density import CtMedia
from tdt_core.imaging.quantification import CycleImages, quantify_cycle
from tdt_core.imaging.volume import Scan
from tdt_core.lazy import LazyMapping
from tdt_core.planning.outlook import bed_map, tissues
from tdt_core.radiobiology import lea_catcheside_sampled

Float32 = npt.NDArray[np.float32]
MapLike = Callable[..., Any]
APART = 0.1
"""Relative difference of a region's mass from that of its voxels, or of its curve from them, from which on it is told."""
DVH_POINTS = 201


@dataclass(frozen=True)
class DoseOptions:
    """How the dose is computed: `method` and `before_first` as in `time_integration`, `decays` of Monte Carlo."""

    engine: str = "kernel"
    method: str = "regional_shape"
    before_first: str | None = None
    draws: int = 200
    decays: int = 2_000_000
    seed: int = 1
    scan: int | None = None
    """Only this scan, 1 for the first; for methods of a single time point."""

    @property
    def early(self) -> str:
        """What holds before the first scan: as asked, else the method's own."""
        return self.before_first or ("exponential" if self.method in SINGLE else "constant")


@dataclass(frozen=True, eq=False)
class Dosimetry:
    """What came out. Maps (z, y, x) stand on the grid of `images`; `rest`, the last region, is the body without regions.

    Attributes
    ----------
    tia_mbq_h, dose_gy, sd_gy : per voxel. bed_gy : NaN where the organ has no alpha/beta.
    curves : region -> activity curve, draw 0 measured. factors : (draws, regions) dose over the map's dose.
    g : (regions,) Lea-Catcheside factor, NaN without a repair half-time.
    conservation : energy balance of the `kernel` run. findings : remarks in words.
    """

    taken: TakenIn
    options: DoseOptions
    images: CycleImages
    integrated: TimeIntegrated
    tia_mbq_h: Float32
    dose_gy: Float32
    sd_gy: Float32
    bed_gy: Float32
    curves: Mapping[str, DrawnCurve]
    factors: npt.NDArray[np.float64]
    tia_factors: npt.NDArray[np.float64]
    g: npt.NDArray[np.float64]
    conservation: Mapping[str, float]
    monte_carlo: Mapping[str, float] = field(default_factory=dict)
    findings: tuple[str, ...] = ()

    @property
    def masks(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Region -> its voxels."""
        return {r.name: self.images.labels.labels == n for n, r in enumerate(self.images.regions, start=1)}


def check_options(options: DoseOptions) -> None:
    """Refuse, before any work, names that nothing goes by, and choices that exclude each other. Raises UsageError."""
    for what, name, known in (
        ("dose engine", options.engine, engines()),
        ("time integration", options.method, tuple(m for m in integrators() if m not in TWIN_ONLY)),
        ("activity before the first scan", options.early, tuple(EARLY)),
    ):
        if name not in known:
            raise UsageError(
                f"there is no {what} {name!r}",
                expected=f"one of {', '.join(known)}",
                remedy="correct the name",
                kind="model.name",
            )


def check_scans(scans: tuple[Scan, ...], times_h: Mapping[str, float]) -> None:
    """Refuse two scans of one time: they cannot be put in order."""
    if len(set(times_h.values())) != len(scans):
        raise InputError(
            "two scans at the same time",
            expected="one scan per time point",
            remedy="leave out one of them, or send the bed positions as one volume",
            kind="dose.times",
        )


def check_number(scans: int, options: DoseOptions) -> None:
    """Refuse, before any work, a scan that there is not, and several scans for a method of one. Raises UsageError."""
    if options.scan is not None and options.scan > scans:
        raise UsageError(
            f"scan {options.scan} of a cycle with {scans}",
            expected=f"--scan 1 to {scans}, in order of time",
            kind="dose.scans",
        )
    if options.method in SINGLE and options.scan is None and scans > 1:
        raise UsageError(
            f"{scans} scans for {options.method}, a method of one",
            expected=f"--scan with a number from 1 to {scans}, in order of time",
            remedy="name the scan that is meant, or take a method of several scans",
            kind="dose.scans",
        )


def calculate(
    taken: TakenIn, options: DoseOptions, map_: MapLike = map, empty: Callable[[tuple[int, ...]], Float32] = in_memory
) -> Dosimetry:
    """Dose of a cycle; `map_` and `empty` as for `credible_dose`. Raises what its parts raise."""
    nuclide = taken.therapy.nuclide
    times = {s.id: taken.hours(s.time_h) for s in taken.cycle.scans}
    check_scans(taken.cycle.scans, times)
    check_number(len(times), options)
    with progress.step(f"registration and quantification of {len(times)} scan(s)"):
        images = quantify_cycle(taken.cycle.scans, taken.cycle.cts, taken.labels, map=map_)
    if options.scan is not None:
        images = only(images, options.scan)
    with progress.step(f"time integration, {options.method}"):
        integrated = integrate(taken, images, options.method, options.before_first, options.draws, options.seed)
    tia, curves = integrated.result.tia_mbq_h, integrated.curves
    ct = CtMedia(images.density, images.material, ())
    with progress.step("uncertainty through the kernel engine"):
        credible, factors = _credible(images, integrated, nuclide, ct, map_, empty)
    with progress.step(f"dose, {options.engine}"):
        dose, statistics, told = _engine_dose(images, tia, nuclide, ct, options)
    ratio, more = _voxel_masses(images)
    relative = credible[1] / np.maximum(credible[0], np.float32(1e-30))
    if integrated.noise_rel is not None:
        relative = np.hypot(relative, integrated.noise_rel)
    sd = np.hypot(dose * relative, statistics)
    dose, sd = (np.asarray(a / ratio, np.float32) for a in (dose, sd))
    known = tissues()
    g = np.array(
        [
            _lea_catcheside(curves[r.name], known[r.organ].repair_half_time_h) if r.organ in known else np.nan
            for r in images.regions
        ]
    )
    return Dosimetry(
        taken=taken,
        options=options,
        images=images,
        integrated=integrated.result,
        tia_mbq_h=tia,
        dose_gy=dose,
        sd_gy=sd,
        bed_gy=bed_map(images.labels.labels, images.regions, dose, g[:, None], known),
        curves=curves,
        factors=factors,
        tia_factors=integrated.factors,
        g=g,
        conservation=credible[2],
        monte_carlo=told,
        findings=tuple(
            dict.fromkeys(
                [
                    *taken.findings,
                    *images.findings,
                    *ct.findings,
                    *integrated.findings,
                    *_closure(images, integrated),
                    *more,
                    *_few(images, options),
                ]
            )
        ),
    )


def _credible(
    images: CycleImages,
    integrated: Integrated,
    nuclide: str,
    ct: CtMedia,
    map_: MapLike,
    empty: Callable[[tuple[int, ...]], Float32],
) -> tuple[tuple[Float32, Float32, Mapping[str, float]], npt.NDArray[np.float64]]:
    """(mean, SD, energy balance) through kernels, and (draws, regions) factors on dose, of mean 1."""
    labels, tia = images.labels.labels, integrated.result.tia_mbq_h
    sums = np.bincount(labels.ravel(), weights=tia.ravel(), minlength=len(images.regions) + 1)[1:]
    number = {region.name: n for n, region in enumerate(images.regions, start=1)}
    masks = LazyMapping(tuple(number), lambda name: labels == number[name])

    def weights(name: str) -> Float32:
        mask, total = masks[name], float(sums[number[name] - 1])
        even = np.float32(1.0 / max(int(mask.sum()), 1))
        return np.where(mask, tia / np.float32(total) if total > 0 else even, np.float32(0))

    found = credible_dose(
        LazyMapping(tuple(number), weights),
        sums * integrated.factors,
        masks,
        spacing_mm=images.spacing_mm,
        nuclide=nuclide,
        density_g_cm3=ct.density.array,
        map=map_,
        empty=empty,
    )
    drawn = found.region_dose_gy
    return (found.mean_gy, found.sd_gy, found.conservation), drawn / np.maximum(drawn.mean(axis=0), 1e-300)


def _engine_dose(
    images: CycleImages, tia: Float32, nuclide: str, ct: CtMedia, options: DoseOptions
) -> tuple[Float32, Float32, dict[str, float]]:
    """Dose, statistical SD (0 but for Monte Carlo) and what Monte Carlo tells of itself."""
    density, material = ct.density.array, ct.material
    if options.engine == "mc":
        found = monte_carlo_dose(tia, images.spacing_mm, nuclide, density, material, decays=options.decays, seed=options.seed)
        told = {"decays": float(found.decays), "escaped_fraction": found.escaped_fraction}
        return found.dose_gy, found.sd_gy, told
    follows = material if options.engine == "multimedium" else None
    dose = absorbed_dose(tia, images.spacing_mm, nuclide, density, follows, options.engine)
    return dose, np.zeros_like(dose), {}


def _voxel_masses(images: CycleImages) -> tuple[Float32, list[str]]:
    """(z, y, x) mass of the voxel's region over that of the region's voxels, and where the two are far apart."""
    labels = images.labels.labels
    ratio = mass_ratio(
        [r.mass_g for r in images.regions],
        [labels == n for n in range(1, len(images.regions) + 1)],
        images.density.array,
        images.spacing_mm,
    )
    far = [
        f"{r.name}: its voxels weigh {1 / q:.2f} of its contour; the dose is that of the contour's mass"
        for r, q in zip(images.regions, ratio, strict=True)
        if abs(q - 1) > APART
    ]
    return np.append(1.0, ratio).astype(np.float32)[labels], far


def _lea_catcheside(curve: DrawnCurve, repair_half_time_h: float) -> float:
    """Factor of the measured curve; the dose rate is taken to follow the region's own activity."""
    times = np.concatenate([[0.0], np.geomspace(0.02, 40.0 / float(curve.tail_rate[0]), 400)])
    return float(lea_catcheside_sampled(times, curve.values(times)[0], repair_half_time_h))


def _closure(images: CycleImages, integrated: Integrated) -> list[str]:
    """Where voxels integrated one by one do not add up to what their region's own activities say."""
    if len(images.registered) == 1:
        return []
    labels, tia = images.labels.labels, integrated.result.tia_mbq_h
    sums = np.bincount(labels.ravel(), weights=tia.ravel(), minlength=len(images.regions) + 1)[1:]
    own = np.array([float(integrated.curves[r.name].integral[0]) for r in images.regions])
    return [
        f"{r.name}: its voxels hold {q:.2f} of the time-integrated activity of its own curve"
        for r, q in zip(images.regions, sums / np.maximum(own, 1e-300), strict=True)
        if abs(q - 1) > APART
    ]


def _few(images: CycleImages, options: DoseOptions) -> list[str]:
    if len(images.registered) > 1:
        return []
    if options.method in SINGLE:
        return ["one scan: the decline rests on a population, whose spread is in the intervals"]
    return ["one scan: the decline rests on physical decay alone, an upper bound whose error is not in the intervals"]


def dose_volumes(found: Dosimetry) -> list[dict[str, Any]]:
    """DVH per region: `{region, dose_gy, mean, q05, q95, metrics}`.

    `mean` is the histogram of the map, the band that of the map scaled with the draws of the region.
    """
    rows = []
    for n, (name, mask) in enumerate(found.masks.items()):
        if name == "rest":
            continue
        ordered = np.sort(doses_inside(found.dose_gy, mask))[:, None]
        least, most = np.quantile(found.factors[:, n], (0.05, 0.95))
        grid = np.linspace(0.0, float(ordered[-1, 0] * max(most, 1.0)) * 1.02 or 1.0, DVH_POINTS)
        mean, low, high = (volume_curves(ordered * scale, grid)[:, 0] for scale in (1.0, least, most))
        rows.append(
            {
                "region": name,
                "dose_gy": grid.tolist(),
                "mean": mean.tolist(),
                "q05": low.tolist(),
                "q95": high.tolist(),
                "metrics": {
                    # V20 is a share of volume, which does not scale with dose
                    k: summarised(v * found.factors[:, n]) if k.startswith("d") else summarised([v])
                    for k, v in dvh(found.dose_gy, mask).metrics.items()
                },
            }
        )
    return rows


def options_told(options: DoseOptions) -> dict[str, Any]:
    """The options that had an effect."""
    told = {**asdict(options), "before_first": options.early}
    if options.scan is None:
        del told["scan"]
    if options.engine != "mc":
        del told["decays"]
    return told
