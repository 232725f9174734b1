"""Small twin states with real evidence behind them, for tests of the store. Fast: a state of a few kilobytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import xarray as xr

from storage.evidence import EvidenceStore
from storage.home import open_home
from storage.identity import state_id, state_identity
from storage.twins import TwinStore
from tdt_core.twin import (
    Administration,
    Decision,
    DoseLedger,
    Evidence,
    LabResult,
    Lesion,
    Patient,
    Posterior,
    Proposal,
    Region,
    TwinState,
)

PID = "p-0a1b2c"
START = datetime(2026, 3, 1, 9, tzinfo=UTC)
PATIENT = Patient(PID, "male", 71.0, 178.0, 82.5, 0.38)


def day(n: float) -> datetime:
    """Knowledge time n days after the start."""
    return START + timedelta(days=n)


def open_store(root: Path) -> TwinStore:
    """A store in a fresh or existing home."""
    return TwinStore(open_home(root))


def item(store: TwinStore | EvidenceStore, name: str, cycle: int) -> str:
    """One evidence item of a cycle, put in the store; returns its digest."""
    evidence = store.evidence if isinstance(store, TwinStore) else store
    return evidence.put_json("labs", {"name": name, "cycle": cycle})


def administration(cycle: int) -> Administration:
    """The therapy of a cycle."""
    return Administration(1008.0 * (cycle - 1), "product", "ligand", "Lu-177", 7400.0, 150.0)


def make_state(
    *,
    cycle: int,
    parent: str | None,
    evidence: Sequence[str],
    before: Sequence[str] = (),
    decision: Decision | None = None,
    seed: int = 1,
    science: str = "s" * 64,
    pid: str = PID,
    proposed_mbq: float | None = 7000.0,
) -> tuple[TwinState, xr.Dataset]:
    """A state and its voxel maps. `evidence` is what the cycle brought, `before` what earlier cycles brought."""
    identity = state_identity(
        pid=pid,
        parent=parent,
        evidence_digests=[*before, *evidence],
        administrations=[administration(c) for c in range(1, cycle + 1)],
        decision=decision,
        prior={"name": "population", "version": 3},
        model="sum_of_exponentials",
        settings={"draws": 6, "engine": "kernel"},
        root_seed=seed,
        cycle=cycle,
        science=science,
    )
    sid = state_id(identity)
    rng = np.random.default_rng([seed, cycle, int(sid[:8], 16)])
    names = ("kidneys.uptake", "kidneys.rate", "lesion/L1.uptake")
    regions = ("kidney_left", "kidneys", "lesion/L1")
    bed = rng.uniform(1, 9, (cycle, 3, 6))
    bed[:, 2] = np.nan
    state = TwinState(
        id=sid,
        identity=identity,
        pid=pid,
        cycle=cycle,
        parent=parent,
        valid_time_h=1008.0 * (cycle - 1) + 168.0,
        model="sum_of_exponentials",
        patient=Patient(pid, "male", 71.0, 178.0, 82.5, 0.38),
        posterior=Posterior(
            names,
            rng.normal(size=3),
            np.linalg.cholesky(np.eye(3) + 0.1),
            rng.normal(size=(6, 3)),
            "sum_of_exponentials",
            {"2J": 11.25, "n_obs": 12, "chi2_per_n": 0.9375, "effective_parameters": 4.5, "converged": True},
            ({"region": "kidney_left", "time_h": 24.0, "observed": 31.5, "status": "active"},),
        ),
        ledger=DoseLedger(
            cycles=tuple(range(1, cycle + 1)),
            administrations=tuple(1008.0 * c for c in range(cycle)),
            kinds=("retrospective",) * cycle,
            activities_mbq=(7400.0,) * cycle,
            regions=regions,
            dose_gy=rng.uniform(1, 9, (cycle, 3, 6)),
            bed_gy=bed,
            opening_gy={"kidneys": 2.5},
        ),
        lesions=(Lesion("L1", "pelvis", 6.25, 1),),
        evidence=Evidence(
            cycle=cycle,
            patient=Patient(pid, "male", 71.0, 178.0, 82.5, 0.38),
            administrations=(administration(cycle),),
            regions=(Region("kidney_left", "kidneys", "64033007", "left", volume_ml=160.0),),
            labs=(LabResult("psa", 12.0, 0.1, "ng/mL", "<"),),
            lesions=(Lesion("L1", "pelvis", 6.25, 1),),
            digests=tuple(sorted(evidence)),
        ),
        proposal=Proposal(
            state=sid,
            cycle=cycle + 1,
            activity_mbq=proposed_mbq,
            binding="kidneys",
            risk=None if proposed_mbq is None else 0.03,
            reasons=("kidneys bind",),
            limits=({"organ": "kidneys", "limit_gy": 40.0},),
            curve={"activity_mbq": [6000.0, 7000.0], "risk": [0.01, 0.03]},
            product="product",
            remaining_cycles=3,
        ),
        summary={
            "doses": [
                {
                    "region": "kidney_left",
                    "organ": "kidneys",
                    "dose_gy": {"mean": 4.5, "sd": 0.5, "q05": 3.75, "q50": 4.5, "q95": 5.25},
                    "bed_gy": None,
                }
            ],
            "warnings": ["one scan came late"],
        },
    )
    return state, maps(rng)


def maps(rng: np.random.Generator) -> xr.Dataset:
    """Voxel maps on a small grid, negative zero and NaN included."""
    shape = (3, 4, 5)
    dose = rng.gamma(2.0, 1.0, shape).astype(np.float32)
    dose[0] = -0.0
    bed = np.where(dose > 1, dose * np.float32(1.2), np.float32(np.nan)).astype(np.float32)
    dims = ("z", "y", "x")
    return xr.Dataset(
        {
            "dose_mean_gy": (dims, dose, {"units": "Gy"}),
            "dose_sd_gy": (dims, dose * np.float32(0.1), {"units": "Gy"}),
            "bed_mean_gy": (dims, bed, {"units": "Gy"}),
            "ct_hu": (dims, rng.integers(-1000, 1000, shape, dtype=np.int16), {"units": "HU"}),
            "label": (dims, rng.integers(0, 3, shape, dtype=np.int16), {}),
        },
        attrs={
            "affine": [float(v) for v in np.diag([4.0, 4.0, 4.0, 1.0]).ravel()],
            "regions": json.dumps(["kidney_left", "lesion/L1"]),
            "frame_of_reference": "2.25.1",
        },
    )


def commit_cycles(
    store: TwinStore, cycles: int, *, names: Sequence[str] = ("scan",), science: str = "s" * 64, reason: str = "", at: float = 0
) -> list[str]:
    """Commit a chain from cycle 1; every cycle brings one item per name. Returns the ids, oldest first."""
    ids: list[str] = []
    before: list[str] = []
    for cycle in range(1, cycles + 1):
        digests = [item(store, name, cycle) for name in names]
        state, dose = make_state(cycle=cycle, parent=ids[-1] if ids else None, evidence=digests, before=before, science=science)
        store.commit(
            state,
            dose,
            expected_head=store.head(PID),
            provenance={"code_commit": "c" * 40, "lock_sha256": "l" * 64},
            knowledge_time=day(at + cycle),
            refit_reason=reason,
        )
        before += digests
        ids.append(state.id)
    return ids


def signed(state: str, activity_mbq: float = 7000.0) -> Decision:
    """A complete signature on a proposal."""
    return Decision(state, "signed", activity_mbq, "a clinician", "nuclear medicine physician", "as proposed")
