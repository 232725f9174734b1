"""Random histories of one small patient: what a site sends, corrects and takes back, as folders of real files.

A piece is one delivery; its `issued` says when the sender made it, whenever it arrives. States are named by the real plans and
committed to a real store; their content is small and stands for a fit, so that hundreds of histories are affordable.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import inbox_builder as b
import numpy as np
from store_builder import make_state, maps, signed

from flows import chain
from flows.evidence import retract
from flows.plan import CyclePlan
from flows.settings import load_settings
from flows.site import Site, open_site
from storage import intake as reading
from storage.cycles import get_cycle
from storage.deliveries import pool_of
from storage.dicom.write_common import save
from storage.twins import now
from storage.vault import Vault
from tdt_core.errors import InputError, StoreError
from tdt_core.twin import Evidence

SECOND = b.THERAPY + timedelta(days=42)
SCANS = {
    "t1": (b.THERAPY + timedelta(hours=4), 0),
    "t2": (b.THERAPY + timedelta(hours=48), 1),
    "t3": (SECOND + timedelta(hours=4), 2),
    "t4": (SECOND + timedelta(hours=72), 3),
}
LAB = {
    "LAB-1": (b.THERAPY - timedelta(days=1), "2160-0", 1.1, "mg/dL", "", "final", "LAB-1"),
    "LAB-1 corrected": (b.THERAPY - timedelta(days=1), "2160-0", 1.4, "mg/dL", "", "corrected", "LAB-1"),
    "LAB-2": (b.THERAPY - timedelta(days=1), "2857-1", 0.02, "ng/mL", "<", "final", "LAB-2"),
    "LAB-2 withdrawn": (b.THERAPY - timedelta(days=1), "2857-1", 0.02, "ng/mL", "<", "entered-in-error", "LAB-2"),
    "LAB-3": (b.THERAPY + timedelta(days=14), "777-3", 180.0, "10*9/L", "", "final", "LAB-3"),
    "LAB-4": (SECOND + timedelta(days=7), "777-3", 160.0, "10*9/L", "", "final", "LAB-4"),
}


@dataclass(frozen=True)
class Piece:
    """One delivery. `scans`: name -> seed of its values; `regions`: scan -> names of regions."""

    day: float
    scans: Mapping[str, int] = dataclasses.field(default_factory=dict)
    regions: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    pet: bool = False
    labs: Sequence[str] = ()
    samples: Sequence[str] = ()
    prior: Sequence[str] = ()
    therapies: int = 1
    activity: Mapping[int, float] = dataclasses.field(default_factory=dict)
    weight_kg: float = 82.0


ALL = ("kidney_left", "kidney_right", "liver", "lesion/L1")
WITHOUT_LESION = ALL[:3]


def blood(hours: float, value: float) -> str:
    at = (b.THERAPY + timedelta(hours=hours)).isoformat()
    return f"{b.PERSON.id},blood,{at},,{value},kBq/mL,,Lu-177,0.05,well,0.03"


def rate(hours: float, value: float) -> str:
    at = (b.THERAPY + timedelta(hours=hours)).isoformat()
    return f"{b.PERSON.id},whole_body,{at},,{value},uSv/h,,Lu-177,0.05,meter,"


BASE = "base"
PIECES: dict[str, Piece] = {
    BASE: Piece(5, {"t1": 0}, {"t1": ALL}, labs=("LAB-1", "LAB-2"), samples=(blood(1, 120), rate(0.25, 52))),
    "pet before therapy": Piece(6, pet=True),
    "late scan": Piece(7, {"t2": 1}),
    "scan reconstructed again": Piece(8, {"t1": 7}),
    "regions drawn again": Piece(9, {"t1": 7}, {"t1": WITHOUT_LESION}),
    "late lab": Piece(16, labs=("LAB-3",)),
    "lab corrected": Piece(17, labs=("LAB-1 corrected",)),
    "lab entered in error": Piece(18, labs=("LAB-2 withdrawn",)),
    "late samples": Piece(19, samples=(blood(24, 14), rate(24, 20))),
    "sample corrected": Piece(20, samples=(blood(1, 150),)),
    "activity corrected": Piece(21, activity={1: 7100.0}),
    "weight corrected": Piece(22, weight_kg=80.0, activity={1: 7100.0}),
    "earlier therapy": Piece(23, prior=("liver,6,photon,2020-03-02",), weight_kg=80.0, activity={1: 7100.0}),
    "earlier therapy corrected": Piece(24, prior=("liver,7,photon,2020-03-02",), weight_kg=80.0, activity={1: 7100.0}),
    "second cycle": Piece(
        46, {"t3": 2}, {"t3": ALL}, labs=("LAB-4",), therapies=2, activity={1: 7100.0}, weight_kg=81.0
    ),
    "late scan of the second cycle": Piece(48, {"t4": 3}, therapies=2, activity={1: 7100.0}, weight_kg=81.0),
    "second activity corrected": Piece(50, therapies=2, activity={1: 7100.0, 2: 7000.0}, weight_kg=81.0),
}  # fmt: skip

TAKEN_BACK: dict[str, Callable[[Any], bool]] = {
    "late scan": lambda i: i.kind == "scan" and 47 < i.time_h < 49,
    "late lab": lambda i: i.kind == "lab" and i.plain["analyte"] == "platelets" and i.time_h < 400,
    "sample corrected": lambda i: i.kind == "sample" and i.plain["kind"] == "blood" and i.plain["value"] > 0.14,
    "regions drawn again": lambda i: i.kind == "labels" and "2026-03-11" < i.version < "2026-04",
    "earlier therapy corrected": lambda i: i.kind == "prior_therapy" and i.plain["dose_gy"] == 7.0,
    "second activity corrected": lambda i: i.kind == "administration" and i.plain["activity_mbq"] == 7000.0,
}
"""Piece -> which of its items is retracted after it came."""


def write_piece(folder: Path, piece: Piece) -> Path:
    """The folder of a piece."""
    folder.mkdir(parents=True)
    for name, seed in piece.scans.items():
        at = SCANS[name][0]
        start = b.THERAPY if at < SECOND else SECOND
        scan = b.spect(name, at, b.counts_of(b.activity(seed)))
        scan.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartDateTime = start.strftime("%Y%m%d%H%M%S%z")
        save(scan, folder / f"{name}.dcm")
        slices = b.ct(name, at)
        for k, d in enumerate(slices):
            save(d, folder / f"{name}ct-{k:02d}.dcm")
        if name in piece.regions:
            save(b.segmentation(name, slices, b.labels(piece.regions[name])), folder / f"{name}seg.dcm")
    if piece.pet:
        at = b.INJECTED + timedelta(hours=1)
        slices = b.ct("pet", at)
        for k, (p, c) in enumerate(zip(b.pet("pet", at, b.activity(9) * 0.01, b.INJECTED), slices, strict=True)):
            save(p, folder / f"pet-{k:02d}.dcm")
            save(c, folder / f"petct-{k:02d}.dcm")
        save(b.segmentation("pet", slices), folder / "petseg.dcm")
    record = b.patient_json(_administrations(piece), weight_kg=piece.weight_kg)
    record["issued"] = (b.THERAPY + timedelta(days=piece.day)).isoformat()
    (folder / "administrations.json").write_text(json.dumps(record))
    calibrations = {"schema": 1, "calibrations": [b.CALIBRATION, b.PET_CALIBRATION]}
    (folder / "calibration.json").write_text(json.dumps(calibrations))
    if piece.labs:
        (folder / "labs.csv").write_text(b.lab_csv([LAB[name] for name in piece.labs]))
    if piece.samples:
        head = "pseudonym,kind,start_time,end_time,value,unit,comparator,nuclide,relative_sd,counter,counter_sd"
        (folder / "samples.csv").write_text("\n".join((head, *piece.samples, "")))
    if piece.prior:
        rows = (f"{b.PERSON.id},{row},estimate" for row in piece.prior)
        (folder / "prior_therapy.csv").write_text("\n".join(("pseudonym,region,dose_gy,radiation,date,source", *rows, "")))
    return folder


def _administrations(piece: Piece) -> list[dict[str, object]]:
    given = [b.pet_administration()] if piece.pet else []
    for n, start in enumerate((b.THERAPY, SECOND)[: piece.therapies], start=1):
        at = start.isoformat()
        activity = piece.activity.get(n, 7400.0)
        given.append(b.administration(activity=activity, calibration_time=at, start_time=at, residual_time=at))
    return given


class Reader:
    """`read_inbox` that reads a folder once: the same folder gives the same intake, and only evidence is put again."""

    def __init__(self) -> None:
        self.read: dict[tuple[Path, bool], reading.Intake] = {}

    def __call__(self, folder: Path, vault: Vault, *, evidence: Any, **options: Any) -> reading.Intake:
        key = (folder, vault.folder is not None and any((vault.folder / "patients").iterdir()))
        if key not in self.read:
            self.read[key] = reading.read_inbox(folder, vault, evidence=evidence, **options)
        for cycle in self.read[key].cycles:
            reading._put(cycle, evidence)
        return self.read[key]


def stand_in(name: str, step: Any, site: Site, plan: CyclePlan) -> None:
    """In place of a fit: a small state of the plan's identity, its content drawn from its id."""
    if name != "commit":
        return
    if site.store.has(plan.state_id):
        state, dose = site.store.load(plan.state_id), site.store.open_dose(plan.state_id)
    else:
        _, patient, cycle = get_cycle(site.evidence, plan.bundle)
        like, _ = make_state(cycle=max(plan.number, 1), parent=None, evidence=cycle.digests)
        state = dataclasses.replace(
            like,
            id=plan.state_id,
            identity=plan.identity,
            pid=plan.pid,
            cycle=plan.number,
            parent=plan.parent,
            patient=patient,
            evidence=Evidence(
                cycle=plan.number,
                patient=patient,
                administrations=cycle.administrations,
                labs=cycle.labs,
                digests=cycle.digests,
                findings=cycle.findings,
                samples=cycle.samples,
            ),
            proposal=dataclasses.replace(like.proposal, state=plan.state_id, cycle=plan.number + 1),
            summary={**like.summary, "cycle_bundle": plan.bundle},
        )
        dose = maps(np.random.default_rng(int(plan.state_id[:8], 16)))
    site.store.commit(state, dose, provenance={}, knowledge_time=now(), **step.keywords)


