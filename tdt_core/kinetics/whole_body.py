"""Whole-body rung: the PBRPK model of the ligand's receptor behind the protocol of the ladder.

The patient's regions take the place of the model's organs that bind ligand: their segmented volumes and the covariates (sex,
age, height, weight, haematocrit, creatinine) go in as given, what is estimated is listed in `kinetics_whole_body.csv`, and
everything else stands at its population median. Segmented lesions replace the population's tumour load. Regions without
receptors (marrow, lungs, bladder, rest) keep their population sum of exponentials: late retention there is not in the model,
and in images they hold spill-in and only what lies in the field of view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.errors import EstimationError, ModelError
from tdt_core.kinetics.ladder import Covariates, register, to_natural
from tdt_core.kinetics.ligands import receptor_of
from tdt_core.kinetics.pbrpk import PBRPK
from tdt_core.kinetics.population import Population, population
from tdt_core.kinetics.rosenbrock import solve
from tdt_core.kinetics.sensitivity import COMPLEX_STEP
from tdt_core.kinetics.simulation import Run, dataset, plan, with_decay
from tdt_core.kinetics.sum_of_exponentials import SumOfExponentials
from tdt_core.parameters import Parameter, ParameterTable, packaged_csv, packaged_table
from tdt_core.twin import Administration, Region

FloatArray = npt.NDArray[np.float64]

MODEL_OF = {"PSMA": "psma"}
"""Receptor -> whole-body model with a calibrated population."""

ORGAN_OF = {"prostate_bed": "prostate"}
"""Regions that the model names otherwise."""

TOLERANCE = 1e-5


@dataclass(frozen=True)
class WholeBody:
    """The rung `whole_body`."""

    ligand: str
    regions: tuple[Region, ...]
    covariates: tuple[tuple[str, float], ...] = ()
    name: str = "whole_body"

    @cached_property
    def _population(self) -> Population:
        return population(MODEL_OF[receptor_of(self.ligand)])

    @cached_property
    def _place(self) -> Mapping[str, str]:
        """Region -> organ of the model, of those that bind ligand there."""
        known = {o.name for o in self._population.model.organs if o.binds}
        names = {r.name: ORGAN_OF.get(r.name, r.name) for r in self.regions}
        return {r: o for r, o in names.items() if o in known or o.startswith("lesion/")}

    @cached_property
    def _outside(self) -> tuple[Region, ...]:
        return tuple(r for r in self.regions if r.name not in self._place)

    @cached_property
    def _described(self) -> SumOfExponentials | None:
        """The regions outside the model, by their population curves."""
        return SumOfExponentials(self.ligand, self._outside) if self._outside else None

    @cached_property
    def _base(self) -> PBRPK:
        """The patient's model: segmented lesions for the population's tumour load, and only the kidneys that there are."""
        model = self._population.model
        kidneys = {r.name for r in self.regions if r.organ == "kidneys"}
        absent = [o.name for o in model.organs if kidneys and o.template == "paired_kidney" and o.name not in kidneys]
        lesions = {r.name: {"volume": r.volume_ml / 1000.0} for r in self.regions if r.organ == "lesions"}
        return model.without(*absent, "tumour_rest").with_lesions(lesions)

    def _model(self, ligand: str) -> PBRPK:
        return self._base if ligand == self.ligand else self._base.with_ligand(ligand)

    @cached_property
    def _binding(self) -> frozenset[str]:
        return frozenset(o.name for o in self._base.organs if o.binds)

    @cached_property
    def _fixed(self) -> Mapping[str, float]:
        """Everything that is given and not estimated, by quantity of the model."""
        typical = self._population.typical()
        tumours = {n.rpartition(".")[2]: v for n, v in typical.items() if n.startswith("tumour_rest.")}
        given = {n: v for n, v in typical.items() if not n.startswith("tumour_rest.")}
        for region in self.regions:
            organ = self._place.get(region.name, "")
            if region.organ == "lesions":
                given |= {f"{organ}.{q}": v for q, v in tumours.items()}
            if organ in self._binding:
                given[f"{organ}.volume"] = region.volume_ml / 1000.0
        given |= dict(self.covariates)
        if "blood.creatinine" in dict(self.covariates):
            given.pop("body.eGFR", None)
        return {n: v for n, v in given.items() if n in self._base.table}

    @cached_property
    def parameters(self) -> ParameterTable:
        """Estimated quantities: shared ones, then region by region, then those of regions outside the model."""
        values = self._base.quantities(self._fixed)
        rows = [r for r in packaged_csv("kinetics_whole_body.csv") if r["model"] == MODEL_OF[receptor_of(self.ligand)]]
        table = []
        for row in rows:
            scopes = [(r.name, self._place[r.name]) for r in self.regions if r.organ == row["organ"] and r.name in self._place]
            for region, organ in scopes or ([(row["organ"], row["organ"])] if row["organ"] in ("body", "blood") else []):
                quantity = f"{organ}.{row['quantity']}"
                table.append(
                    Parameter(
                        f"{region}.{row['quantity']}",
                        float(values[quantity]),
                        self._base.table[quantity].unit,
                        row["status"],  # type: ignore[arg-type]
                        row["source"],
                        row["distribution"],  # type: ignore[arg-type]
                        float(row["sd"]),
                    )
                )
        order = {r.name: i for i, r in enumerate(self.regions)}
        table.sort(key=lambda p: order.get(p.name.rpartition(".")[0], -1))
        return ParameterTable([*table, *(self._described.parameters.values() if self._described else ())])

    @cached_property
    def _own(self) -> int:
        """Number of parameters of the model; those of regions outside it follow."""
        return len(self.parameters) - (len(self._described.parameters) if self._described else 0)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """Quantity of the model that each of its parameters is."""
        split = [name.rpartition(".") for name in list(self.parameters)[: self._own]]
        return tuple(f"{self._place.get(scope, scope)}.{quantity}" for scope, _, quantity in split)

    @cached_property
    def _shares(self) -> FloatArray:
        """(regions, model regions) share of each organ of the model that a region holds."""
        out = np.zeros((len(self.regions), len(self._base.regions)))
        for i, region in enumerate(self.regions):
            if region.name in self._place:
                out[i, self._base.regions.index(self._place[region.name])] = 1.0
        return out

    def _given(self, theta: FloatArray) -> dict[str, Any]:
        """(m, own) theta, maybe complex -> every quantity that is given, (m,) where estimated."""
        table = ParameterTable(list(self.parameters.values())[: self._own])
        natural = to_natural(table, theta)
        return {**self._fixed, **{name: natural[:, i] for i, name in enumerate(self._names)}}

    def _coefficients(self, run: Run, model: PBRPK, theta: FloatArray) -> FloatArray:
        given = self._given(theta)
        if model is not self._base:
            given = {n: v for n, v in given.items() if not n.startswith("ligand.")}
        return run.network.gather(with_decay(model.coefficients(given), run.labels))

    def _plan(self, administration: Administration, times_h: FloatArray) -> tuple[PBRPK, Run]:
        a = administration
        key = (a.ligand, a.nuclide, a.amount_nmol, a.activity_mbq, a.residual_mbq, a.duration_h, times_h.tobytes())
        if key not in self._plans:
            if len(self._plans) > 50:
                self._plans.clear()  # times differ in every cycle: keep what one fit needs
            model = self._model(a.ligand)
            at_zero = replace(a, time_h=0.0, amount_nmol=_amount(a))
            self._plans[key] = (model, plan(model, [at_zero], times_h, None, TOLERANCE, by_part=False))
        return self._plans[key]

    @cached_property
    def _plans(self) -> dict[tuple[Any, ...], tuple[PBRPK, Run]]:
        return {}

    def _solve(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(m, own) theta, ascending (t,) h -> (m, regions, t) MBq and (m, regions) MBq h of the regions in the model."""
        model, run = self._plan(administration, times_h)
        found = solve(run.tables, self._coefficients(run, model, theta), run.course, TOLERANCE, run.scale_nmol)
        if found.failed.any():
            raise EstimationError(f"{int(found.failed.sum())} of {found.failed.size} solves failed", remedy="narrow the prior")
        data = dataset(run, found)
        activity = np.einsum("ro,mot->mrt", self._shares, data["activity_mbq"].to_numpy()[:, 0])
        return activity, data["tia_mbq_h"].to_numpy()[:, 0] @ self._shares.T

    def activity(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        """See `KineticModel.activity`."""
        theta = np.atleast_2d(theta)
        times, back = np.unique(np.asarray(times_h, dtype=float), return_inverse=True)
        out = self._solve(theta[:, : self._own], administration, times)[0][:, :, back]
        if self._described:
            out[:, self._outside_rows] = self._described.activity(theta[:, self._own :], administration, times_h)
        return out

    def time_integrated_activity(self, theta: FloatArray, administration: Administration) -> FloatArray:
        """See `KineticModel.time_integrated_activity`."""
        theta = np.atleast_2d(theta)
        out = self._solve(theta[:, : self._own], administration, np.zeros(0))[1]
        if self._described:
            out[:, self._outside_rows] = self._described.time_integrated_activity(theta[:, self._own :], administration)
        return out

    @cached_property
    def _outside_rows(self) -> list[int]:
        return [i for i, r in enumerate(self.regions) if r in self._outside]

    def log_jacobian(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        """See `KineticModel.log_jacobian`; tangents of the solver's steps, rules by complex step."""
        theta = np.asarray(theta, dtype=float)
        times, back = np.unique(np.asarray(times_h, dtype=float), return_inverse=True)
        model, run = self._plan(administration, times)
        own = theta[: self._own]
        stepped = self._coefficients(run, model, own + 1j * COMPLEX_STEP * np.eye(self._own))
        found = solve(
            run.tables, np.ascontiguousarray(stepped.real), run.course, TOLERANCE, run.scale_nmol, stepped.imag / COMPLEX_STEP
        )
        if found.failed.any():
            raise EstimationError("the solver could not follow the model", remedy="narrow the prior")
        # (p, t, model regions) -> (p, regions, t); the factors from amount to activity cancel in d ln
        value, slope = (np.einsum("ro,pto->prt", self._shares, x) for x in (found.amounts, found.amounts_slope))
        out = np.zeros((len(self.regions), len(back), theta.size))
        out[:, :, : self._own] = np.moveaxis(slope / np.maximum(value, 1e-300), 0, -1)[:, back]
        if self._described:
            rows = self._outside_rows
            out[rows] = 0.0
            out[rows, :, self._own :] = self._described.log_jacobian(theta[self._own :], administration, times_h)
        return out


def _amount(administration: Administration) -> float | None:
    """Ligand amount, nmol; of an image's agent a tracer's where it was not recorded: uptake is close to linear there."""
    if administration.amount_nmol is None and administration.intent == "imaging":
        return packaged_table("assimilation.csv").value("imaging_amount")
    return administration.amount_nmol


def _build(ligand: str, regions: Sequence[Region], covariates: Covariates) -> WholeBody:
    receptor = receptor_of(ligand)
    if receptor not in MODEL_OF:
        raise ModelError(
            f"the whole-body model of {receptor}, which {ligand} binds to, is not calibrated to patients",
            expected=f"a ligand of {', '.join(MODEL_OF)}",
            remedy="use the rung sum_of_exponentials",
            kind="model.ligand",
        )
    return WholeBody(ligand, tuple(regions), tuple(sorted(covariates.items())))


register("whole_body", _build)
