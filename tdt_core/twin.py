"""The nouns of the twin, as types. See `docs/design/001-house-and-nouns.md`.

Time is in hours from the patient's origin (the start of the first therapy administration); negative is legal. UTC lives in
the vault. Everything here is frozen; a change is a new value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tdt_core.codec import LEFT_OUT_WHEN_NONE
from tdt_core.errors import InputError, ModelError, TimeError

SCHEMA_VERSION = 1

FloatArray = npt.NDArray[np.float64]
JsonDict = dict[str, Any]


@dataclass(frozen=True)
class Patient:
    """Who the twin is of: a pseudonym and covariates, no identity. Age in years at the origin."""

    pid: str
    sex: Literal["male", "female"]
    age_y: float
    height_cm: float
    weight_kg: float
    haematocrit: float | None = None

    def __post_init__(self) -> None:
        if self.sex not in ("male", "female"):
            raise InputError(f"patient sex is {self.sex!r}", expected="male or female", kind="input.patient")
        for name, low, high in (("age_y", 0, 120), ("height_cm", 50, 250), ("weight_kg", 3, 350)):
            value = getattr(self, name)
            if not (math.isfinite(value) and low < value < high):
                raise InputError(f"patient {name} is {value}", expected=f"{low} to {high}", kind="input.patient")
        if self.haematocrit is not None and not 0.1 < self.haematocrit < 0.7:
            raise InputError(f"haematocrit is {self.haematocrit}", expected="a fraction, 0.1 to 0.7", kind="input.patient")


@dataclass(frozen=True)
class Administration:
    """One product given once. Cold ligand has no nuclide ("") and no activity (0).

    Attributes
    ----------
    time_h : start, hours from the origin.
    activity_mbq : calibrated activity of `nuclide` at `time_h` in the syringe or vial.
    residual_mbq : activity left behind, at `time_h`.
    amount_nmol : total ligand amount, hot and cold; None when it was not recorded.
    intent : therapy or imaging.
    """

    time_h: float
    product: str
    ligand: str
    nuclide: str
    activity_mbq: float
    amount_nmol: float | None = None
    duration_h: float = 0.0
    residual_mbq: float = 0.0
    route: str = "intravenous"
    intent: Literal["therapy", "imaging"] = "therapy"

    def __post_init__(self) -> None:
        if not math.isfinite(self.time_h):
            raise TimeError(f"administration time is {self.time_h}", expected="hours from the origin")
        cold = not self.nuclide and self.activity_mbq == 0 == self.residual_mbq
        if not cold and not (math.isfinite(self.activity_mbq) and self.activity_mbq > 0):
            raise InputError(
                f"administered activity is {self.activity_mbq} MBq",
                expected="a finite number > 0",
                remedy="correct the activity; ligand without activity has 0 and no nuclide",
                kind="input.activity",
            )
        if not cold and not 0 <= self.residual_mbq < self.activity_mbq:
            raise InputError(
                f"residual is {self.residual_mbq} MBq of {self.activity_mbq} MBq",
                expected="0 <= residual < activity",
                kind="input.activity",
            )
        if self.amount_nmol is not None and not (math.isfinite(self.amount_nmol) and self.amount_nmol > 0):
            raise InputError(f"ligand amount is {self.amount_nmol} nmol", expected="> 0", kind="input.activity")

    @property
    def net_activity_mbq(self) -> float:
        """Activity that entered the patient, at `time_h`."""
        return self.activity_mbq - self.residual_mbq


Schedule = tuple[Administration, ...]
"""Administrations in order of time; several nuclides and ligands may appear."""


@dataclass(frozen=True)
class SphereRecovery:
    """One sphere of a phantom: share of its contrast that lies in its own volume, (mean - background) / (true - background).

    `body_mm` is the mean distance from the camera's axis to the phantom's surface, `radius_mm` that to the sphere, `ratio` the
    sphere's concentration over that of the background (> 1).
    """

    body_mm: float
    radius_mm: float
    volume_ml: float
    ratio: float
    recovery: float


@dataclass(frozen=True)
class SphereTable:
    """Recoveries of a sphere phantom, imaged on voxels of one edge; `rel_sd` is the 1-sigma of one measured recovery."""

    voxel_mm: float
    rel_sd: float
    rows: tuple[SphereRecovery, ...]


@dataclass(frozen=True)
class CalibrationRecord:
    """How counts become activity, for one device, energy window, collimator and reconstruction.

    `sensitivity_cps_per_mbq` is for the whole system (all heads). `resolution_fwhm_mm` is the effective reconstructed
    resolution that recovery coefficients are computed with; `resolution_by_radius_mm`, where it was measured, lists (distance
    from the camera's axis mm, FWHM mm) with rising distance. `spheres`, where a phantom was measured, tells how the width
    depends on a region's contrast and place; region activities then use it. Relative sds are 1-sigma fractions.
    """

    device: str
    energy_window: str
    collimator: str
    reconstruction: str
    nuclide: str
    sensitivity_cps_per_mbq: float
    sensitivity_rel_sd: float
    resolution_fwhm_mm: float
    resolution_rel_sd: float
    date: str
    source: str
    resolution_by_radius_mm: tuple[tuple[float, float], ...] = ()
    spheres: SphereTable | None = field(default=None, metadata={LEFT_OUT_WHEN_NONE: True})

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What a scan must match."""
        return (self.device, self.energy_window, self.collimator, self.reconstruction)


@dataclass(frozen=True)
class Region:
    """One segmented region: the product's own name, SNOMED code, laterality and, for lesions, a persistent tracking id.

    `name` is `kidney_left`, `parotid_right`, `lesion/<tracking id>`, `red_marrow`, `body`, ...; `organ` groups them
    (`kidneys`, `parotid_glands`, `lesions`, ...). Volume in mL.
    """

    name: str
    organ: str
    code: str
    laterality: Literal["left", "right", "none"] = "none"
    tracking_id: str | None = None
    volume_ml: float = 0.0
    mass_g: float = 0.0
    volume_rel_sd: float = 0.0


@dataclass(frozen=True)
class ErrorBudget:
    """Relative 1-sigma parts of a region activity. `calibration`, `partial_volume` and `segmentation` are shared over the
    scans of a cycle; `counts` and `registration` are independent from scan to scan. `resolution` has a sign: it is what one sd
    of the scanner's FWHM does to this region, and one such error moves all regions and scans of a calibration together."""

    counts: float
    calibration: float
    partial_volume: float
    segmentation: float
    registration: float
    resolution: float = 0.0

    @property
    def independent(self) -> float:
        """Part that differs from scan to scan."""
        return math.hypot(self.counts, self.registration)

    @property
    def shared(self) -> float:
        """Part common to one region's scans of one cycle; calibration and resolution, common to all regions, excluded."""
        return math.hypot(self.partial_volume, self.segmentation)

    @property
    def total(self) -> float:
        """All parts in quadrature."""
        return math.sqrt(self.independent**2 + self.shared**2 + self.calibration**2 + self.resolution**2)


@dataclass(frozen=True)
class RegionActivity:
    """Activity of one region at one time, at scan time (not decay corrected), partial-volume corrected.

    `raw_activity_mbq` is the sum over the mask before correction; `recovery` = what correction divided by;
    `calibration_id` names the calibration that scans of a cycle share. With `duration_h` the activity is the mean over a frame
    around `time_h`.
    """

    region: str
    time_h: float
    activity_mbq: float
    raw_activity_mbq: float
    recovery: float
    budget: ErrorBudget
    scan: str
    modality: Literal["SPECT", "PET"]
    nuclide: str
    calibration_id: str
    duration_h: float = 0.0


SampleKind = Literal["blood", "excreta", "whole_body"]
SAMPLE_UNITS: dict[str, str] = {"blood": "MBq/mL", "excreta": "MBq", "whole_body": "MBq"}


@dataclass(frozen=True)
class Sample:
    """Activity measured without an image, at the time that it was drawn or read (not decay corrected).

    blood: concentration in whole blood, MBq/mL. excreta: what was collected from `time_h` to `until_h`, MBq at `until_h`.
    whole_body: what is in the body, MBq, as a dose-rate reading gives it relative to one after the administration.

    Attributes
    ----------
    relative_sd, absolute_sd : independent error, as a fraction of the value and in its unit; they add in quadrature.
    calibration_sd, calibration_id : fraction shared by all samples of one instrument.
    below : the activity was below `value`, the limit of quantification.
    record : file, and which of the cycle's samples in order of time.
    """

    kind: SampleKind
    time_h: float
    value: float
    nuclide: str
    relative_sd: float
    absolute_sd: float = 0.0
    calibration_sd: float = 0.0
    calibration_id: str = "counter"
    until_h: float | None = None
    below: bool = False
    record: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.time_h) and math.isfinite(self.value) and self.value > 0):
            raise InputError(
                f"a {self.kind} sample of {self.value} {SAMPLE_UNITS.get(self.kind, '')} at {self.time_h} h",
                expected="a positive activity; one too low to be counted is given as below the limit of the counter",
                kind="input.sample",
            )
        collected = self.until_h is not None and self.time_h < self.until_h < math.inf
        if not (collected if self.kind == "excreta" else self.until_h is None):
            raise InputError(
                f"a {self.kind} sample from {self.time_h} h until {self.until_h} h",
                expected="an end after the start for excreta, and none for other kinds",
                kind="input.sample",
            )

    @property
    def holds_at_h(self) -> float:
        """When the value holds: of excreta at the end of the collection, h."""
        return self.time_h if self.until_h is None else self.until_h


