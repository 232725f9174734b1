"""Whole-body rung: the PBRPK model of the ligand's receptor behind the protocol of the ladder.

The patient's regions take the place of the model's organs that bind ligand: their segmented volumes and the covariates (sex,
age, height, weight, haematocrit, creatinine) go in as given, what is estimated is listed in `kinetics_whole_body.csv`, and
everything else stands at its population median. Segmented lesions replace the population's tumour load. Regions without
receptors (marrow, lungs, bladder, rest) and the liver keep their population sum of exponentials: late retention and clearance
through bile are not in the model, and images of the others hold spill-in and only what lies in the field of view.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.errors import EstimationError, ModelError
from tdt_core.kinetics.anatomy import SINK, VENOUS
from tdt_core.kinetics.daughters import daughters_of
from tdt_core.kinetics.ladder import Covariates, register, to_natural
from tdt_core.kinetics.ligands import receptor_of
from tdt_core.kinetics.lumping import AVERAGED, lumped, organs_of, reduced, shares_of
from tdt_core.kinetics.ode_rung import System, by_name
from tdt_core.kinetics.pbrpk import COMMON, PBRPK
from tdt_core.kinetics.population import Population, population
from tdt_core.kinetics.progeny import Shift
from tdt_core.kinetics.rules import Quantities
from tdt_core.kinetics.simulation import simulate_batch
from tdt_core.kinetics.sum_of_exponentials import SumOfExponentials
from tdt_core.nuclides import nuclide
from tdt_core.nuclides.chains import decays_per_parent_decay
from tdt_core.parameters import Parameter, ParameterTable, packaged_csv, packaged_table
from tdt_core.twin import Administration, Region

FloatArray = npt.NDArray[np.float64]

MODEL_OF = {"PSMA": "psma", "SSTR2": "sstr"}
"""Receptor -> whole-body model, of those for which `kinetics_whole_body.csv` says what is estimated."""

BLOCK = 128
"""Draws whose daughters are followed at a time: activity by label, organ and time is held for all of them."""

DAUGHTER_HALF_LIVES = 20.0
"""Half-lives of the parent after which what is left of its daughters is nothing, about 1e-7 of their decays."""

OF_THE_THERAPY = ("ligand.reuptake",)
"""What amino acids leave of tubular uptake, also of another agent's: an image without them stands higher by the transfer."""

ORGAN_OF = {"prostate_bed": "prostate"}
"""Regions that the model names otherwise."""


def same(model: PBRPK) -> PBRPK:
    """The whole body as it is."""
    return model


def with_albumin(model: PBRPK) -> PBRPK:
    """The whole body with explicit binding to albumin."""
    return model.with_options(plasma_binding="albumin")


