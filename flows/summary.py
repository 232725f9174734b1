"""The `summary` of a twin state (docs/design/002), from the results of one cycle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.draws import LEVELS, summarised
from tdt_core.kinetics import KineticModel, followed, shifts, uptake_parameter
from tdt_core.kinetics.daughters import daughters_of, element_of, stated
from tdt_core.nuclides import decays_per_parent_decay, normalise_name
from tdt_core.parameters import packaged_csv
from tdt_core.planning.ledger import LedgerRow
from tdt_core.planning.outlook import Tissue, ledger_names, organ_of
from tdt_core.twin import Administration, DoseLedger, Limit, Posterior, Product, Region

FloatArray = npt.NDArray[np.float64]

ASSUMED_TABLES = ("assimilation.csv", "imaging_parameters.csv", "lab_trends.csv", "organ_level.csv")
"""Packaged tables of numbers that every state rests on, whatever its regions."""

LEARNED_ABOVE = 0.5
"""Share of the population's variance of ln uptake that data must remove before a dose counts as learned."""

CURVE_TIMES_H = np.concatenate([[0.0], np.geomspace(0.25, 300.0, 70)])


def quantiles(draws: FloatArray) -> dict[str, float] | None:
    """Draws summarised; None when they are not numbers (no alpha/beta)."""
    return summarised(draws) if np.isfinite(draws).all() else None


def dose_rows(
    model: KineticModel, row: LedgerRow, tia: FloatArray, posterior: Posterior, tissues: Mapping[str, Tissue]
) -> list[dict[str, Any]]:
    """Rows of `doses` from the cycle's row of the ledger; tia (regions, draws) MBq h."""
    regions = model.regions
    by_region = {r.name: _uptake_reduction(model, posterior, r.name) for r in regions}
    rows = []
    for i, name in enumerate(row.names):
        organ = organ_of(regions, name)
        members = [k for k, r in enumerate(regions) if r.name == name or (r.organ == name)]
        learned = min(by_region[regions[k].name] for k in members)
        rows.append(
            {
                "region": name,
                "organ": organ,
                "volume_ml": sum(regions[k].volume_ml for k in members),
                "mass_g": sum(regions[k].mass_g for k in members),
                "dose_gy": quantiles(row.dose_gy[i]),
                "bed_gy": quantiles(row.bed_gy[i]),
                "alpha_beta_gy": tissues[organ].alpha_beta_gy if organ in tissues else None,
                "gy_per_gbq": quantiles(row.dose_gy[i] / row.given.net_activity_mbq * 1e3),
                "tia_mbq_h": quantiles(tia[members].sum(axis=0)),
                "learned": "learned" if learned >= LEARNED_ABOVE else "assumed",
                "variance_reduction": learned,
            }
        )
    return rows


def _uptake_reduction(model: KineticModel, posterior: Posterior, region: str) -> float:
    """Share of the population's variance of ln uptake that all data up to now have removed."""
    name = uptake_parameter(model, region)
    if name is None:
        return 0.0
    i = posterior.index(name)
    return 1.0 - float(posterior.covariance[i, i]) / model.parameters[name].sd ** 2


def cumulative_rows(ledger: DoseLedger, limits: Sequence[Limit]) -> list[dict[str, Any]]:
    """Rows of `cumulative`, one per limit whose organ the ledger holds."""
    return [
        {
            "organ": limit.organ,
            "quantity": limit.quantity,
            "limit_gy": limit.value_gy,
            "risk": limit.risk,
            "source": limit.source,
            "status": limit.status,
            "cumulative_gy": quantiles(ledger.cumulative(limit.organ, limit.quantity))
            if ledger.knows(limit.organ, limit.quantity)
            else None,
            "opening_gy": float(ledger.opening_gy.get(limit.organ, 0.0)),
        }
        for limit in limits
        if limit.organ in ledger.regions
    ]


def curve_rows(
    model: KineticModel, theta: FloatArray, administration: Administration, posterior: Posterior
) -> list[dict[str, Any]]:
    """Rows of `curves`: bands of activity after the administration, MBq, with the points that they go through."""
    bands = np.quantile(model.activity(theta, administration, CURVE_TIMES_H), LEVELS, axis=0)
    rows = []
    for i, region in enumerate(model.regions):
        points = [
            {
                "time_h": float(datum["time_h"]) - administration.time_h,
                "activity_mbq": float(datum["observed_mbq"]),
                "sd_mbq": float(datum["observed_mbq"]) * float(datum.get("total_sd_log", 0.0)),
                "status": datum["status"],
            }
            for datum in posterior.fit_report
            if datum["region"] == region.name and datum["modality"] == "SPECT"
        ]
        rows.append(
            {
                "region": region.name,
                "times_h": CURVE_TIMES_H.tolist(),
                "q05": bands[0, i].tolist(),
                "q50": bands[1, i].tolist(),
                "q95": bands[2, i].tolist(),
                "points": points,
            }
        )
    return rows


