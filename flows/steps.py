"""One cycle through the science: quantify, fit, dose.

Every step is a plain function of a `Site` and a `CyclePlan`; it reads what the step before left in the work folder and leaves
its own record there, so that steps hand over ids and never arrays. `flows.loop` wraps them as Prefect tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from flows.decided import deviation
from flows.plan import CyclePlan, decision_of, rung_of, seed_of
from flows.priors import prior_after
from flows.site import Site
from storage.cycles import get_cycle
from storage.intake import CycleIntake
from storage.kernel_cache import KernelCache, kernel_digest
from storage.scratch import arrays_within
from storage.work import WorkFolder
from tdt_core.assimilation import Prior, assimilate_on, rungs_of, was_treated
from tdt_core.assimilation.learned import learned_of, with_learned
from tdt_core.codec import from_plain, to_plain
from tdt_core.dosimetry.credible import credible_dose
from tdt_core.dosimetry.density import mass_ratio
from tdt_core.dosimetry.organ import blood_draws, marrow_to_blood_ratio, organ_level
from tdt_core.errors import EstimationError, InputError
from tdt_core.imaging.quantification import RegisteredScan, quantify_cycle
from tdt_core.imaging.weights import voxel_weights, weight_draws
from tdt_core.kinetics import KineticModel, as_parent, followed, source_activity
from tdt_core.kinetics.ligands import is_peptide
from tdt_core.lazy import LazyMapping
from tdt_core.lesions import changes, history
from tdt_core.planning.forecast import mass_factor_draws, next_administration
from tdt_core.planning.outlook import lea_catcheside_by_region, responses
from tdt_core.twin import Administration, Evidence, Posterior, Product, Region, RegionActivity

NOISE_MAPS = 8
FIT, PATTERN_NOISE, BLOOD = 11, 12, 21  # streams of random numbers, see tdt_core.planning.forecast
MapLike = Callable[..., Any]


def quantify(site: Site, plan: CyclePlan, map_: MapLike = map) -> None:
    """Images to region activities and voxel weights; leaves the record `images`."""
    _, _, cycle = get_cycle(site.evidence, plan.bundle)
    work = WorkFolder(site.home, plan.state_id)
    if cycle.labels is None or not cycle.scans:
        raise InputError(
            f"cycle {plan.number} has {len(cycle.scans)} scans and {'no' if cycle.labels is None else 'a'} segmentation",
            expected="at least one quantitative scan with its CT and a segmentation",
            kind="input.cycle",
        )
    images = quantify_cycle(cycle.scans, cycle.cts, cycle.labels, map=map_)
    how = plan.identity["settings"].get("time_integration", "regional_shape")
    start_h = first_start(cycle.administrations) if how != "regional_shape" else 0.0
    weights = voxel_weights(images, how, start_h)
    noise = weight_draws(images, weights, NOISE_MAPS, (*seed_of(plan), PATTERN_NOISE))
    arrays = {
        "weights": weights.array,
        "noise": np.stack([draw.array for draw in noise]),
        "ct_hu": np.rint(images.ct_hu.array).astype(np.int16),
        "density": images.density.array.astype(np.float32),
        "material": images.material,
        "labels": images.labels.labels,
        "affine": images.affine,
    }
    plain = {
        "regions": to_plain(images.regions),
        "activities": to_plain(images.activities),
        "spacing_mm": list(images.spacing_mm),
        "frame_of_reference": images.frame_of_reference,
        "findings": list(images.findings),
        "density_from": images.density_from,
        "acquisitions": [acquisition(scan, cycle, images.activities) for scan in images.registered],
    }
    work.save("images", arrays, plain)


def acquisition(registered: RegisteredScan, cycle: CycleIntake, activities: tuple[RegionActivity, ...]) -> dict[str, Any]:
    """One row of the acquisition table."""
    scan = next(s for s in cycle.scans if s.id == registered.scan)
    return {
        "scan": scan.id,
        "modality": scan.modality,
        "time_h": scan.time_h,
        "duration_s": scan.duration_s,
        "nuclide": scan.nuclide,
        "value_branch": scan.value_branch,
        "calibration_id": next(a.calibration_id for a in activities if a.scan == scan.id),
        "calibration": None if scan.calibration is None else to_plain(scan.calibration),
        "shift_mm": registered.transform.shift_mm,
        "rotation_deg": registered.transform.rotation_deg,
    }


def fit(site: Site, plan: CyclePlan) -> None:
    """Evolve the prior, assimilate the cycle's evidence; leaves the record `posterior`."""
    work = WorkFolder(site.home, plan.state_id)
    _, images = work.load("images")
    evidence = evidence_of(site, plan, images)
    settings = plan.identity["settings"]
    posterior = assimilate_on(
        rungs_of(plan.identity["model"]),
        settings["product"]["ligand"],
        evidence,
        lambda rung: prior_of(site, plan, rung, evidence),
        settings["estimator"],
        seed=(*seed_of(plan), FIT),
        n_draws=int(settings["n_draws"]),
    )
    arrays = {"mean": posterior.mean, "cholesky": posterior.cholesky, "draws": posterior.draws}
    work.save(
        "posterior",
        arrays,
        {
            "names": list(posterior.names),
            "model": posterior.model,
            "diagnostics": posterior.diagnostics,
            "fit_report": [dict(row) for row in posterior.fit_report],
            "evidence": to_plain(evidence),
        },
    )