@dataclass(frozen=True)
class WholeBody:
    """The rung `whole_body`."""

    ligand: str
    regions: tuple[Region, ...]
    covariates: tuple[tuple[str, float], ...] = ()
    name: str = "whole_body"
    change: Callable[[PBRPK], PBRPK] = same
    tolerance: float = 1e-4

    @cached_property
    def _population(self) -> Population:
        return population(MODEL_OF[receptor_of(self.ligand)])

    @cached_property
    def _rows(self) -> tuple[Mapping[str, str], ...]:
        """What is estimated in this model."""
        return tuple(r for r in packaged_csv("kinetics_whole_body.csv") if r["model"] == self._population.model.name)

    @cached_property
    def _place(self) -> Mapping[str, str]:
        """Region -> organ of the model, of those in which something is estimated."""
        estimated = {r["organ"] for r in self._rows}
        return {r.name: ORGAN_OF.get(r.name, r.name) for r in self.regions if r.organ in estimated}

    @cached_property
    def _outside(self) -> tuple[Region, ...]:
        return tuple(r for r in self.regions if r.name not in self._place)

    @cached_property
    def _described(self) -> SumOfExponentials | None:
        """The regions outside the model, by their population curves."""
        return SumOfExponentials(self.ligand, self._outside) if self._outside else None

    @property
    def separable(self) -> tuple[Region, ...]:
        """See `Separable`: the regions outside the model."""
        return self._outside

    def of_regions(self, regions: Sequence[Region]) -> SumOfExponentials:
        """See `Separable`."""
        return SumOfExponentials(self.ligand, tuple(regions))

    @cached_property
    def _base(self) -> PBRPK:
        """The patient's model: segmented lesions for the population's tumour load, and only the organs that there are."""
        model = self._population.model
        kidneys = {r.name for r in self.regions if r.organ == "kidneys"}
        absent = [o.name for o in model.organs if kidneys and o.template == "paired_kidney" and o.name not in kidneys]
        absent += [o.name for o in model.organs if o.name == "prostate" and dict(self.covariates).get("body.female")]
        lesions = {r.name: {"volume": r.volume_ml / 1000.0} for r in self.regions if r.organ == "lesions"}
        return self.change(model.without(*absent, "tumour_rest").with_lesions(lesions))

    @cached_property
    def _fixed(self) -> Mapping[str, float]:
        """Everything that is given and not estimated, by quantity of the model."""
        typical = self._population.typical(given=dict(self.covariates))
        tumours = {n.rpartition(".")[2]: v for n, v in typical.items() if n.startswith("tumour_rest.")}
        given = {n: v for n, v in typical.items() if not n.startswith("tumour_rest.")}
        binding = {o.name for o in self._population.model.organs if o.binds}  # their segmented volume is the model's
        for region in self.regions:
            if region.organ == "lesions":
                given |= {f"{region.name}.{q}": v for q, v in tumours.items()}
            organ = ORGAN_OF.get(region.name, region.name)
            if organ in binding or region.organ == "lesions":
                given[f"{organ}.volume"] = region.volume_ml / 1000.0
        given |= dict(self.covariates)
        if self._base.plasma_binding == "albumin":
            given["ligand.K_D_albumin"] = _dissociation(given["blood.free_fraction"], self._base)
        return {n: v for n, v in given.items() if n in self._base.table}

    @cached_property
    def _candidates(self) -> tuple[tuple[Mapping[str, str], str, str], ...]:
        """Row, region or scope, and quantity of the model, of everything that the table of estimates asks for and there is."""
        found = []
        for row in self._rows:
            scopes = [(r.name, self._place[r.name]) for r in self.regions if r.organ == row["organ"] and r.name in self._place]
            for region, organ in scopes or ([(row["organ"], row["organ"])] if row["organ"] in COMMON else []):
                quantity = f"{organ}.{row['quantity']}"
                if quantity in self._base.table:  # else of another form of plasma binding
                    found.append((row, region, quantity))
        return tuple(found)

    @cached_property
    def _taken_over(self) -> Mapping[str, str]:
        """Quantity -> the one whose value it takes.

        In a merged organ only the mean of its members' rates acts. Nothing would tell them apart, and the posterior would lie
        along a bent ridge: the first member's rate stands for all that are estimated.
        """
        merged = {member.name: organ.name for organ in self._base.organs for member in organ.members}
        first: dict[tuple[str, str], str] = {}
        found = {}
        for row, _, quantity in self._candidates:
            into = merged.get(quantity.rpartition(".")[0])
            if into and row["quantity"] in AVERAGED:
                leader = first.setdefault((into, row["quantity"]), quantity)
                if leader != quantity:
                    found[quantity] = leader
        return found

    @cached_property
    def parameters(self) -> ParameterTable:
        """Estimated quantities: shared ones, then region by region, then those of regions outside the model."""
        values = self._base.quantities(self._fixed)
        table = []
        for row, region, quantity in self._candidates:
            if quantity in self._taken_over:
                continue
            alike = [region, *(r for _, r, q in self._candidates if self._taken_over.get(q) == quantity)]
            one = f"; one for {', '.join(alike)}, which are one organ here" if len(alike) > 1 else ""
            table.append(
                Parameter(
                    f"{region}.{row['quantity']}",
                    float(values[quantity]),
                    self._base.table[quantity].unit,
                    row["status"],  # type: ignore[arg-type]
                    row["source"] + one,
                    row["distribution"],  # type: ignore[arg-type]
                    float(row["sd"]),
                )
            )
        order = {r.name: i for i, r in enumerate(self.regions)}
        table.sort(key=lambda p: order.get(p.name.rpartition(".")[0], -1))
        return ParameterTable([*table, *(self._described.parameters.values() if self._described else ())])

    @cached_property
    def background(self) -> ParameterTable:
        """Numbers of the model and of its population that are neither estimated nor known of the patient."""
        table = dict(self._base.parameters) | {
            n: p for n, p in self._population.table.parameters.items() if n in self._base.table
        }
        patient = {f"{ORGAN_OF.get(r.name, r.name)}.volume" for r in self.regions}
        own = {*self._names, *self._taken_over, *dict(self.covariates), *patient}
        values = self._base.quantities(self._fixed)
        return ParameterTable(
            [replace(p, value=float(values[n]), distribution="fixed", sd=0.0) for n, p in table.items() if n not in own]
        )

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
    def _systems(self) -> dict[str, System]:
        return {}

    def _of(self, ligand: str) -> PBRPK:
        return self._base if ligand == self.ligand else self._base.with_ligand(ligand)

    @cached_property
    def _followers(self) -> dict[str, PBRPK]:
        return {}

    def _following(self, ligand: str) -> PBRPK:
        """The model of a ligand with its daughters; to build it takes as long as to solve hundreds of draws."""
        if ligand not in self._followers:
            self._followers[ligand] = self._of(ligand).with_options(daughters="followed")
        return self._followers[ligand]

    def _system(self, ligand: str) -> System:
        """The model of a ligand of the same receptor; the imaging agent's differs in its own rows only."""
        if ligand not in self._systems:
            model = self._of(ligand)

            evaluate = model.prepared(self._fixed_of(ligand), (*self._names, *self._taken_over))

            def quantities(theta: npt.NDArray[Any]) -> Quantities:
                return evaluate(self._estimated(theta))

            self._systems[ligand] = System(model, quantities, model.coefficients_of, self._shares, self.tolerance)
        return self._systems[ligand]

    @cached_property
    def _own_parameters(self) -> ParameterTable:
        return ParameterTable(list(self.parameters.values())[: self._own])

    def _fixed_of(self, ligand: str) -> dict[str, float]:
        own = ligand == self.ligand
        return {n: v for n, v in self._fixed.items() if own or n in OF_THE_THERAPY or not n.startswith("ligand.")}

    def _estimated(self, theta: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """(m, own) theta -> (m,) of each estimated quantity of the model."""
        found = dict(zip(self._names, to_natural(self._own_parameters, theta).T, strict=True))
        return found | {quantity: found[leader] for quantity, leader in self._taken_over.items()}

    def _shares(self, values: Quantities) -> npt.NDArray[Any]:
        """Of the model's organs, merged ones apart again, what each region holds."""
        regions = [self._place.get(r.name, "") for r in self.regions]
        if not any(o.members for o in self._base.organs):
            return by_name(regions, self._base.regions)
        return np.asarray(by_name(regions, organs_of(self._base)) @ shares_of(self._base, values))

    def activity(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        """See `KineticModel.activity`."""
        theta, given = np.atleast_2d(theta), _with_amount(administration)
        out = self._system(given.ligand).activity(theta[:, : self._own], given, times_h)
        if self._described:
            out[:, self._outside_rows] = self._described.activity(theta[:, self._own :], given, times_h)
        return out

    def time_integrated_activity(self, theta: FloatArray, administration: Administration) -> FloatArray:
        """See `KineticModel.time_integrated_activity`."""
        theta, given = np.atleast_2d(theta), _with_amount(administration)
        out = self._system(given.ligand).time_integrated_activity(theta[:, : self._own], given)
        if self._described:
            out[:, self._outside_rows] = self._described.time_integrated_activity(theta[:, self._own :], given)
        return out

    compartments = ("blood", "excreta", "whole_body")

    def _compartment_system(self, ligand: str) -> System:
        key = f"{ligand} by compartment"
        if key not in self._systems:
            self._systems[key] = replace(self._system(ligand), shares=self._compartment_shares)
        return self._systems[key]

    def _compartment_shares(self, values: Quantities) -> npt.NDArray[Any]:
        """(m or 1, compartments, model regions); blood per mL: ligand is in the plasma of the venous pool alone."""
        plasma_ml = np.asarray(values[f"{VENOUS}.volume"]) * 1000.0
        per_ml = (1.0 - np.asarray(values["blood.hematocrit"])) / plasma_ml
        names = self._base.regions
        out = np.zeros((max(1, per_ml.size), len(self.compartments), len(names)), per_ml.dtype)
        out[:, 0, names.index(VENOUS)] = per_ml
        out[:, 1, names.index(SINK)] = 1.0
        out[:, 2] = [name != SINK for name in names]
        return out

    def compartment_activity(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        """See `Sampled.compartment_activity`."""
        given = _with_amount(administration)
        return self._compartment_system(given.ligand).activity(np.atleast_2d(theta)[:, : self._own], given, times_h)

    def compartment_log_jacobian(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        """See `Sampled.compartment_log_jacobian`."""
        given, theta = _with_amount(administration), np.asarray(theta, dtype=float)
        out = np.zeros((*theta.shape[:-1], len(self.compartments), len(times_h), theta.shape[-1]))
        out[..., : self._own] = self._compartment_system(given.ligand).log_jacobian(theta[..., : self._own], given, times_h)
        return out

    def daughter_time_integrated_activity(self, theta: FloatArray, administration: Administration) -> dict[str, FloatArray]:
        """(m, n) theta -> daughter -> (m, regions) MBq h of daughters that leave the ligand where their parent decays.

        At the medians of `pbrpk_daughters.csv`; empty for a nuclide without such daughters.
        """
        found = self.daughter_shifts(np.atleast_2d(theta), administration, np.zeros(0), {})
        parent = self.time_integrated_activity(theta, administration) if found else np.zeros(0)
        per_parent = decays_per_parent_decay(administration.nuclide)
        return {s.daughter: per_parent[s.daughter] * parent + s.tia_mbq_h for s in found}

    def daughter_shifts(
        self, theta: FloatArray, administration: Administration, times_h: FloatArray, quantities: Mapping[str, Any]
    ) -> tuple[Shift, ...]:
        """See `FollowsDaughters`. In regions outside the model daughters decay with their parent, but `rest`, if the patient
        has it, takes what happens in organs of the model that are no region of his."""
        if not daughters_of(administration.nuclide):
            return ()
        parts = []
        for block in (slice(i, i + BLOCK) for i in range(0, len(theta), BLOCK)):
            own = {n: _part(v, block) for n, v in quantities.items()}
            parts.append(self._shifts(theta[block], administration, times_h, own))
        return tuple(map(_joined, zip(*parts, strict=True)))

    def _shifts(
        self, theta: FloatArray, administration: Administration, times_h: FloatArray, quantities: Mapping[str, Any]
    ) -> list[Shift]:
        given = self._fixed_of(administration.ligand) | self._estimated(theta[:, : self._own])
        model = self._following(administration.ligand)
        end = max(DAUGHTER_HALF_LIVES * nuclide(administration.nuclide).half_life_h, times_h.max(initial=0.0))
        schedule = [replace(_with_amount(administration), time_h=0.0)]
        data = simulate_batch(model, given | dict(quantities), schedule, times_h, end_h=end)
        if data["failed"].any():
            raise EstimationError(f"{int(data['failed'].sum())} of {len(theta)} solves failed", remedy="narrow the prior")
        parent = nuclide(administration.nuclide).name
        least = -self.time_integrated_activity(theta, administration)
        shares = self._shares(self._of(administration.ligand).quantities(given))
        kept = np.array([r != SINK for r in model.regions])
        nowhere = kept * (1.0 - shares.sum(axis=1))  # (m or 1, regions of the model)
        rest = [i for i, r in enumerate(self.regions) if r.organ == "rest"][:1]

        def moved(values: FloatArray) -> tuple[FloatArray, FloatArray]:
            """(m, regions of the model, t) -> by region of the patient, and what is in none."""
            placed, left = shares @ values, (nowhere[:, None] @ values)[:, 0]
            if rest:
                placed[:, rest[0]] += left
                left = np.zeros_like(left)
            return placed, left

        out = []
        for name in daughters_of(parent):
            per_parent = decays_per_parent_decay(parent)[name]
            tia, activity = (
                (x.sel(label=name) - per_parent * x.sel(label=parent)).transpose("member", "region", ...).to_numpy()
                for x in (data["tia_mbq_h"], data["activity_mbq"])
            )
            placed, left = (x[..., 0] for x in moved(tia[:, :, None]))
            held = np.maximum(placed, per_parent * least)
            bound = np.divide(held, placed, out=np.ones_like(placed), where=placed != 0.0)[:, :, None]
            excreted, unplaced = tia[:, ~kept].sum(axis=1), left + (placed - held).sum(axis=1)
            out.append(Shift(name, held, bound * moved(activity)[0], excreted, unplaced))
        return out

    def log_jacobian(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        """See `KineticModel.log_jacobian`; exact derivatives of the solver's steps."""
        theta, given = np.asarray(theta, dtype=float), _with_amount(administration)
        out = np.zeros((*theta.shape[:-1], len(self.regions), len(times_h), theta.shape[-1]))
        out[..., : self._own] = self._system(given.ligand).log_jacobian(theta[..., : self._own], given, times_h)
        if self._described:
            out[..., self._outside_rows, :, self._own :] = self._described.log_jacobian(theta[..., self._own :], given, times_h)
        return out

    @cached_property
    def _outside_rows(self) -> list[int]:
        return [i for i, r in enumerate(self.regions) if r in self._outside]


def _part(value: Any, block: slice) -> Any:
    """The members of a quantity that belong to a block."""
    return value if np.ndim(value) == 0 else value[block]


def _joined(parts: tuple[Shift, ...]) -> Shift:
    """Blocks of draws as one."""
    names = ("tia_mbq_h", "activity_mbq", "excreted_mbq_h", "unplaced_mbq_h")
    return Shift(parts[0].daughter, *(np.concatenate([getattr(p, n) for p in parts]) for n in names))


def _dissociation(free_fraction: float, model: PBRPK) -> float:
    """K_D (nmol/L) with which albumin leaves the free fraction that the population was calibrated with."""
    albumin = float(model.quantities()["blood.albumin_concentration"])
    return albumin * free_fraction / (1.0 - free_fraction)


FORMS: Mapping[str, Callable[[PBRPK], PBRPK]] = {
    "reduced_body": reduced,
    "lumped_body": lumped,
    "whole_body": same,
    "whole_body_albumin": with_albumin,
}
"""Rung -> what it makes of the patient's whole body, the simplest first."""


def _with_amount(administration: Administration) -> Administration:
    """An image's agent with a tracer's amount where none was recorded: uptake is close to linear there."""
    if administration.amount_nmol is None and administration.intent == "imaging":
        return replace(administration, amount_nmol=packaged_table("assimilation.csv").value("imaging_amount"))
    return administration


def _build(name: str, ligand: str, regions: Sequence[Region], covariates: Covariates) -> WholeBody:
    receptor = receptor_of(ligand)
    if receptor not in MODEL_OF:
        raise ModelError(
            f"the whole-body rung estimates nothing for {receptor} yet, which {ligand} binds to",
            expected=f"a ligand of {', '.join(MODEL_OF)}",
            remedy="use the rung sum_of_exponentials, or say in kinetics_whole_body.csv what is estimated",
            kind="model.ligand",
        )
    return WholeBody(ligand, tuple(regions), tuple(sorted(covariates.items())), name, FORMS[name])


for _name in FORMS:
    register(_name, partial(_build, _name))
