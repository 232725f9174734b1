"""One protocol for every rung of the ladder, and the register of rungs.

A rung names its parameters, says how they vary in the population, and turns them into activity by region. Adding one takes
one file with a class that meets `KineticModel` and one `register` call; its uptake parameters go by a name of `UPTAKE`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from tdt_core.errors import ModelError
from tdt_core.parameters import ParameterTable
from tdt_core.twin import Administration, Region

FloatArray = npt.NDArray[np.float64]


class KineticModel(Protocol):
    """A rung: parameters in unconstrained space -> activity by region and time after one administration."""

    @property
    def name(self) -> str:
        """Name in the register."""

    @property
    def ligand(self) -> str:
        """Ligand family whose parameters are used."""

    @property
    def regions(self) -> tuple[Region, ...]:
        """Regions in the order of every output."""

    @property
    def parameters(self) -> ParameterTable:
        """Population parameters, n of them, in the order of theta."""

    @property
    def background(self) -> ParameterTable:
        """Numbers that the rung rests on and does not estimate, with status and source."""

    def activity(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        """(m, n) theta, (t,) hours after the administration -> (m, regions, t) MBq, decay included."""

    def time_integrated_activity(self, theta: FloatArray, administration: Administration) -> FloatArray:
        """(m, n) theta -> (m, regions) MBq h from the administration to infinity."""

    def log_jacobian(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        """d ln activity / d theta at (..., n) theta -> (..., regions, t, n)."""


@runtime_checkable
class Sampled(Protocol):
    """A rung that also says what samples of blood and excreta and readings of the whole body would show."""

    @property
    def compartments(self) -> tuple[str, ...]:
        """Kinds of samples that it can predict, in the order of the outputs below."""

    def compartment_activity(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        """(m, n) theta -> (m, compartments, t): MBq/mL of blood, MBq left by excretion and still there, MBq in the body."""

    def compartment_log_jacobian(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        """d ln compartment_activity / d theta at (..., n) theta -> (..., compartments, t, n)."""


@runtime_checkable
class Separable(Protocol):
    """A rung with regions whose activity follows from parameters of their own alone."""

    @property
    def separable(self) -> tuple[Region, ...]:
        """Those regions."""

    def of_regions(self, regions: Sequence[Region]) -> KineticModel:
        """The model of some of them alone, its parameters named as in the rung."""


Covariates = Mapping[str, float]
"""What is known of the patient, by quantity of the whole-body models, such as `body.age`; a rung uses what it can."""

Build = Callable[[str, Sequence[Region], Covariates], KineticModel]

UPTAKE = ("uptake_per_ml", "uptake_rate_per_ml", "f_exc", "R_density")
"""What rungs call the parameter that decides on a region's uptake: it carries the trends and says what was learned.
A region that has several goes by the first: kidneys whose tubules keep what they take up by the share that they do not."""

_RUNGS: dict[str, Build] = {}


def register(name: str, build: Build) -> None:
    """Add a rung under a name: `build(ligand, regions, covariates)`."""
    _RUNGS[name] = build


def rungs() -> tuple[str, ...]:
    """Names of the registered rungs."""
    return tuple(_RUNGS)


def rung_for(name: str, ligand: str, regions: Sequence[Region], covariates: Covariates | None = None) -> KineticModel:
    """A rung for a ligand and the regions of a patient, with what is known of the patient.

    Raises
    ------
    ModelError : unknown rung or ligand, or no regions.
    """
    if name not in _RUNGS:
        raise ModelError(f"no kinetic model named {name!r}", expected=f"one of {', '.join(sorted(_RUNGS))}", kind="model.name")
    if not regions:
        raise ModelError("a kinetic model needs at least one region", kind="model.regions")
    return _built(name, ligand, tuple(regions), tuple(sorted((covariates or {}).items())))


@lru_cache(maxsize=64)  # every step of a cycle asks for its rung, and a whole body takes half a second to build
def _built(name: str, ligand: str, regions: tuple[Region, ...], covariates: tuple[tuple[str, float], ...]) -> KineticModel:
    return _RUNGS[name](ligand, regions, dict(covariates))


def uptake_parameter(rung: KineticModel, region: str) -> str | None:
    """Name of the parameter that decides on a region's uptake, None where the rung has none for it."""
    return next((name for q in UPTAKE if (name := f"{region}.{q}") in rung.parameters), None)


def log_jacobian_by_differences(
    rung: KineticModel, theta: FloatArray, administration: Administration, times_h: FloatArray, step: float = 1e-3
) -> FloatArray:
    """Central differences of ln activity at (..., n) theta, 2 n solves each in one batch -> (..., regions, t, n)."""
    steps = step * np.eye(theta.shape[-1])
    shifted = theta[..., None, None, :] + np.stack([steps, -steps])
    activity = rung.activity(shifted.reshape(-1, theta.shape[-1]), administration, times_h)
    log_a = np.log(np.maximum(activity, 1e-300)).reshape(*shifted.shape[:-1], *activity.shape[1:])
    ahead, behind = np.moveaxis(log_a, theta.ndim - 1, 0)
    return np.moveaxis((ahead - behind) / (2 * step), -3, -1)


def to_natural(table: ParameterTable, theta: FloatArray) -> FloatArray:
    """Unconstrained (…, n) -> natural units, by each parameter's distribution."""
    natural = np.array(theta, copy=True)  # complex steps pass through
    for i, p in enumerate(table.values()):
        if p.distribution == "lognormal":
            natural[..., i] = np.exp(theta[..., i])
        elif p.distribution == "logitnormal":
            natural[..., i] = 1.0 / (1.0 + np.exp(-theta[..., i]))
    return natural