LabStatus = Literal["final", "amended", "corrected", "entered-in-error"]


@dataclass(frozen=True)
class LabResult:
    """One laboratory value in the analyte's canonical unit. `comparator` (`<`, `<=`, `>`, `>=`) marks a censored value."""

    analyte: str
    time_h: float
    value: float
    unit: str
    comparator: Literal["", "<", "<=", ">", ">="] = ""
    status: LabStatus = "final"
    record: str = ""
    """Identity of the report line, so that corrections and retractions find what they replace."""


@dataclass(frozen=True)
class Lesion:
    """A lesion's history in the chain. `status` says what this cycle saw."""

    tracking_id: str
    site: str
    volume_ml: float
    first_cycle: int
    status: Literal["new", "present", "vanished", "merged", "split"] = "present"
    related_to: tuple[str, ...] = ()


@dataclass(frozen=True)
class PriorTherapy:
    """Mean absorbed dose of an organ from a therapy outside this system; `time_h` to the day, the last one of that therapy."""

    time_h: float
    region: str
    dose_gy: float
    radiation: str
    source: str

    @property
    def key(self) -> tuple[str, str, float]:
        """What a later record of the same therapy has in common with this one, which it replaces."""
        return (self.region, self.radiation, self.time_h)


@dataclass(frozen=True)
class Evidence:
    """What one cycle brought, ready to be assimilated. `digests` are the SHA-256 of every evidence item behind it."""

    cycle: int
    patient: Patient
    administrations: Schedule
    regions: tuple[Region, ...] = ()
    activities: tuple[RegionActivity, ...] = ()
    labs: tuple[LabResult, ...] = ()
    lesions: tuple[Lesion, ...] = ()
    digests: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    """Data-quality findings in words that did not lead to a refusal."""
    samples: tuple[Sample, ...] = ()

    def therapy(self) -> Administration:
        """The therapy administration of the cycle. Raises InputError when there is not exactly one."""
        found = [a for a in self.administrations if a.intent == "therapy"]
        if len(found) != 1:
            raise InputError(
                f"cycle {self.cycle} has {len(found)} therapy administrations",
                expected="exactly one",
                kind="input.cycle",
            )
        return found[0]