def evidence_of(site: Site, plan: CyclePlan, images: Mapping[str, Any]) -> Evidence:
    """The typed evidence of a cycle: what was read from files plus what imaging made of it."""
    _, patient, cycle = get_cycle(site.evidence, plan.bundle)
    earlier = () if plan.parent is None else site.store.load(plan.parent).lesions
    lesions = () if cycle.labels is None else history(cycle.labels, plan.number, earlier)
    told = changes(lesions, earlier) if plan.parent is not None else []
    findings = [*cycle.findings, *images["findings"], *deviation(decision_of(plan), cycle), *told]
    return Evidence(
        cycle=plan.number,
        patient=patient,
        administrations=cycle.administrations,
        regions=tuple(from_plain(Region, r) for r in images["regions"]),
        activities=tuple(from_plain(RegionActivity, a) for a in images["activities"]),
        labs=cycle.labs,
        lesions=lesions,
        digests=cycle.digests,
        findings=tuple(findings),
        samples=cycle.samples,
    )


def prior_of(site: Site, plan: CyclePlan, rung: KineticModel, evidence: Evidence) -> Prior:
    """Population prior for a first cycle, else the parent evolved to now, over this cycle's regions.

    A rung that would forget what treated cycles taught another one is refused by EstimationError, unless it is the last.
    """
    rung = with_learned(rung, learned_of(plan.identity))
    parent = None if plan.parent is None else site.store.load(plan.parent)
    last = rungs_of(plan.identity["model"])[-1]
    if parent is not None and rung.name not in (parent.model, last) and was_treated(parent):
        raise EstimationError(
            f"cycle {parent.cycle} was fitted with {parent.model}, from which {rung.name} can learn nothing",
            expected="one rung for all treated cycles",
            remedy=f"complete what cycle {parent.cycle} lacked, so that its state is derived again",
            kind="estimation.prior",
        )
    return prior_after(site.store, plan.identity["settings"], parent, rung, start_of(evidence), decision_of(plan))


def start_of(evidence: Evidence) -> float:
    """When a cycle starts: its therapy administration, else its first administration, h."""
    if not evidence.administrations:
        raise InputError(f"cycle {evidence.cycle} has no administration", kind="input.cycle")
    return first_start(evidence.administrations)


def first_start(administrations: Sequence[Administration]) -> float:
    """Start of the first therapy, else of the first administration, h. Raises InputError without any."""
    times = [a.time_h for a in administrations if a.intent == "therapy"] or [a.time_h for a in administrations]
    if not times:
        raise InputError("a cycle without an administration", expected="at least one", kind="input.cycle")
    return min(times)