def new_site(folder: Path, vault: Path) -> Site:
    return open_site(load_settings(home=folder / "home", vault=vault, n_draws=100))


Step = tuple[str, str]
"""(`deliver`, `retract` or `undo`, name of a piece)."""


def take(
    site: Site,
    folders: Mapping[str, Path],
    step: Step,
    call: Any = stand_in,
    taken_back: Mapping[str, Callable[[Any], bool]] = TAKEN_BACK,
) -> bool:
    """Do one step; False when the product refuses it because something it needs has not come yet."""
    what, name = step
    try:
        if what == "deliver":
            chain.run_chain(site, folders[name], call)
            return True
        if not site.store.pids():
            return False
        (pid,) = site.store.pids()
        wanted = [i.id for i in pool_of(site.store, pid).items if taken_back[name](i)]
        if not wanted:
            return False
        retract(site, pid, wanted, reason="the sender says so", by="a physicist", undo=what == "undo", call=call)
    except (InputError, StoreError) as error:
        if error.kind in ("input.cycle", "labels.missing", "scan.missing", "retraction.state", "sample.first_reading"):
            return False
        raise
    return True


Believed = list[tuple[datetime, list[str]]]


def play(
    site: Site,
    folders: Mapping[str, Path],
    steps: Sequence[Step],
    call: Any = stand_in,
    *,
    sign_first: bool = False,
    taken_back: Mapping[str, Callable[[Any], bool]] = TAKEN_BACK,
) -> Believed:
    """Do all steps; one that is refused is tried again after the next. Returns what was believed after each.

    sign_first : begin with the first piece, and let a person sign what it proposes.
    """
    left, believed = list(steps), []
    if sign_first:
        left.remove(("deliver", BASE))
        assert take(site, folders, ("deliver", BASE), call, taken_back)
        site.store.decide(signed(chain_of(site)[-1]), time=now())
    while left:
        done = next((s for s in left if take(site, folders, s, call, taken_back)), None)
        assert done is not None, f"nothing of {left} can be taken in"
        left.remove(done)
        believed.append((now(), chain_of(site)))
    return believed


