"""Virtual patients: regions, kinetics that drift over the cycles, and what a camera would have measured.

A patient is drawn once, from its own seed, before any arm is chosen: every arm meets the same patient, the same drift and the
same measurement errors, so that arms are compared within patients and their difference has little Monte-Carlo error.

The kinetics are drawn from the population that the fitting rung uses as its prior, and drift by the rung's own transition. Good
figures of a trial therefore say how a policy works when the model is right, not that the model is right; the digital
reference patient with its richer kinetics tests the latter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tdt_core.assimilation.evolution import population_prior, transition
from tdt_core.kinetics import KineticModel, rung_for
from tdt_core.parameters import ParameterTable, packaged_table
from tdt_core.twin import (
    Administration,
    ErrorBudget,
    Evidence,
    Patient,
    Product,
    Region,
    RegionActivity,
)

FloatArray = npt.NDArray[np.float64]

TABLE = "trial_measurement.csv"

PAIRED = (("kidney", "kidneys"), ("parotid", "parotid_glands"), ("submandibular", "submandibular_glands"))
SINGLE = (("liver", "liver.volume"), ("spleen", "spleen.volume"), ("red_marrow", "marrow.total_volume"))


@dataclass(frozen=True, eq=False)
class VirtualPatient:
    """One patient of a trial.

    Attributes
    ----------
    number : position in the trial; with the root seed it names the patient.
    rung : kinetic model over the patient's regions.
    theta : (cycles, n) true parameters in unconstrained space.
    calibration_error : (cycles,), region_error : (cycles, regions), scan_error : (cycles, regions, times); ln factors.
    """

    number: int
    patient: Patient
    rung: KineticModel
    theta: FloatArray
    calibration_error: FloatArray
    region_error: FloatArray
    scan_error: FloatArray

    @property
    def regions(self) -> tuple[Region, ...]:
        """Regions in the order of every array."""
        return self.rung.regions


def scan_times(table: ParameterTable) -> FloatArray:
    """Hours after the administration at which the simulated camera looks."""
    return np.array([p.value for name, p in table.items() if name.startswith("time.")])


def budget_of(table: ParameterTable, organ: str) -> ErrorBudget:
    """Error budget of an organ's activity by the table of simulated measurements."""

    def part(kind: str) -> float:
        name = f"{kind}.{organ}"
        return table.value(name if name in table else f"{kind}.default")

    return ErrorBudget(
        counts=part("counts"),
        calibration=table.value("calibration"),
        partial_volume=part("shared") / np.sqrt(2.0),
        segmentation=part("shared") / np.sqrt(2.0),
        registration=table.value("registration"),
    )


def draw_regions(rng: np.random.Generator) -> tuple[Region, ...]:
    """Organs and lesions with volumes of the population (table `phantom_body.csv`)."""
    body, table = packaged_table("phantom_body.csv"), packaged_table(TABLE)

    def volume(name: str) -> float:
        return float(body[name].value * np.exp(body[name].sd * rng.standard_normal()))

    def region(name: str, organ: str, volume_ml: float, side: str = "none", tracking: str | None = None) -> Region:
        mass = volume_ml * table.value("density.soft_tissue")
        return Region(name, organ, "", side, tracking, volume_ml, mass)  # type: ignore[arg-type]

    found = []
    for part, organ in PAIRED:
        common = volume(f"{part}.volume")
        for side in ("left", "right"):
            found.append(region(f"{part}_{side}", organ, common, side))
    found += [region(name, name, volume(entry)) for name, entry in SINGLE]
    for n in range(1, int(table.value("patient.lesions")) + 1):
        found.append(region(f"lesion/V{n}", "lesions", volume("lesions.volume"), tracking=f"V{n}"))
    return tuple(found)


def draw_patient(root_seed: int, number: int, cycles: int, product: Product, rung_name: str) -> VirtualPatient:
    """The virtual patient `number` of the trial with this root seed; the same arguments give the same patient."""
    rng = np.random.default_rng([root_seed, number])
    regions = draw_regions(rng)
    rung = rung_for(rung_name, product.ligand, regions)
    theta = [population_prior(rung).draws(1, rng)[0]]
    for cycle in range(1, cycles):
        theta.append(transition(rung, cycle, product.interval_h, treated=True).draws(theta[-1][None], rng)[0])
    table = packaged_table(TABLE)
    budgets = [budget_of(table, r.organ) for r in regions]
    times = scan_times(table)
    shared = np.array([b.shared for b in budgets])
    independent = np.array([b.independent for b in budgets])
    return VirtualPatient(
        number=number,
        patient=Patient(f"virtual-{number:05d}", "male", *(table.value(f"patient.{x}") for x in ("age", "height", "weight"))),
        rung=rung,
        theta=np.array(theta),
        calibration_error=table.value("calibration") * rng.standard_normal(cycles),
        region_error=shared * rng.standard_normal((cycles, len(regions))),
        scan_error=independent[:, None] * rng.standard_normal((cycles, len(regions), times.size)),
    )


def administer(product: Product, cycle: int, activity_mbq: float) -> Administration:
    """The therapy of a cycle (first cycle is 1)."""
    return Administration(
        time_h=(cycle - 1) * product.interval_h,
        product=product.name,
        ligand=product.ligand,
        nuclide=product.nuclide,
        activity_mbq=activity_mbq,
    )


def measure(virtual: VirtualPatient, cycle: int, given: Administration) -> Evidence:
    """What the camera would have given for a cycle: true activities times the patient's own measurement errors."""
    table = packaged_table(TABLE)
    times, k = scan_times(table), cycle - 1
    true = virtual.rung.activity(virtual.theta[k : k + 1], given, times)[0]
    error = virtual.calibration_error[k] + virtual.region_error[k][:, None] + virtual.scan_error[k]
    seen = true * np.exp(error)
    return Evidence(
        cycle=cycle,
        patient=virtual.patient,
        administrations=(given,),
        regions=virtual.regions,
        activities=tuple(_activities(virtual.regions, seen, times, given, cycle, table)),
    )


def _activities(
    regions: Sequence[Region], seen: FloatArray, times: FloatArray, given: Administration, cycle: int, table: ParameterTable
) -> list[RegionActivity]:
    return [
        RegionActivity(
            region=region.name,
            time_h=given.time_h + float(t),
            activity_mbq=float(seen[i, j]),
            raw_activity_mbq=float(seen[i, j]),
            recovery=1.0,
            budget=budget_of(table, region.organ),
            scan=f"virtual-{cycle}-{j}",
            modality="SPECT",
            nuclide=given.nuclide,
            calibration_id=f"virtual-{cycle}",
        )
        for i, region in enumerate(regions)
        for j, t in enumerate(times)
    ]