def therapy_of(evidence: Evidence, product: Product) -> Administration:
    """The cycle's therapy; before the first one the product's standard administration at the end of the imaging."""
    if any(a.intent == "therapy" for a in evidence.administrations):
        return evidence.therapy()
    return next_administration(product, start_of(evidence), None)


def dose(site: Site, plan: CyclePlan, map_: MapLike = map) -> None:
    """Absorbed dose: maps with their uncertainty, region doses per draw, DVH, conservation; leaves the record `dose`.

    In cycle 0 nothing was given for therapy: the doses are prospective, for the product's standard activity.
    """
    work = WorkFolder(site.home, plan.state_id)
    arrays, images = work.load("images")
    posterior, evidence = load_posterior(work)
    product = from_plain(Product, plan.identity["settings"]["product"])
    rung = rung_of(plan, posterior.model, evidence)
    given = therapy_of(evidence, product)
    theta = posterior.draws[:, : len(rung.parameters)]
    sources, leaving = source_activity(rung, theta, given), followed(rung, given.nuclide)
    engine = plan.identity["settings"]["engine"]
    names, spacing = [r.name for r in rung.regions], tuple(images["spacing_mm"])
    masks = LazyMapping(names, lambda name: arrays["labels"] == names.index(name) + 1)
    ratio = mass_ratio([r.mass_g for r in rung.regions], masks.values(), arrays["density"], spacing)
    factors = mass_factor_draws(evidence, posterior, theta, seed_of(plan))
    g = lea_catcheside_by_region(rung, theta, given, site.tissues)
    result = credible_dose(
        LazyMapping(names, lambda name: np.where(masks[name], arrays["weights"], np.float32(0))),
        sources,
        masks,
        spacing_mm=spacing,
        nuclide=given.nuclide,
        daughters=leaving,
        density_g_cm3=arrays["density"],
        material=arrays["material"],
        mass_factors=factors * ratio,
        noise_draws=arrays["noise"],
        responses=responses(rung.regions, g, site.tissues),
        engine=engine,
        cache=KernelCache(site.home.kernels),
        map=map_,
        empty=arrays_within(site.settings.basis_bytes, work.path),
    )
    matrix = result.dose_matrix_gy_per_mbq_h / ratio[:, None]
    voxels = (as_parent(sources, given.nuclide, leaving), factors, result.region_dose_gy, matrix[:, : len(names)])
    level = organ_level(
        arrays["labels"],
        rung.regions,
        arrays["density"],
        spacing,
        given.nuclide,
        *voxels,
        blood_mbq_h_per_ml=blood_draws(evidence.samples, given.nuclide, given.time_h, len(factors), (*seed_of(plan), BLOOD)),
        marrow_ratio=marrow_to_blood_ratio(evidence.patient.haematocrit, peptide=is_peptide(given.ligand)),
    )
    work.save(
        "dose",
        {
            "mean": result.mean_gy,
            "sd": result.sd_gy,
            "dose_quantiles": result.bands.dose_gy,
            "bed": result.bands.bed_mean_gy,
            "bed_sd": result.bands.bed_sd_gy,
            "bed_quantiles": result.bands.bed_gy,
            "region_dose": result.region_dose_gy.T,
            "matrix": matrix,
            "tia": sources[:, : len(names)].T,
            "g": g,
        },
        {
            "dvh": result.dvh,
            "conservation": result.conservation,
            "organ_level": level,
            "engine": {"name": engine, "version": kernel_digest(), "density_from": images["density_from"]},
        },
    )


def load_posterior(work: WorkFolder) -> tuple[Posterior, Evidence]:
    """The record `posterior` as types."""
    arrays, plain = work.load("posterior")
    posterior = Posterior(
        names=tuple(plain["names"]),
        mean=arrays["mean"],
        cholesky=arrays["cholesky"],
        draws=arrays["draws"],
        model=plain["model"],
        diagnostics=plain["diagnostics"],
        fit_report=tuple(plain["fit_report"]),
    )
    return posterior, from_plain(Evidence, plain["evidence"])
