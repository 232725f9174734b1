"""The one problem object that every estimator solves.

theta = model parameters and nuisances in unconstrained space, prior N(m, P). Data are ln of measured values (`observations`),
so that proportional error is additive. Nuisances make SPECT errors correlated as they are: one calibration factor per scanner
and cycle, one recovery factor per region shared over the cycle's scans, for an imaging agent a transfer factor, and one factor
per counter of samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from tdt_core.assimilation.observations import Datum, Group, administration_of, data_of, groups_of, independent_sd, unusable
from tdt_core.errors import EstimationError
from tdt_core.kinetics import KineticModel, Sampled
from tdt_core.kinetics.ligands import family
from tdt_core.kinetics.whole_body import FORMS
from tdt_core.parameters import Parameter, packaged_table
from tdt_core.twin import Evidence, Posterior, Sample

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
        return np.asarray(self.mean + rng.standard_normal((count, len(self.names))) @ factor_of(self.covariance).T)


def factor_of(covariance: FloatArray) -> FloatArray:
    """Lower Cholesky factor; a jitter of 1e-12 of the scale admits exactly known directions."""
    scale = float(np.trace(covariance)) / max(len(covariance), 1)
    return np.asarray(np.linalg.cholesky(covariance + 1e-12 * max(scale, 1e-12) * np.eye(len(covariance))))


SAMPLED = 0.5
"""Information (prior sd^-2) of a direction below which the moments of 500 moved draws tell nothing: where the Laplace Gaussian
of four scans sees nothing they have up to 0.6 by chance."""


def least_gain(diagnostics: Mapping[str, Any]) -> float:
    """`least` of `gained` for a posterior: `SAMPLED` where its moments are those of draws, 0 for a Laplace covariance."""
    return SAMPLED if "members" in diagnostics.get("estimator", {}) else 0.0


def gained(prior: FloatArray, posterior: FloatArray, least: float = 0.0) -> tuple[FloatArray, FloatArray, FloatArray]:
    """What the data of a fit say, in directions in which they say it apart: the posterior with its prior divided out.

    Parameters
    ----------
    prior, posterior : (n, n) covariances.
    least : less information than this counts as none.

    Returns
    -------
    white : (n, n), by row a direction of unit variance under the prior.
    narrow : (n,) variance that the posterior leaves of each.
    gain : (n,) information of the data, 1 / narrow - 1; 0 where the posterior is no narrower.
    """
    inverse = np.linalg.inv(np.linalg.cholesky(prior))
    narrow, vectors = np.linalg.eigh(inverse @ posterior @ inverse.T)
    narrow = np.clip(narrow, 1e-12, None)
    gain = 1.0 / narrow - 1.0
    return np.asarray(vectors.T @ inverse), narrow, np.where(gain > least, gain, 0.0)


def settled_sd(problem: Problem, posterior: Posterior, kind: str) -> FloatArray:
    """(d,) errors that a fit of this very problem settled for its data, outliers widened.

    Raises EstimationError of `kind` for a posterior of other data or parameters.
    """
    settled = [float(row["sd_log"]) for row in posterior.fit_report if row["status"] != "missing"]
    if len(settled) != problem.y.size or posterior.names != problem.names:
        raise EstimationError(
            f"a posterior of {len(settled)} data and {len(posterior.names)} parameters is of another problem than this one "
            f"of {problem.y.size} and {len(problem.names)}",
            expected="a fit of the same prior, evidence and model",
            kind=kind,
        )
    return np.array(settled)


@dataclass(frozen=True, eq=False)
class Problem:
    """Data, forward model and prior of one cycle.

    Attributes
    ----------
    names, mean, factor : augmented parameters, prior mean (p,), lower Cholesky factor (p, p).
    n_model : the first n_model parameters are the kinetic model's, the rest nuisances.
    y, sd : (d,) ln of the measured values and independent 1-sigma error.
    below : (d,) the truth is below the value, which is a limit of quantification.
    data : the d data of `evidence`; `left_out` those that cannot be used, with the reason.
    """

    model: KineticModel
    evidence: Evidence
    names: tuple[str, ...]
    mean: FloatArray
    factor: FloatArray
    n_model: int
    y: FloatArray
    sd: FloatArray
    below: npt.NDArray[np.bool_]
    data: tuple[Datum, ...]
    left_out: tuple[tuple[Datum, str], ...]
    _design: FloatArray = field(repr=False)
    _groups: tuple[Group, ...] = field(repr=False)

    def predict(self, theta: FloatArray) -> FloatArray:
        """(m, p) theta -> (m, d) predicted ln MBq, nuisances included."""
        theta = np.atleast_2d(theta)
        return self.shifts(theta) + self.unshifted(theta[:, : self.n_model])

    def shifts(self, theta: FloatArray) -> FloatArray:
        """(m, p) theta -> (m, d) by what nuisances shift ln MBq."""
        return np.asarray(theta[:, self.n_model :] @ self._design.T)

    def unshifted(self, theta: FloatArray) -> FloatArray:
        """(m, n_model) theta of the model -> (m, d) predicted ln MBq without nuisances."""
        out = np.zeros((len(theta), self.y.size))
        for group in self._groups:
            out[:, group.where] = group.log_sum(self._activity(group, theta))
        return out

    def _activity(self, group: Group, theta: FloatArray) -> FloatArray:
        """(m, curves, t) of the regions or compartments that a group's data sum over."""
        own = theta[:, : self.n_model]
        if group.by_region:
            return self.model.activity(own, group.administration, group.times)
        return cast(Sampled, self.model).compartment_activity(own, group.administration, group.times)

    def jacobian(self, theta: FloatArray) -> FloatArray:
        """d predicted / d theta at (..., p) theta -> (..., d, p)."""
        at = theta.reshape(-1, theta.shape[-1])
        out = np.zeros((len(at), self.y.size, self.mean.size))
        out[:, :, self.n_model :] = self._design
        for group in self._groups:
            activity = self._activity(group, at) if group.sums else None
            slope = self.model.log_jacobian if group.by_region else cast(Sampled, self.model).compartment_log_jacobian
            curves = slope(at[:, : self.n_model], group.administration, group.times)
            out[:, group.where, : self.n_model] = group.log_sum_jacobian(activity, curves)
        return out.reshape(*theta.shape[:-1], *out.shape[1:])