def chain_of(site: Site) -> list[str]:
    """Ids of the current chain, oldest first."""
    pids = site.store.pids()
    return [i.id for i in reversed(site.store.log(pids[0]))] if pids else []


def in_order(steps: Sequence[Step]) -> list[Step]:
    """As the sender made them: pieces by their day, what is taken back right after, what is put in force again after that."""
    rank = {"deliver": 0, "retract": 1, "undo": 2}
    return sorted(steps, key=lambda s: (PIECES[s[1]].day, rank[s[0]]))


def draw(rng: np.random.Generator) -> list[Step]:
    """A history in the order in which the sender made it."""
    names = [n for n in PIECES if n != BASE and rng.random() < 0.45]
    steps: list[Step] = [("deliver", n) for n in (BASE, *names)]
    for name in names:
        if name in TAKEN_BACK and rng.random() < 0.4:
            steps.append(("retract", name))
            if rng.random() < 0.25:
                steps.append(("undo", name))
    return in_order(steps)


def shuffled(steps: Sequence[Step], rng: np.random.Generator) -> list[Step]:
    """Any order of arrival in which what is taken back came before, and an undone retraction was made before."""
    order = [steps[i] for i in rng.permutation(len(steps))]
    for after, before in (("retract", "deliver"), ("undo", "retract")):
        for what, name in list(order):
            if what == after:
                first, second = order.index((before, name)), order.index((what, name))
                if first > second:
                    order[first], order[second] = order[second], order[first]
    return order


