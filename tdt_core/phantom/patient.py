"""The digital reference patient: one object that hands out cycles with images, contours, labs and truth, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.errors import ModelError, UsageError
from tdt_core.imaging.volume import Volume
from tdt_core.phantom.activity import IMAGES, Curves, curves, shares, texture, texture_field
from tdt_core.phantom.anatomy import Anatomy, UInt8
from tdt_core.phantom.chain import Chain, CycleKinetics, half_life_h
from tdt_core.phantom.contours import segment
from tdt_core.phantom.drawn import draw_anatomy
from tdt_core.phantom.draws import rows, stream
from tdt_core.phantom.imaging import Scanner, bin_to_scan, ct_image, motion, pet_image, scanner, spect_counts
from tdt_core.phantom.labelled import anatomy_from_labels
from tdt_core.phantom.labs import LabHistory, lab_values
from tdt_core.phantom.physiology import Body, draw_body
from tdt_core.phantom.spect import spheres
from tdt_core.phantom.spect.attenuation import of_tissues
from tdt_core.phantom.spect.camera import camera
from tdt_core.phantom.spect.projector import Mapper
from tdt_core.phantom.spect.sampling import place
from tdt_core.phantom.spect.scan import physical_counts
from tdt_core.phantom.truth import cycle_truth, dose_maps
from tdt_core.phantom.types import PRODUCTS, LabelledAnatomy, PhantomCycle, PhantomScan, PhantomSettings
from tdt_core.twin import CalibrationRecord, LabResult, Lesion, Patient

FloatArray = npt.NDArray[np.float64]
Decide = Callable[[int], float | None]
SCAN_TIMES_H = {3: (24.0, 72.0, 160.0), 4: (4.0, 24.0, 72.0, 156.0)}


class _Scene:
    """Everything on voxels that the scans of one cycle share; made per cycle and dropped after it."""

    def __init__(self, patient: ReferencePatient, run: CycleKinetics) -> None:
        self.labels: UInt8 = patient.anatomy.with_lesions(run.physiology.volumes_ml)
        self.texture = texture(patient.anatomy, self.labels, patient.texture_field)
        self.hu = patient.anatomy.hu(self.labels)
        self.anatomy = patient.anatomy
        self.structures = patient.anatomy.structures()
        count = np.bincount(self.labels.ravel(), minlength=len(self.structures)).astype(float)
        count[0] = 0.0
        self.volumes_ml = count * patient.anatomy.grid.voxel_ml
        medulla = {k: run.physiology.at("kidney.medulla_ratio", k) for k in run.parameters.kidneys}
        share = shares(run.parameters, patient.body, self.structures, self.volumes_ml, medulla)
        bladder = next((s.code for s in self.structures if s.name == "bladder" and self.volumes_ml[s.code] > 0), None)
        given = run.administration
        self.curves: Curves = curves(run.course, share, bladder, half_life_h(given.nuclide), given.net_activity_mbq)

    @cached_property
    def mu_per_mm(self) -> npt.NDArray[np.float32]:
        """True attenuation of the half voxels at the camera's peak."""
        return of_tissues(self.anatomy, self.labels, self.structures, camera().energy_kev)


