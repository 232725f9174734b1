"""The state of a cycle from the records of its steps, and its commit."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import xarray

from flows.plan import CyclePlan
from flows.site import Site
from flows.steps import load_posterior, start_of
from storage.twins import now
from storage.work import WorkFolder
from tdt_core.codec import from_plain
from tdt_core.draws import LEVELS
from tdt_core.twin import DoseLedger, Proposal, Region, TwinState


def result(site: Site, plan: CyclePlan) -> tuple[TwinState, xarray.Dataset]:
    """The state and its dose maps from the records of the steps."""
    work = WorkFolder(site.home, plan.state_id)
    volumes, images = work.load("images")
    dosed, _ = work.load("dose")
    arrays, plain = work.load("conclusion")
    posterior, evidence = load_posterior(work)
    ledger = plain["ledger"]
    state = TwinState(
        id=plan.state_id,
        identity=plan.identity,
        pid=plan.pid,
        cycle=plan.number,
        parent=plan.parent,
        valid_time_h=start_of(evidence),
        model=posterior.model,
        patient=evidence.patient,
        posterior=posterior,
        ledger=DoseLedger(
            cycles=tuple(ledger["cycles"]),
            administrations=tuple(ledger["administrations"]),
            kinds=tuple(ledger["kinds"]),
            activities_mbq=tuple(ledger["activities_mbq"]),
            regions=tuple(ledger["regions"]),
            dose_gy=arrays["ledger_dose"],
            bed_gy=arrays["ledger_bed"],
            radiation=ledger["radiation"],
            opening_gy=ledger["opening_gy"],
        ),
        lesions=evidence.lesions,
        evidence=evidence,
        proposal=from_plain(Proposal, plain["proposal"]),
        summary=plain["summary"],
    )
    units = {"ct_hu": "HU", "label": "1"}
    quantiles = {
        f"{what}_q{round(100 * level):02d}_gy": map_
        for what in ("dose", "bed")
        for level, map_ in zip(LEVELS, dosed[f"{what}_quantiles"], strict=True)
    }
    maps = {
        "dose_mean_gy": dosed["mean"].astype(np.float32),
        "dose_sd_gy": dosed["sd"].astype(np.float32),
        "bed_mean_gy": dosed["bed"].astype(np.float32),
        "bed_sd_gy": dosed["bed_sd"].astype(np.float32),
        **quantiles,
        "ct_hu": volumes["ct_hu"].astype(np.int16),
        "label": named_labels(volumes["labels"], evidence.regions),
    }
    dataset = xarray.Dataset(
        {name: (("z", "y", "x"), array, {"units": units.get(name, "Gy")}) for name, array in maps.items()},
        attrs={
            "affine": [float(x) for x in volumes["affine"].ravel()],
            "regions": json.dumps([r.name for r in evidence.regions if r.name != "rest"]),
            "frame_of_reference": images["frame_of_reference"],
        },
    )
    return state, dataset


def named_labels(labels: Any, regions: tuple[Region, ...]) -> Any:
    """Labels without `rest`, which stands last and is everything else in the body."""
    return np.where(labels == len(regions), 0, labels).astype(np.int16) if regions[-1].name == "rest" else labels


def commit(site: Site, plan: CyclePlan, *, expected_head: str | None, refit_reason: str = "") -> None:
    """Commit the state and clear the work folder. A state that is there already stays as it is."""
    if site.store.has(plan.state_id):
        state, maps = site.store.load(plan.state_id), site.store.open_dose(plan.state_id)
    else:
        state, maps = result(site, plan)
    site.store.commit(
        state,
        maps,
        expected_head=expected_head,
        provenance=provenance(),
        knowledge_time=now(),
        refit_reason=refit_reason,
    )
    clear(site, plan)


def clear(site: Site, plan: CyclePlan) -> None:
    """Remove the work folder of a plan."""
    WorkFolder(site.home, plan.state_id).remove()


def provenance() -> dict[str, str]:
    """Which code ran: beside the identity, not part of it."""
    lock = Path(__file__).parents[1] / "uv.lock"
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.exists() else "",
    }