def forecast_rows(regions: Sequence[Region], gy_per_mbq: FloatArray) -> list[dict[str, Any]]:
    """Rows of `forecast`: next cycle's absorbed dose per activity, (ledger names, draws) Gy/MBq."""
    return [
        {"region": name, "organ": organ_of(regions, name), "gy_per_gbq": quantiles(gy_per_mbq[i] * 1e3)}
        for i, name in enumerate(ledger_names(regions))
    ]


def daughter_rows(model: KineticModel, theta: FloatArray, given: Administration) -> list[dict[str, Any]]:
    """Rows of `daughters`: what leaves the ligand of the administered nuclide, and what of it ends outside its regions."""
    parent, table = normalise_name(given.nuclide), stated()
    names, per_parent = daughters_of(parent), decays_per_parent_decay(parent)
    known = {s.daughter: s for s in shifts(model, theta, given)}
    rows = []
    for name in names:
        leaving = table[f"{parent}/{name}.leaving"]
        row = {"parent": parent, "daughter": name, "followed": name in known, "leaving": leaving.value}
        row |= {"status": leaving.status, "source": leaving.source}
        if name in known:
            shift, made = known[name], per_parent[name] * model.time_integrated_activity(theta, given)
            held = zip(model.regions, (made + shift.tia_mbq_h).T, strict=True)
            row |= {
                "excreted_share": quantiles(shift.excreted_mbq_h / made.sum(axis=1)),
                "without_region_share": quantiles(shift.unplaced_mbq_h / made.sum(axis=1)),
                "tia_mbq_h": {region.name: quantiles(values) for region, values in held},
            }
        rows.append(row)
    return rows


def assumed_rows(
    model: KineticModel, tissues: Mapping[str, Tissue], product: Product, limits: Sequence[Limit], nuclide: str
) -> list[dict[str, Any]]:
    """Every assumed number behind a state: kinetic priors (one row per organ and quantity), tissues, plan, limits."""
    seen: set[tuple[str, str]] = set()
    rows: list[dict[str, Any]] = []
    organs = {r.name: r.organ for r in model.regions}
    for p in model.parameters.assumed():
        region, _, quantity = p.name.rpartition(".")
        key = (organs.get(region, region), quantity)
        if key not in seen:
            seen.add(key)
            rows.append({"name": ".".join(key), "value": p.value, "unit": p.unit, "source": p.source})
    for p in model.background.assumed():
        rows.append({"name": p.name, "value": p.value, "unit": p.unit, "source": p.source})
    for name in followed(model, nuclide):
        scopes = (f"{normalise_name(nuclide)}/{name}", element_of(name))
        rows += [
            {"name": p.name, "value": p.value, "unit": p.unit, "source": p.source}
            for p in stated().assumed()
            if p.name.rpartition(".")[0] in scopes
        ]
    for organ, tissue in tissues.items():
        if tissue.status == "assumed" and organ in organs.values():
            rows.append({"name": f"{organ}.alpha_beta", "value": tissue.alpha_beta_gy, "unit": "Gy", "source": tissue.source})
    rows += [
        {"name": row["name"], "value": float(row["value"]), "unit": row["unit"], "source": row["source"]}
        for row in packaged_csv("radiobiology.csv")
        if row["status"] == "assumed" and row["name"].endswith(".eud_a") and row["name"].rpartition(".")[0] in organs.values()
    ]
    if product.status == "assumed":
        low, high = product.activity_range_mbq
        rows += [
            {"name": f"{product.name}.activity_range_{end}", "value": value, "unit": "MBq", "source": product.source}
            for end, value in (("low", low), ("high", high))
        ]
        if product.standard_amount_nmol is not None:
            amount = product.standard_amount_nmol
            rows.append({"name": f"{product.name}.amount", "value": amount, "unit": "nmol", "source": product.source})
    for table in ASSUMED_TABLES:
        rows += [
            {"name": row["name"], "value": float(row["value"]), "unit": row["unit"], "source": row["source"]}
            for row in packaged_csv(table)
            if row["status"] == "assumed"
        ]
    rows += [
        {"name": f"{r['organ']}.{r['quantity']}.drift_sd", "value": float(r["drift_sd"]), "unit": "1", "source": r["source"]}
        for r in packaged_csv("kinetics_relations.csv")
        if r["status"] == "assumed"
    ]
    rows += [
        {"name": f"limit.{x.organ}", "value": x.value_gy, "unit": "Gy", "source": x.source}
        for x in limits
        if x.status == "assumed"
    ]
    return rows