class ReferencePatient:
    """A patient of which everything is known. Made by `reference_patient`.

    Attributes
    ----------
    settings, patient, body, anatomy : what was drawn.
    covariates : plain numbers beside the patient's own: egfr, bsa_m2, lesion_volume_ml.
    spect, pet_scanner : `Scanner` with the calibration record and its truth.
    """

    def __init__(
        self,
        settings: PhantomSettings,
        body: Body,
        anatomy: Anatomy,
        decide: Decide | None = None,
        dose_engine: str = "kernel",
        map: Mapper = map,
    ) -> None:
        self.settings, self.body, self.anatomy = settings, body, anatomy
        self._decide, self._dose_engine, self._map = decide, dose_engine, map
        self._activities: dict[int, float] = {}
        self._asked: dict[int, float | None] = {}
        self._chain = Chain(settings, body, self._given)
        self._kernels: dict[str, Any] = {}
        _, nuclide, _, _, pet_nuclide = PRODUCTS[settings.product]
        voxel_mm = 2 * anatomy.grid.spacing_mm
        self.spect: Scanner = scanner(settings.seed, "spect", nuclide, settings.images, settings.noise, voxel_mm)
        if settings.images == "physical":
            record = replace(self.spect.record, spheres=spheres.table(settings.seed, voxel_mm))
            self.spect = replace(self.spect, record=record)
        self.pet_scanner: Scanner = scanner(settings.seed, "pet", pet_nuclide)

    @property
    def patient(self) -> Patient:
        """Pseudonym and covariates."""
        return self.body.patient

    @property
    def covariates(self) -> dict[str, float]:
        """What a clinic would know before therapy, beside the patient's own covariates."""
        lesions = sum(v for n, v in self.body.volumes_ml.items() if n.startswith("lesion/"))
        return {"egfr": self.body.egfr, "bsa_m2": self.body.bsa_m2, "lesion_volume_ml": lesions}

    @property
    def calibrations(self) -> dict[str, CalibrationRecord]:
        """Calibration records by modality."""
        return {"SPECT": self.spect.record, "PET": self.pet_scanner.record}

    @cached_property
    def texture_field(self) -> npt.NDArray[np.float32]:
        """Smooth field on half voxels that gives organs and lesions their texture; the same in every cycle."""
        return texture_field(self.settings.seed, self.anatomy)

    def _given(self, number: int) -> float | None:
        if number in self._activities:
            return self._activities[number]
        if self._decide is None:
            return None
        if number not in self._asked:
            self._asked[number] = self._decide(number)
        return self._asked[number]

    def kinetics(self, number: int) -> CycleKinetics:
        """Kinetics of therapy `number` (0: of the PET tracer) without making images."""
        self._check(number)
        return self._chain.cycle(number) if number else self._chain.pet()

    def cycles(self) -> Iterator[PhantomCycle]:
        """Cycles 0 to n, made one at a time; `decide(k)` is asked just before therapy k."""
        for number in range(self.settings.cycles + 1):
            yield self.cycle(number)

    def cycle(self, number: int, activity_mbq: float | None = None) -> PhantomCycle:
        """Cycle 0 (pre-therapy) or therapy `number` with the activity that was really given.

        Deterministic in settings, `number` and the activities of cycles 1 to `number`. An activity given here is kept for the
        cycles after it; None keeps what was set before, else asks `decide`, else gives the standard activity.
        """
        self._check(number)
        if activity_mbq is not None and number > 0 and self._activities.get(number) != activity_mbq:
            self._activities[number] = activity_mbq
            self._chain.forget_from(number)
        run = self.kinetics(number)
        if number == 0:
            return self._pre_therapy(run)
        return self._therapy(run)

    def _check(self, number: int) -> None:
        if not 0 <= number <= self.settings.cycles:
            raise ModelError(f"cycle {number}", expected=f"0 to {self.settings.cycles}", kind="model.phantom")

    def _lesions(self, volumes: Mapping[str, float]) -> tuple[Lesion, ...]:
        first = 0 if self.settings.pet else 1
        return tuple(
            Lesion(x.name.removeprefix("lesion/"), x.site, round(volumes[x.name], 3), first) for x in self.anatomy.lesions
        )

    def _labs(self, number: int) -> tuple[LabResult, ...]:
        """Labs from therapy `number` until just before the next one; cycle 0: those before the first therapy."""
        chain, n = self._chain, self.settings.cycles
        start, after = chain.start_h(number), chain.start_h(number + 1)
        visits = [("C1-pre", -14.0)]
        if number == 0:
            visits = [("C0-baseline", -340.0), *visits]
        else:
            visits = [(f"C{number}-week{w}", start + 168.0 * w - (48.0 if w == 6 else 0.0)) for w in (2, 4, 6)]
            visits = [v for v in visits if v[1] < after - 24]
            visits += [(f"C{number + 1}-pre", after - 14.0)] if number < n else []
        states = [chain.state(k) for k in range(1, max(number, 0) + 2)]
        volume = [sum(v for x, v in s.volumes_ml.items() if x.startswith("lesion/")) for s in states]
        burden = [v / volume[0] if volume[0] > 0 else 1.0 for v in volume]
        runs = [chain.cycle(k) for k in range(1, number + 1)]
        history = LabHistory(
            starts_h=[r.administration.time_h for r in runs],
            marrow_gy=[r.self_dose_gy["red_marrow"] for r in runs],
            knots_h=[chain.start_h(k) for k in range(1, number + 2)],
            burden=burden,
            egfr=[s.egfr for s in states],
        )
        p = self.patient
        psa = p.sex == "male" and self.settings.ligand.startswith("PSMA")
        return lab_values(self.settings.seed, visits, history, p.age_y, p.sex, psa)

    def _pre_therapy(self, run: CycleKinetics) -> PhantomCycle:
        lesions, labs = self._lesions(self.body.volumes_ml), self._labs(0)
        if not self.settings.pet:
            return PhantomCycle(0, (), (), None, labs, lesions)
        scene = _Scene(self, run)
        wait, duration = self.pet_scanner.settings["time"], self.pet_scanner.settings["duration"]
        scan = self._scan(scene, run, 0, wait, duration, np.zeros(3), np.zeros(3))
        drawn, true, report = segment(
            self.anatomy, scene.labels, stream(self.settings.seed, "contour", 0), scan.frame_of_reference
        )
        truth = cycle_truth(run, scene.curves, scene.structures, scene.volumes_ml, self.anatomy, (scan,), None, report)
        truth["calibration"] = self._calibration_truth(self.pet_scanner)
        return PhantomCycle(0, (run.administration,), (scan,), drawn, labs, lesions, truth, None, None, true)

    def _therapy(self, run: CycleKinetics) -> PhantomCycle:
        number, seed = run.number, self.settings.seed
        scene = _Scene(self, run)
        rng = stream(seed, "motion", number)
        v = {k: rows(IMAGES)[k].parameter.value for k in ("motion.shift_sd", "motion.rotation_sd")}
        scans = []
        for n, planned in enumerate(SCAN_TIMES_H[self.settings.time_points]):
            wait = planned * float(np.exp(0.04 * np.clip(rng.standard_normal(), -2, 2)))
            shift = np.clip(v["motion.shift_sd"] * rng.standard_normal(3), -8, 8)
            turn = np.clip(v["motion.rotation_sd"] * rng.standard_normal(3), -3, 3)
            if n == 0:  # the first scan is the cycle's reference
                shift, turn = np.zeros(3), np.zeros(3)
            scans.append(self._scan(scene, run, n + 1, round(wait, 3), self.spect.settings["duration"], shift, turn))
        frame = scans[0].frame_of_reference
        drawn, true, report = segment(self.anatomy, scene.labels, stream(seed, "contour", number), frame)
        maps = dose_maps(
            self.anatomy,
            scene.labels,
            scene.texture,
            scene.curves,
            run.administration.nuclide,
            self._dose_engine,
            self._kernels,
        )
        truth = cycle_truth(run, scene.curves, scene.structures, scene.volumes_ml, self.anatomy, tuple(scans), maps, report)
        truth["calibration"] = self._calibration_truth(self.spect)
        truth["drift"] = self._drift(run)
        affine = self.anatomy.grid.scan_affine
        return PhantomCycle(
            number,
            (run.administration,),
            tuple(scans),
            drawn,
            self._labs(number),
            self._lesions(run.physiology.volumes_ml),
            truth,
            Volume(maps.dose_scan_gy, affine, "Gy", frame),
            Volume(maps.tia_scan_mbq_h_ml, affine, "MBq.h/mL", frame),
            true,
        )

    def _scan(
        self, scene: _Scene, run: CycleKinetics, n: int, wait_h: float, duration_s: float, shift: FloatArray, turn: FloatArray
    ) -> PhantomScan:
        """One acquisition: mean activity over the frame (PET: at its start, as decay-corrected images are), moved, imaged."""
        seed, grid, spect = self.settings.seed, self.anatomy.grid, n > 0
        duration_h = duration_s / 3600.0
        activity = scene.curves.mean_activity(wait_h, duration_h) if spect else scene.curves.activity(wait_h)
        inside = np.asarray(activity)[: len(scene.structures)]
        moved = motion(grid, shift, turn)
        binned, mean_hu = bin_to_scan(grid, scene.labels, scene.texture, scene.hu, inside, moved)
        rng = stream(seed, "image", run.number, n)
        device = self.spect if spect else self.pet_scanner
        noise_hu = rows(IMAGES)["ct.noise"].parameter.value
        if spect and self.settings.images == "physical":
            ct_hu = ct_image(mean_hu, noise_hu, rng)
            fine, mu = place(grid, scene.labels, scene.texture, scene.mu_per_mm, inside, moved)
            half_life = half_life_h(run.administration.nuclide)
            sensitivity, voxel_mm = device.true_sensitivity, 2 * grid.spacing_mm
            image = physical_counts(fine, mu, ct_hu, voxel_mm, camera(), sensitivity, duration_s, half_life, rng, self._map)
        else:
            image = spect_counts(binned, grid, device, duration_s, rng) if spect else pet_image(binned, grid, device, rng)
            ct_hu = ct_image(mean_hu, noise_hu, rng)
        name = f"C{run.number}-T{n}" if spect else "C0-PET"
        return PhantomScan(
            name=name,
            modality="SPECT" if spect else "PET",
            image=image,
            unit="counts" if spect else "MBq/mL",
            ct_hu=ct_hu,
            affine=grid.scan_affine,
            frame_of_reference=name,
            time_h=round(run.administration.time_h + wait_h, 4),
            duration_s=duration_s,
            nuclide=run.administration.nuclide,
            calibration=device.record,
            shift_mm=(float(shift[0]), float(shift[1]), float(shift[2])),
            rotation_deg=(float(turn[0]), float(turn[1]), float(turn[2])),
            truth_mbq_ml=binned / np.float32(8 * grid.voxel_ml),
        )

    def _calibration_truth(self, device: Scanner) -> dict[str, float]:
        return {"sensitivity_cps_per_mbq": device.true_sensitivity, "resolution_fwhm_mm": device.true_fwhm_mm}

    def _drift(self, run: CycleKinetics) -> dict[str, float]:
        """Ratios to cycle 1: eGFR, lesion volumes and receptor densities, and every patient-wide value that moved."""
        first, now = self._chain.state(1), run.physiology
        out = {"egfr": now.egfr / first.egfr}
        for name in (x.name for x in self.anatomy.lesions):
            key = ("lesions.receptor_density", name)
            out[f"{name}.volume"] = now.volumes_ml[name] / first.volumes_ml[name]
            out[f"{name}.receptor_density"] = now.instance.get(key, 1.0) / first.instance.get(key, 1.0)
        return out | {k: x / first.values[k] for k, x in now.values.items() if x != first.values[k]}