@dataclass(frozen=True, eq=False)
class Posterior:
    """Joint distribution of a model's parameters in unconstrained space, plus what the fit did.

    Attributes
    ----------
    names : (n,) parameter names.
    mean, cholesky : (n,), (n, n) lower triangular; covariance = L L'.
    draws : (m, n) joint draws.
    model : name of the kinetic model whose transform maps them to natural units.
    diagnostics : plain numbers: `n_obs`, `two_j`, `two_j_per_n`, `effective_parameters`, `linearity_shift_sd`, ...
    fit_report : one dict per datum: region, time_h, observed, prior/posterior predictive mean and sd, status.
    """

    names: tuple[str, ...]
    mean: FloatArray
    cholesky: FloatArray
    draws: FloatArray
    model: str
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    fit_report: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        n = len(self.names)
        if self.mean.shape != (n,) or self.cholesky.shape != (n, n) or self.draws.shape[1:] != (n,):
            raise ModelError(
                f"posterior shapes {self.mean.shape}, {self.cholesky.shape}, {self.draws.shape}",
                expected=f"({n},), ({n}, {n}), (draws, {n})",
            )

    @property
    def covariance(self) -> FloatArray:
        """(n, n) covariance in unconstrained space."""
        return self.cholesky @ self.cholesky.T

    def index(self, name: str) -> int:
        """Position of a parameter."""
        try:
            return self.names.index(name)
        except ValueError:
            raise ModelError(f"no parameter {name!r} in the posterior", kind="model.name") from None


Quantity = Literal["AD", "BED"]

QUANTITY_NAMES: Mapping[str, str] = {"AD": "absorbed dose", "BED": "BED"}
"""A limit's quantity as people read it."""


