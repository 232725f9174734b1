"""Dose engines behind one protocol. A new engine is one module in this package that calls `register_engine`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from tdt_core.dosimetry.units import Array32
from tdt_core.errors import ModelError
from tdt_core.nuclides import Progeny


@dataclass(frozen=True, eq=False)
class EngineSetting:
    """All that an engine may need before it sees any activity.

    Attributes
    ----------
    nuclide, progeny : what decays, and whether its progeny decay at the same site.
    spacing_mm : (dz, dy, dx).
    density_g_cm3 : (z, y, x) density.
    material : (z, y, x) integers into `MATERIALS`, or None for water.
    cache : mapping that keeps what is costly (kernels) between engines; None keeps nothing.
    options : settings of one engine, by name.
    """

    nuclide: str
    spacing_mm: tuple[float, float, float]
    density_g_cm3: Array32
    material: npt.NDArray[Any] | None = None
    progeny: Progeny = "equilibrium"
    cache: MutableMapping[str, Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Grid, (z, y, x)."""
        nz, ny, nx = self.density_g_cm3.shape
        return nz, ny, nx


class DoseEngine(Protocol):
    """Turns time-integrated activity into deposited energy, linearly."""

    name: str
    emitted_kev: float
    """Energy that the engine accounts for per decay of the parent; what is not deposited in the grid has escaped."""

    def energy(self, tia_mbq_h: npt.NDArray[Any]) -> Array32:
        """(z, y, x) energy deposited per voxel, J, for (z, y, x) time-integrated activity per voxel, MBq h."""
        ...

    def escaping_fraction(self, absorbing: npt.NDArray[np.bool_]) -> Array32:
        """(z, y, x) fraction of the energy emitted in a voxel that ends outside the `absorbing` voxels.

        Found by another way than `energy`, so that the energy balance can be checked at run time.
        """
        ...


@runtime_checkable
class StatisticalEngine(DoseEngine, Protocol):
    """An engine whose energies are estimates, with several cores of its own."""

    def energy_and_sd(self, tia_mbq_h: npt.NDArray[Any]) -> tuple[Array32, Array32]:
        """As `energy`, and the statistical standard deviation per voxel, J."""
        ...

    def balance_sd(self) -> float:
        """Statistical SD of deposited plus escaping over emitted energy of one map, as `energy_balance` compares them."""
        ...


Factory = Callable[[EngineSetting], DoseEngine]
_FACTORIES: dict[str, Factory] = {}


def register_engine(name: str, factory: Factory) -> None:
    """Make an engine known by name. Raises ModelError when the name is taken by another."""
    if _FACTORIES.get(name, factory) is not factory:
        raise ModelError(f"dose engine {name!r} is registered twice", expected="one name per engine")
    _FACTORIES[name] = factory


def engines() -> tuple[str, ...]:
    """Names of all engines."""
    _discover()
    return tuple(sorted(_FACTORIES))


def build_engine(name: str, setting: EngineSetting) -> DoseEngine:
    """An engine by name, prepared for one grid and nuclide. Raises ModelError for an unknown name."""
    _discover()
    if name not in _FACTORIES:
        raise ModelError(f"no dose engine named {name!r}", expected=f"one of {engines()}", kind="model.name")
    return _FACTORIES[name](setting)


def _discover() -> None:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
