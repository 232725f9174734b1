"""A virtual patient for the benchmarks of inference: regions, covariates, schedule, plans of imaging, doses of its organs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.kinetics import KineticModel, covariates_of, rung_for
from tdt_core.parameters import packaged_csv, packaged_table
from tdt_core.planning import product_for
from tdt_core.planning.forecast import next_administration
from tdt_core.scores import crps
from tdt_core.trials.outcome import cycle_dose
from tdt_core.trials.population import TABLE, budget_of, draw_regions, scan_times
from tdt_core.twin import Administration, Evidence, Patient, Product, Region, RegionActivity

FloatArray = npt.NDArray[np.float64]

QUANTITIES = {"kidneys": "kidneys", "glands": "parotid_glands", "marrow": "red_marrow", "tumours": "lesions"}
"""Quantity -> organ; its absorbed dose is the mean over the mass of its regions."""


@dataclass(frozen=True, eq=False)
class Virtual:
    """One patient: who, and the regions in their order everywhere."""

    patient: Patient
    regions: tuple[Region, ...]
    product: Product

    @cached_property
    def _parts(self) -> dict[str, npt.NDArray[np.bool_]]:
        return {q: np.array([r.organ == organ for r in self.regions]) for q, organ in QUANTITIES.items()}

    def rung(self, name: str) -> KineticModel:
        """A kinetic model over the patient's regions."""
        known = covariates_of(Evidence(0, self.patient, (), self.regions))
        return rung_for(name, self.product.ligand, self.regions, known)

    def therapy(self, cycle: int) -> Administration:
        """The standard therapy of a cycle; at cycle 0 the one to come."""
        return next_administration(self.product, max(cycle - 1, 0) * self.product.interval_h, None)

    def dose(self, rung: KineticModel, theta: FloatArray, cycle: int) -> dict[str, FloatArray]:
        """Quantity -> (draws,) absorbed dose of a cycle's therapy, Gy, for (draws, n) parameters."""
        by_region = cycle_dose(rung, np.atleast_2d(theta), self.therapy(cycle), {}).dose_gy[: len(self.regions)]
        mass = np.array([r.mass_g for r in self.regions])
        return {q: np.average(by_region[part], axis=0, weights=mass[part]) for q, part in self._parts.items()}

    def plan(self, cycle: int, times_h: Sequence[float] | None = None) -> Evidence:
        """Regions, times and error budgets of a cycle's images, a PET at cycle 0; the activities are placeholders."""
        table = packaged_table(TABLE)
        given = self.therapy(cycle) if cycle else _pet()
        if times_h is None:
            times_h = scan_times(table).tolist() if cycle else [packaged_table("phantom_images.csv").value("pet.time")]
        return Evidence(
            cycle,
            self.patient,
            (given,),
            self.regions,
            tuple(
                RegionActivity(
                    region=region.name,
                    time_h=given.time_h + float(t),
                    activity_mbq=1.0,
                    raw_activity_mbq=1.0,
                    recovery=1.0,
                    budget=budget_of(table, region.organ),
                    scan=f"scan-{cycle}-{j}",
                    modality="SPECT" if cycle else "PET",
                    nuclide=given.nuclide,
                    calibration_id=f"camera-{cycle}",
                )
                for region in self.regions
                for j, t in enumerate(times_h)
            ),
        )


def drawn(seed: int, rng: np.random.Generator) -> Virtual:
    """A patient with drawn volumes and the covariates of `trial_measurement.csv`, to be treated with Lu-177-PSMA-617."""
    table = packaged_table(TABLE)
    patient = Patient(f"virtual-{seed}", "male", *(table.value(f"patient.{x}") for x in ("age", "height", "weight")))
    return Virtual(patient, draw_regions(rng), product_for("PSMA-617", "Lu-177"))


def _pet() -> Administration:
    """The imaging agent before the first cycle, as reference patients are given it."""
    psma = {row["name"]: float(row["value"]) for row in packaged_csv("phantom_kinetics_psma.csv")}
    before = packaged_table("design_candidates.csv").value("pet.before")
    return Administration(
        -before, "Ga-68-PSMA-11", "PSMA-11", "Ga-68", psma["ligand.pet_activity"], psma["ligand.pet_amount"], intent="imaging"
    )


def told_of(quantity: str, truth: float, draws: FloatArray) -> dict[str, Any]:
    """Draws of a quantity against its truth: coverage and half-width of the 90 % interval, relative error, CRPS / truth."""
    low, middle, high = np.quantile(draws, (0.05, 0.5, 0.95))
    return {
        "quantity": quantity,
        "covered": bool(low <= truth <= high),
        "half_width": float((high - low) / (2 * middle)),
        "relative_error": float(middle / truth - 1.0),
        "crps": crps(draws / truth, 1.0),
    }