def clean(steps: Sequence[Step]) -> list[Piece]:
    """What holds in the end, as a site would send it that never erred: one folder, and one for a complete second cycle."""
    told = [n for what, n in steps if what == "deliver"]
    back = {n for what, n in steps if what == "retract"} - {n for what, n in steps if what == "undo"}
    holds = set(told) - back
    newest = max(told, key=lambda n: PIECES[n].day)
    first = {1: PIECES[newest].activity.get(1, 7400.0)}
    single = [n for n in told if PIECES[n].therapies == 1]
    again = "scan reconstructed again" in told or "regions drawn again" in told
    labs = ["LAB-1 corrected" if "lab corrected" in told else "LAB-1"]
    labs += [] if "lab entered in error" in told else ["LAB-2"]
    samples = [blood(1, 150 if "sample corrected" in holds else 120), rate(0.25, 52)]
    prior = {"earlier therapy": "liver,6,photon,2020-03-02", "earlier therapy corrected": "liver,7,photon,2020-03-02"}
    one = Piece(
        100,
        {"t1": 7 if again else 0} | ({"t2": 1} if "late scan" in holds else {}),
        {"t1": WITHOUT_LESION if "regions drawn again" in holds else ALL},
        pet="pet before therapy" in told,
        labs=[*labs, *(["LAB-3"] if "late lab" in holds else [])],
        samples=[*samples, *(PIECES["late samples"].samples if "late samples" in told else ())],
        prior=[row for name, row in prior.items() if name in holds][-1:],
        activity=first,
        weight_kg=PIECES[max(single, key=lambda n: PIECES[n].day)].weight_kg,
    )
    if "second cycle" not in told:
        return [one]
    two = Piece(
        101,
        {"t3": 2} | ({"t4": 3} if "late scan of the second cycle" in told else {}),
        {"t3": ALL},
        labs=["LAB-4"],
        therapies=2,
        activity={**first, 2: 7000.0 if "second activity corrected" in holds else 7400.0},
        weight_kg=81.0,
    )
    return [one, two]