def build_problem(prior: Prior, evidence: Evidence, model: KineticModel) -> Problem:
    """Bring prior, evidence and model together.

    Raises
    ------
    EstimationError : the prior and the model do not name the same parameters.
    InputError : an activity before any administration of its nuclide, or after two of which one alone is followed.
    """
    if prior.names != tuple(model.parameters):
        raise EstimationError(
            "the prior and the kinetic model name different parameters",
            expected=f"the {len(tuple(model.parameters))} parameters of {model.name}, in its order",
            remedy="take `population_prior` of the model, or `adapt` the prior to it",
            kind="estimation.prior",
        )
    index = {r.name: i for i, r in enumerate(model.regions)}
    usable: list[Datum] = []
    left_out: list[tuple[Datum, str]] = []
    for datum in data_of(evidence):
        reason = unusable(datum, model, index) or ("the same datum again" if datum in usable else None)
        if reason is None:
            usable.append(datum)
        else:
            left_out.append((datum, reason))
    organ = {r.name: r.organ for r in model.regions}
    rungs = (model.name, "whole_body") if model.name in FORMS else (model.name,)
    settings = _Settings(rungs, family(model.ligand), organ)
    given = evidence.administrations
    belongs = [administration_of(datum, given) for datum in usable]
    nuisances, design = _nuisances(usable, [given[j].intent == "imaging" for j in belongs], settings)
    sd = np.array([np.hypot(independent_sd(d), settings.model_error(d.name)) for d in usable])
    n, k = len(prior.names), len(nuisances)
    covariance = np.zeros((n + k, n + k))
    covariance[:n, :n] = prior.covariance
    covariance[n:, n:] = np.diag([p.sd**2 for p in nuisances.values()])
    return Problem(
        model=model,
        evidence=evidence,
        names=prior.names + tuple(nuisances),
        mean=np.concatenate([prior.mean, [p.mean for p in nuisances.values()]]),
        factor=factor_of(covariance),
        n_model=n,
        y=np.log([d.value for d in usable]) if usable else np.zeros(0),
        sd=sd,
        below=np.array([d.below for d in usable], dtype=np.bool_),
        data=tuple(usable),
        left_out=tuple(left_out),
        _design=design,
        _groups=groups_of(usable, belongs, given, model, index),
    )