@dataclass(frozen=True)
class Limit:
    """A dose limit of an organ over the whole course, in absorbed dose or in BED, never both.

    `value_gy` is Gy (AD) or Gy with the organ's alpha/beta (BED). `risk` is the accepted probability of exceeding it.
    """

    organ: str
    quantity: Quantity
    value_gy: float
    risk: float
    source: str
    status: str
    set_by: str
    alpha_beta_gy: float | None = None
    repair_half_time_h: float | None = None


@dataclass(frozen=True)
class Product:
    """A product's plan: allowed activity per administration, planned cycles, interval."""

    name: str
    ligand: str
    nuclide: str
    planned_cycles: int
    activity_range_mbq: tuple[float, float]
    standard_activity_mbq: float
    interval_h: float
    source: str
    status: str
    standard_amount_nmol: float | None = None
    """Total ligand of a standard administration, for forecasts where none was recorded."""


@dataclass(frozen=True)
class Proposal:
    """What the twin proposes for the next administration, or why it abstains (`activity_mbq` None).

    `curve` holds, for candidate activities, the probability that any limit's allowance is exceeded and per limit.
    """

    state: str
    cycle: int
    activity_mbq: float | None
    binding: str
    risk: float | None
    reasons: tuple[str, ...]
    limits: tuple[Mapping[str, Any], ...]
    curve: Mapping[str, Any]
    product: str
    remaining_cycles: int

    @property
    def abstains(self) -> bool:
        """Whether there is no recommendation."""
        return self.activity_mbq is None


@dataclass(frozen=True)
class Decision:
    """What a person decided on a proposal. `signed_by` is a claim: the software does not prove who it was.

    kind: signed (as proposed), changed (another activity), refused (no administration), retrospective (history taken in
    together, nobody asked). `scripted` marks a decision that a program made for a demonstration.
    """

    state: str
    kind: Literal["signed", "changed", "refused", "retrospective"]
    activity_mbq: float | None
    signed_by: str
    role: str
    reason: str
    scripted: bool = False


@dataclass(frozen=True, eq=False)
class DoseLedger:
    """Absorbed dose by cycle, region and draw; draws are paired across cycles.

    Attributes
    ----------
    cycles, administrations, kinds : per row: cycle number, time_h of the administration, retrospective | prospective.
    regions : (r,) names; organ-level names (`kidneys`, ...) appear beside region names.
    dose_gy : (rows, r, draws). bed_gy : same, NaN where no alpha/beta is set for the region.
    opening_gy : absorbed dose from earlier therapies by region, 0 where none was recorded.
    """

    cycles: tuple[int, ...]
    administrations: tuple[float, ...]
    kinds: tuple[str, ...]
    activities_mbq: tuple[float, ...]
    regions: tuple[str, ...]
    dose_gy: FloatArray
    bed_gy: FloatArray
    radiation: str = "beta_gamma"
    opening_gy: Mapping[str, float] = field(default_factory=dict)

    def knows(self, region: str, quantity: Quantity) -> bool:
        """Whether `cumulative` can tell: not a BED beside an opening absorbed dose, whose dose rate was not recorded."""
        return quantity == "AD" or not self.opening_gy.get(region, 0.0)

    def cumulative(self, region: str, quantity: Quantity = "AD") -> FloatArray:
        """(draws,) dose of a region summed over cycles, opening balance included.

        Raises ModelError for a BED where an opening absorbed dose was recorded: its dose rate, and so its BED, is not known.
        """
        if not self.knows(region, quantity):
            raise ModelError(
                f"{region} has an opening absorbed dose but its limit is a BED",
                expected="a limit in absorbed dose",
                remedy="limit the organ in absorbed dose, or leave the earlier therapy out and say so",
                kind="model.opening",
            )
        i = self.regions.index(region)
        source = self.dose_gy if quantity == "AD" else self.bed_gy
        return np.asarray(source[:, i, :].sum(axis=0) + self.opening_gy.get(region, 0.0))


@dataclass(frozen=True, eq=False)
class TwinState:
    """One immutable state of one patient's twin. `id` is the SHA-256 of `identity` (canonical JSON)."""

    id: str
    identity: JsonDict
    pid: str
    cycle: int
    parent: str | None
    valid_time_h: float
    model: str
    patient: Patient
    posterior: Posterior
    ledger: DoseLedger
    lesions: tuple[Lesion, ...]
    evidence: Evidence
    proposal: Proposal | None
    summary: JsonDict
    """Rung-independent predictions and results ready for reports: doses, forecasts, trends, warnings, assumed values."""
    schema_version: int = SCHEMA_VERSION