def reference_patient(
    settings: PhantomSettings,
    anatomy: LabelledAnatomy | None = None,
    decide: Decide | None = None,
    dose_engine: str = "kernel",
    map: Mapper = map,
) -> ReferencePatient:
    """A complete patient from a seed.

    Parameters
    ----------
    settings : what is drawn.
    anatomy : a real patient's CT and region map in place of the drawn anatomy; kinetics are assigned to its regions.
    decide : `decide(k)` -> activity (MBq) of therapy k, or None for the standard one; asked once, just before cycle k.
    dose_engine : engine of the true dose at half voxels.
    map : spreads the angles of physical images over threads; images do not depend on it.

    Raises
    ------
    ModelError
        Settings that do not fit the anatomy, or an anatomy without kidneys.
    """
    if anatomy is None:
        sex = "male" if settings.ligand.startswith("PSMA") or stream(settings.seed, "body", 1).random() < 0.5 else "female"
        body = draw_body(settings.seed, sex, variant=settings.variant)
        return ReferencePatient(settings, body, draw_anatomy(settings.seed, settings.matrix, body), decide, dose_engine, map)
    if settings.variant != "standard":
        raise UsageError(
            f"variant {settings.variant!r} with a real anatomy", expected="the standard variant", kind="model.phantom"
        )
    body = draw_body(settings.seed, anatomy.sex, n_lesions=0)
    made, body = anatomy_from_labels(anatomy, settings.matrix, body)
    return ReferencePatient(settings, body, made, decide, dose_engine, map)
