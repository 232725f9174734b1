"""The one problem object that every estimator solves.

theta = model parameters and nuisances in unconstrained space, prior N(m, P). Data are ln activities, so that proportional
error is additive. Nuisances make SPECT errors correlated as they are: one calibration factor per scanner and cycle, one
recovery factor per region shared over the cycle's scans, and for an imaging agent a transfer factor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tdt_core.errors import EstimationError, InputError
from tdt_core.kinetics import KineticModel
from tdt_core.kinetics.ligands import family
from tdt_core.parameters import Parameter, packaged_table
from tdt_core.twin import Administration, Evidence, RegionActivity

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Prior:
    """Gaussian in unconstrained space over a model's parameters.

    names (n,), mean (n,), covariance (n, n). `origin` says where it comes from: population, or the state it evolved from.
    """

    names: tuple[str, ...]
    mean: FloatArray
    covariance: FloatArray
    origin: str

    def __post_init__(self) -> None:
        n = len(self.names)
        if self.mean.shape != (n,) or self.covariance.shape != (n, n):
            raise EstimationError(f"prior shapes {self.mean.shape}, {self.covariance.shape}", expected=f"({n},), ({n}, {n})")

    def draws(self, count: int, rng: np.random.Generator) -> FloatArray:
        """(count, n) draws."""
        return np.asarray(self.mean + rng.standard_normal((count, len(self.names))) @ _factor(self.covariance).T)


def _factor(covariance: FloatArray) -> FloatArray:
    """Lower Cholesky factor; a jitter of 1e-12 of the scale admits exactly known directions."""
    scale = float(np.trace(covariance)) / max(len(covariance), 1)
    return np.asarray(np.linalg.cholesky(covariance + 1e-12 * max(scale, 1e-12) * np.eye(len(covariance))))


@dataclass(frozen=True, eq=False)
class Problem:
    """Data, forward model and prior of one cycle.

    Attributes
    ----------
    names, mean, factor : augmented parameters, prior mean (p,), lower Cholesky factor (p, p).
    n_model : the first n_model parameters are the kinetic model's, the rest nuisances.
    y, sd : (d,) ln MBq and independent 1-sigma error.
    data : the d region activities; `left_out` those that cannot be used, with the reason.
    """

    model: KineticModel
    names: tuple[str, ...]
    mean: FloatArray
    factor: FloatArray
    n_model: int
    y: FloatArray
    sd: FloatArray
    data: tuple[RegionActivity, ...]
    left_out: tuple[tuple[RegionActivity, str], ...]
    _design: FloatArray = field(repr=False)
    _groups: tuple[tuple[Administration, npt.NDArray[np.intp], FloatArray, npt.NDArray[np.intp]], ...] = field(repr=False)

    def predict(self, theta: FloatArray) -> FloatArray:
        """(m, p) theta -> (m, d) predicted ln MBq, nuisances included."""
        theta = np.atleast_2d(theta)
        out = theta[:, self.n_model :] @ self._design.T
        for administration, where, times, position in self._groups:
            a = self.model.activity(theta[:, : self.n_model], administration, times)
            out[:, where] += np.log(np.maximum(a[:, position, np.arange(where.size)], 1e-300))
        return out

    def jacobian(self, theta: FloatArray) -> FloatArray:
        """d predicted / d theta at one (p,) theta -> (d, p)."""
        out = np.zeros((self.y.size, self.mean.size))
        out[:, self.n_model :] = self._design
        for administration, where, times, position in self._groups:
            j = self.model.log_jacobian(theta[: self.n_model], administration, times)
            out[where, : self.n_model] = j[position, np.arange(where.size)]
        return out


def build_problem(prior: Prior, evidence: Evidence, model: KineticModel) -> Problem:
    """Bring prior, evidence and model together.

    Raises
    ------
    EstimationError : the prior and the model do not name the same parameters.
    InputError : an activity before any administration of its nuclide.
    """
    if prior.names != tuple(model.parameters):
        raise EstimationError("the prior and the kinetic model name different parameters", kind="estimation.prior")
    index = {r.name: i for i, r in enumerate(model.regions)}
    usable: list[RegionActivity] = []
    left_out: list[tuple[RegionActivity, str]] = []
    for datum in evidence.activities:
        if datum.region not in index:
            left_out.append((datum, "region is not in the model"))
        elif not (np.isfinite(datum.activity_mbq) and datum.activity_mbq > 0):
            left_out.append((datum, "no positive activity"))
        else:
            usable.append(datum)
    organ = {r.name: r.organ for r in model.regions}
    settings = _Settings(model.name, family(model.ligand), organ)
    nuisances, design = _nuisances(usable, settings)
    sd = np.array([np.hypot(d.budget.independent, settings.model_error(d.region)) for d in usable])
    n, k = len(prior.names), len(nuisances)
    covariance = np.zeros((n + k, n + k))
    covariance[:n, :n] = prior.covariance
    covariance[n:, n:] = np.diag([p.sd**2 for p in nuisances.values()])
    return Problem(
        model=model,
        names=prior.names + tuple(nuisances),
        mean=np.concatenate([prior.mean, [p.mean for p in nuisances.values()]]),
        factor=_factor(covariance),
        n_model=n,
        y=np.log([d.activity_mbq for d in usable]) if usable else np.zeros(0),
        sd=sd,
        data=tuple(usable),
        left_out=tuple(left_out),
        _design=design,
        _groups=tuple(_groups(usable, evidence, index)),
    )


class _Nuisance(NamedTuple):
    mean: float
    sd: float


class _Settings(NamedTuple):
    """What `assimilation.csv` says of a rung, a ligand family and the organ of each region."""

    rung: str
    ligand_family: str
    organ: Mapping[str, str]

    def model_error(self, region: str) -> float:
        """Sd of ln activity beside the measured error budget."""
        organ = self.organ[region]
        return self._row(f"model_error.{self.rung}.{organ}", f"model_error.{organ}", "model_error.default").value

    def transfer(self, region: str) -> _Nuisance:
        """ln of an early image of the imaging agent over what the therapy's curve says of that time."""
        last = f"{self.ligand_family}.{self.organ[region]}"
        row = self._row(f"transfer.{self.rung}.{last}", f"transfer.{last}", "transfer.default")
        return _Nuisance(row.value, row.sd)

    @staticmethod
    def _row(*names: str) -> Parameter:
        table = packaged_table("assimilation.csv")
        return next(table[name] for name in names if name in table)


