"""From region doses to what limits speak of: organs, BED, the next cycle's dose per activity.

An organ of several regions (two kidneys) has the mass-weighted mean of its regions; lesions stay apart. All arrays carry the
draws last, paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.dosimetry.voxel_bands import Response
from tdt_core.kinetics import KineticModel, activity_by_energy
from tdt_core.kinetics.ligands import ligands, receptor_of
from tdt_core.parameters import packaged_table
from tdt_core.radiobiology import bed, lea_catcheside_sampled
from tdt_core.twin import Administration, Limit, Region

FloatArray = npt.NDArray[np.float64]

UNGROUPED = ("lesions", "rest")

LESIONS_MEASURED_WITH = "PSMA"
"""Receptor of the tumours that the packaged alpha/beta, repair and alpha of lesions come from."""
NEGLIGIBLE_RATE = 1e-4
"""Share of a region's highest dose rate below which its curve counts as zero."""


@dataclass(frozen=True)
class Tissue:
    """Response of an organ: alpha/beta in Gy, repair half-time in h, where they come from; where known alpha in 1/Gy and the
    exponent of the generalised equivalent uniform dose."""

    alpha_beta_gy: float
    repair_half_time_h: float
    source: str
    status: str
    alpha_per_gy: float | None = None
    eud_a: float | None = None


def tissues(policy: Sequence[Limit] = ()) -> dict[str, Tissue]:
    """Tissue of every organ in the packaged table; a BED limit brings its own alpha/beta and repair half-time."""
    table = packaged_table("radiobiology.csv")
    found = {}
    for name in table:
        organ, _, quantity = name.rpartition(".")
        if quantity == "alpha_beta":
            ratio, repair = table[name], table[f"{organ}.repair_half_time"]
            status = "assumed" if "assumed" in (ratio.status, repair.status) else ratio.status
            alpha, exponent = (table[f"{organ}.{q}"].value if f"{organ}.{q}" in table else None for q in ("alpha", "eud_a"))
            source = f"{ratio.source}; repair: {repair.source}"
            found[organ] = Tissue(ratio.value, repair.value, source, status, alpha, exponent)
    for limit in policy:
        if limit.alpha_beta_gy is not None and limit.repair_half_time_h is not None:
            kept = found.get(limit.organ)
            found[limit.organ] = Tissue(
                limit.alpha_beta_gy,
                limit.repair_half_time_h,
                limit.source,
                limit.status,
                # alpha goes with the alpha/beta that it was found with
                eud_a=None if kept is None else kept.eud_a,
            )
    return found


def for_ligand(known: Mapping[str, Tissue], ligand: str) -> Mapping[str, Tissue]:
    """The same tissues; the packaged response of lesions, found in prostate cancer, is assumed for any other tumour."""
    lesions = tissues()["lesions"]
    if known.get("lesions") != lesions or (ligand in ligands() and receptor_of(ligand) == LESIONS_MEASURED_WITH):
        return known
    return {**known, "lesions": replace(lesions, status="assumed", source=f"taken over from another tumour: {lesions.source}")}


def organ_groups(regions: Sequence[Region]) -> dict[str, tuple[str, ...]]:
    """Organ -> its regions, for organs whose name is not itself a region (`kidneys`, `parotid_glands`, ...)."""
    groups: dict[str, list[str]] = {}
    for region in regions:
        if region.organ not in UNGROUPED and region.organ != region.name:
            groups.setdefault(region.organ, []).append(region.name)
    return {organ: tuple(names) for organ, names in groups.items()}


def ledger_names(regions: Sequence[Region]) -> tuple[str, ...]:
    """Regions in their order, then the organs that group several of them."""
    return tuple(r.name for r in regions) + tuple(organ_groups(regions))


def with_organs(regions: Sequence[Region], values: FloatArray) -> FloatArray:
    """(regions, draws) -> (ledger names, draws): organs appended as mass-weighted means."""
    position = {r.name: i for i, r in enumerate(regions)}
    rows = [np.asarray(values, dtype=float)]
    for names in organ_groups(regions).values():
        index = [position[n] for n in names]
        mass = np.array([regions[i].mass_g for i in index])
        rows.append((mass @ values[index] / mass.sum())[None])
    return np.concatenate(rows)


def organ_of(regions: Sequence[Region], name: str) -> str:
    """Organ of a ledger name."""
    return next((r.organ for r in regions if r.name == name), name)


def lea_catcheside_by_region(
    model: KineticModel, theta: FloatArray, administration: Administration, tissues: Mapping[str, Tissue]
) -> FloatArray:
    """(regions, draws) Lea-Catcheside factor of each region's own activity curve; NaN without a repair half-time.

    The dose rate is taken to follow the region's own activity, which gives nearly all of its dose; daughters that are followed
    count where they are.
    """
    times = np.concatenate([[0.0], np.geomspace(0.02, 1500.0, 160)])
    rate = np.maximum(activity_by_energy(model, theta, administration, times), 0.0)
    # further down a solver's curve is noise that may rise; the dose left there is nothing
    rate[rate < NEGLIGIBLE_RATE * rate.max(axis=-1, keepdims=True)] = 0.0
    g = np.full((len(model.regions), len(theta)), np.nan)
    for i, region in enumerate(model.regions):
        if region.organ in tissues:
            g[i] = lea_catcheside_sampled(times, rate[:, i], tissues[region.organ].repair_half_time_h)
    return g


def bed_by_region(regions: Sequence[Region], dose_gy: FloatArray, g: FloatArray, tissues: Mapping[str, Tissue]) -> FloatArray:
    """(regions, draws) BED = D + G D^2 / (alpha/beta), Gy; NaN where the organ has no alpha/beta."""
    ratio = np.array([tissues[r.organ].alpha_beta_gy if r.organ in tissues else np.nan for r in regions])
    return bed(dose_gy, g, ratio[:, None])


def responses(regions: Sequence[Region], g: FloatArray, tissues: Mapping[str, Tissue]) -> dict[str, Response]:
    """What voxel maps need to become BED, for the regions that have an alpha/beta. g : (regions, draws)."""
    return {
        region.name: Response(factors, tissue.alpha_beta_gy, tissue.alpha_per_gy, tissue.eud_a)
        for region, factors in zip(regions, g, strict=True)
        if (tissue := tissues.get(region.organ)) is not None
    }


def bed_map(
    labels: npt.NDArray[Any],
    regions: Sequence[Region],
    dose_gy: npt.NDArray[np.float32],
    g: FloatArray,
    tissues: Mapping[str, Tissue],
) -> npt.NDArray[np.float32]:
    """(z, y, x) BED of one dose map with each region's mean G, Gy; NaN outside regions with an alpha/beta.

    labels : (z, y, x), n for the n-th region from 1. g : (regions, draws). Over draws use `responses` and `credible_dose`.
    """
    found = np.full(dose_gy.shape, np.nan, dtype=np.float32)
    for i, region in enumerate(regions):
        if region.organ in tissues:
            inside = labels == i + 1
            d = dose_gy[inside]
            found[inside] = d + float(g[i].mean()) * d**2 / tissues[region.organ].alpha_beta_gy
    return found


def effective_g(regions: Sequence[Region], dose: FloatArray, g: FloatArray) -> FloatArray:
    """(ledger names, draws) factor G with which D + G D^2/(alpha/beta) of an organ's mean dose is its mean BED."""
    mean = with_organs(regions, dose)
    return np.asarray(with_organs(regions, g * dose**2) / np.maximum(mean, 1e-300) ** 2)