class _Nuisance(NamedTuple):
    mean: float
    sd: float


class _Settings(NamedTuple):
    """What `assimilation.csv` says of a rung, a ligand family and the organ of each region."""

    rungs: tuple[str, ...]
    """The rung, then the one whose calibration holds for it where it has none of its own."""
    ligand_family: str
    organ: Mapping[str, str]

    def model_error(self, region: str) -> float:
        """Sd of ln activity beside the measured error budget."""
        organ = self.organ.get(region, region)  # a kind of sample stands for itself
        own = [f"model_error.{rung}.{x}{organ}" for rung in self.rungs for x in (f"{self.ligand_family}.", "")]
        return self._row(*own, f"model_error.{organ}", "model_error.default").value

    def transfer(self, region: str) -> _Nuisance:
        """ln of an early image of the imaging agent over what the therapy's curve says of that time."""
        last = f"{self.ligand_family}.{self.organ[region]}"
        own = [f"transfer.{rung}.{last}" for rung in self.rungs]
        row = self._row(*own, f"transfer.{last}", "transfer.default")
        return _Nuisance(row.value, row.sd)

    @staticmethod
    def _row(*names: str) -> Parameter:
        table = packaged_table("assimilation.csv")
        return next(table[name] for name in names if name in table)


def _nuisances(
    data: Sequence[Datum], of_imaging_agent: Sequence[bool], settings: _Settings
) -> tuple[dict[str, _Nuisance], FloatArray]:
    """Nuisances with their prior, and by how much one unit of each shifts each datum (d, k)."""
    shifts: dict[str, dict[int, float]] = {}
    spread: dict[str, list[float]] = {}
    means: dict[str, float] = {}

    def add(name: str, i: int, sd: float, shift: float = 1.0, mean: float = 0.0) -> None:
        shifts.setdefault(name, {})[i] = shift
        spread.setdefault(name, []).append(sd)
        means[name] = mean

    for i, (datum, imaged) in enumerate(zip(data, of_imaging_agent, strict=True)):
        d = datum.source
        if isinstance(d, Sample):
            if d.calibration_sd:
                add(f"counter.calibration/{d.kind}/{d.calibration_id}", i, d.calibration_sd)
            continue
        add(f"scanner.calibration/{d.calibration_id}", i, d.budget.calibration)
        # in units of the record's sd of the FWHM: its effect differs between regions in size and sign
        if d.budget.resolution:
            add(f"scanner.resolution/{d.calibration_id}", i, 1.0, d.budget.resolution)
        add(f"{d.region}.recovery/{d.modality}", i, d.budget.shared)
        if imaged:
            add("imaging_agent.transfer", i, packaged_table("assimilation.csv").value("transfer.shared"))
            transfer = settings.transfer(d.region)
            add(f"{d.region}.transfer", i, transfer.sd, mean=transfer.mean)
    design = np.zeros((len(data), len(shifts)))
    for column, members in enumerate(shifts.values()):
        design[list(members), column] = list(members.values())
    return {name: _Nuisance(means[name], max(float(np.mean(sds)), 1e-4)) for name, sds in spread.items()}, design