def _nuisances(data: Sequence[RegionActivity], settings: _Settings) -> tuple[dict[str, _Nuisance], FloatArray]:
    """Nuisances with their prior, and by how much one unit of each shifts each datum (d, k)."""
    shifts: dict[str, dict[int, float]] = {}
    spread: dict[str, list[float]] = {}
    means: dict[str, float] = {}

    def add(name: str, i: int, sd: float, shift: float = 1.0, mean: float = 0.0) -> None:
        shifts.setdefault(name, {})[i] = shift
        spread.setdefault(name, []).append(sd)
        means[name] = mean

    for i, d in enumerate(data):
        add(f"scanner.calibration/{d.calibration_id}", i, d.budget.calibration)
        # in units of the record's sd of the FWHM: its effect differs between regions in size and sign
        if d.budget.resolution:
            add(f"scanner.resolution/{d.calibration_id}", i, 1.0, d.budget.resolution)
        add(f"{d.region}.recovery/{d.modality}", i, d.budget.shared)
        if d.modality == "PET":
            add("imaging_agent.transfer", i, packaged_table("assimilation.csv").value("transfer.shared"))
            transfer = settings.transfer(d.region)
            add(f"{d.region}.transfer", i, transfer.sd, mean=transfer.mean)
    design = np.zeros((len(data), len(shifts)))
    for column, members in enumerate(shifts.values()):
        design[list(members), column] = list(members.values())
    return {name: _Nuisance(means[name], max(float(np.mean(sds)), 1e-4)) for name, sds in spread.items()}, design


def _groups(
    data: Sequence[RegionActivity], evidence: Evidence, index: dict[str, int]
) -> list[tuple[Administration, npt.NDArray[np.intp], FloatArray, npt.NDArray[np.intp]]]:
    """Data by the administration that they belong to: the last one of their nuclide before them."""
    found: dict[int, list[int]] = {}
    for i, d in enumerate(data):
        before = [j for j, a in enumerate(evidence.administrations) if a.nuclide == d.nuclide and a.time_h < d.time_h]
        if not before:
            raise InputError(
                f"activity of {d.region} at {d.time_h:.1f} h has no earlier administration of {d.nuclide}",
                remedy="check the administration record and the scan times",
                kind="input.scan_before_injection",
            )
        found.setdefault(max(before, key=lambda j: evidence.administrations[j].time_h), []).append(i)
    groups = []
    for j, members in found.items():
        administration = evidence.administrations[j]
        times = np.array([data[i].time_h - administration.time_h for i in members])
        groups.append((administration, np.array(members), times, np.array([index[data[i].region] for i in members])))
    return groups
