"""Monte Carlo as an engine: the reference for lung, bone and interfaces. See `tdt_core.dosimetry.montecarlo`.

Voxels follow `material`; without it all are water of their own density. Outside the grid is vacuum. Options: `decays`
(2 million by default), `seed`, `blocks`, `threads` (all cores by default; the result does not depend on it), `cut_kev`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.dosimetry.density import (
    AIR_BELOW_G_CM3,
    FLOOR_G_CM3,
    MATERIALS,
    check_material,
    check_spacing,
    density_map,
    dose_gy,
    mass_kg,
)
from tdt_core.dosimetry.engines import EngineSetting, register_engine
from tdt_core.dosimetry.montecarlo.geometry import Grid, make_grid
from tdt_core.dosimetry.montecarlo.run import BLOCKS, Scored, escaping, simulate
from tdt_core.dosimetry.montecarlo.source import make_source
from tdt_core.dosimetry.montecarlo.tables import cut_for, tables
from tdt_core.dosimetry.units import JOULE_PER_MBQ_H_KEV, Array32
from tdt_core.errors import GeometryError, InputError, ModelError
from tdt_core.nuclides import Progeny, emissions

DECAYS = 2_000_000
OPTIONS = ("decays", "seed", "blocks", "threads", "cut_kev")
ESCAPING_DECAYS = 400_000
"""Decays per map that was asked for, in the balance of escaping energy; half of them start from it."""
_OTHER_STREAM = 0x5DEECE66D


class MonteCarloEngine:
    """Energy by following decays; linear in activity up to statistics (exactly so for a scaled map)."""

    name = "mc"

    def __init__(self, setting: EngineSetting) -> None:
        unknown = sorted(set(setting.options) - set(OPTIONS))
        if unknown:
            raise ModelError(f"the mc engine has no option {unknown}", expected=f"some of {OPTIONS}", kind="model.setting")
        check_spacing(setting.spacing_mm)
        emitted = emissions(setting.nuclide, setting.progeny)
        self.emitted_kev = emitted.total_kev
        self.source = make_source(emitted)
        self.setting = setting
        options = setting.options
        self.decays = int(options.get("decays", DECAYS))
        self._seed = int(options.get("seed", 1))
        self._blocks = int(options.get("blocks", BLOCKS))
        self._threads = options.get("threads")
        self.physics = tables(float(options.get("cut_kev") or cut_for(setting.spacing_mm)))
        self._material = material_map(setting)
        self._asked = np.zeros(setting.shape)

    def _grid(self, sinks: npt.NDArray[np.bool_] | None = None) -> Grid:
        density = self.setting.density_g_cm3
        # the thinnest lung that a voxel's mass may have is also what particles cross; air stays air
        density = np.where(density < AIR_BELOW_G_CM3, density, np.maximum(density, np.float32(FLOOR_G_CM3)))
        return make_grid(self._material, density, self.setting.spacing_mm, self.physics, sinks=sinks)

    def scored(self, tia_mbq_h: npt.NDArray[Any]) -> Scored:
        """Energy per voxel and decay, with its statistical uncertainty and the energy balance. The map must not be all zero."""
        tia = np.asarray(tia_mbq_h, dtype=np.float64)
        self._asked += tia / tia.sum()
        return simulate(
            tia, self.physics, self._grid(), self.source,
            decays=self.decays, seed=self._seed, blocks=self._blocks, threads=self._threads,
        )  # fmt: skip

    def energy(self, tia_mbq_h: npt.NDArray[Any]) -> Array32:
        """Energy per voxel, J."""
        return self.energy_and_sd(tia_mbq_h)[0]

    def energy_and_sd(self, tia_mbq_h: npt.NDArray[Any]) -> tuple[Array32, Array32]:
        """Energy per voxel and its statistical SD, J."""
        total = float(np.asarray(tia_mbq_h).sum(dtype=np.float64))
        if total == 0.0:
            return np.zeros(self.setting.shape, np.float32), np.zeros(self.setting.shape, np.float32)
        found, unit = self.scored(tia_mbq_h), total * JOULE_PER_MBQ_H_KEV
        return (found.energy_kev * unit).astype(np.float32), (found.sd_kev * unit).astype(np.float32)

    def balance_sd(self) -> float:
        """Upper bound from the spectra: number and energies of what a decay emits vary as if each were drawn on its own."""
        emitted = emissions(self.setting.nuclide, self.setting.progeny)
        square = sum(float((s.yields * s.energies_kev**2).sum()) for s in (emitted.electrons, emitted.photons))
        maps = max(1, round(self._asked.sum()))
        return math.sqrt(square / self.emitted_kev**2 * (1.0 / self.decays + 2.0 * maps / self._escaping_decays()))

    def _escaping_decays(self) -> int:
        return max(self.decays, min(self.decays, ESCAPING_DECAYS) * round(self._asked.sum()))

    def escaping_fraction(self, absorbing: npt.NDArray[np.bool_]) -> Array32:
        """From decays of another random stream: half of them from all voxels alike, half from the maps asked for so far.

        Their number grows with that of the maps, so that the balance of each can be checked.
        """
        everywhere = np.full(self._asked.shape, 1.0 / self._asked.size)
        asked = self._asked / self._asked.sum() if self._asked.any() else everywhere
        fraction = escaping(
            everywhere + asked, self.physics, self._grid(~absorbing), self.source, self.emitted_kev,
            decays=self._escaping_decays(), seed=self._seed + _OTHER_STREAM, blocks=self._blocks, threads=self._threads,
        )  # fmt: skip
        return fraction.astype(np.float32)


def material_map(setting: EngineSetting) -> npt.NDArray[np.uint8]:
    """(z, y, x) materials, water where none are given. Raises GeometryError or InputError."""
    if setting.material is None:
        return np.full(setting.shape, MATERIALS.index("water"), np.uint8)
    material = check_material(setting.material)
    if material.shape != setting.shape:
        raise GeometryError(
            f"material of shape {material.shape} with density of shape {setting.shape}",
            expected="the same grid",
            remedy="resample the materials to the grid of the activity",
        )
    return material.astype(np.uint8)


@dataclass(frozen=True, eq=False)
class MonteCarloDose:
    """Dose with its statistics.

    Attributes
    ----------
    dose_gy, sd_gy : (z, y, x) absorbed dose and the statistical standard deviation of it; 0 in air.
    escaped_fraction : share of the emitted energy that left the grid.
    decays : number of decays followed.
    """

    dose_gy: Array32
    sd_gy: Array32
    escaped_fraction: float
    decays: int


def monte_carlo_dose(
    tia_mbq_h: npt.NDArray[Any],
    spacing_mm: tuple[float, float, float],
    nuclide: str,
    density_g_cm3: float | npt.NDArray[Any] | None = None,
    material: npt.NDArray[Any] | None = None,
    *,
    progeny: Progeny = "equilibrium",
    **options: Any,
) -> MonteCarloDose:
    """As `absorbed_dose(..., engine="mc")`, with the statistical uncertainty per voxel."""
    from tdt_core.dosimetry.absorbed import check_tia

    check_spacing(spacing_mm)
    tia = check_tia(tia_mbq_h)
    density = density_map(tia.shape, density_g_cm3, material)
    mass = mass_kg(density, spacing_mm)
    engine = MonteCarloEngine(EngineSetting(nuclide, spacing_mm, density, material, progeny, None, dict(options)))
    total = float(tia.sum(dtype=np.float64))
    if total == 0.0:
        return MonteCarloDose(np.zeros(tia.shape, np.float32), np.zeros(tia.shape, np.float32), 0.0, 0)
    found = engine.scored(tia)
    unit = total * JOULE_PER_MBQ_H_KEV
    return MonteCarloDose(
        dose_gy=dose_gy((found.energy_kev * unit).astype(np.float32), mass),
        sd_gy=dose_gy((found.sd_kev * unit).astype(np.float32), mass),
        escaped_fraction=(found.photons_out_kev + found.electrons_out_kev) / found.emitted_kev,
        decays=found.decays,
    )


def decays_for(pilot: MonteCarloDose, where: npt.NDArray[np.bool_], relative_sd: float, blocks: int = 100) -> int:
    """Decays after which every voxel of `where` states at most that relative SD, in a run with so many blocks.

    Variance is proportional to energy, with a factor taken from all voxels of the pilot together, and falls with the number of
    decays; the least dose decides. The SD that a run states is known to 1 / sqrt(2 (blocks - 1)): four times that is added.
    Raises InputError when the pilot gave a voxel no dose.
    """
    if not 0 < relative_sd < 1 or blocks < 2:
        raise ModelError(
            f"a relative SD of {relative_sd} with {blocks} blocks", expected="0 < SD < 1, blocks >= 2", kind="model.setting"
        )
    dose, sd = pilot.dose_gy[where].astype(np.float64), pilot.sd_gy[where].astype(np.float64)
    if dose.size == 0 or not (dose > 0).all():
        raise InputError(
            f"{int((dose <= 0).sum())} of {dose.size} voxels without dose in a pilot of {pilot.decays} decays",
            expected="dose in every voxel, at least one voxel",
            remedy="follow more decays in the pilot, or leave voxels without activity out",
            kind="input.statistics",
        )
    worst = float((sd**2).sum() / dose.sum() / dose.min())
    margin = 1.0 + 4.0 / math.sqrt(2.0 * (blocks - 1))
    return math.ceil(pilot.decays * worst * (margin / relative_sd) ** 2)


register_engine("mc", MonteCarloEngine)
