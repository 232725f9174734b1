"""Late, corrected and retracted data with states that are really fitted: the same numbers in any order of arrival.

`test_shuffled_histories` has hundreds of histories and stand-ins for fits. Here are few, whose states come from images: real
folders of the reference patient (a PET and two cycles), read, quantified, fitted, dosed and committed by the product itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import inbox_builder as b
import numpy as np
import pydicom
import pytest
from histories import Step, chain_of, play, shuffled

from flows.chain import call_directly, replay
from flows.cli import main
from flows.settings import load_settings
from flows.site import Site, open_site
from storage.phantom_files import write_reference_patient
from tdt_core.imaging.volume import LabelVolume
from tdt_core.phantom import PhantomSettings, ReferencePatient, reference_patient
from tdt_core.phantom.types import PhantomCycle

AGAIN = "scan reconstructed again"


@dataclass(frozen=True)
class Sent:
    """One delivery: `scans` and `regions` as "cycle.number", labs by the cycle of their record; `day` is when it was made."""

    day: float
    scans: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    therapies: int = 1
    pet: bool = True
    labs: tuple[str, ...] = ()
    activity: float = 1.0
    creatinine: str = ""


HISTORIES: dict[str, dict[str, Sent]] = {
    "an activity corrected, a scan of the second cycle taken back": {
        "base": Sent(5, ("0.0", "1.0"), ("0.0", "1.0"), labs=("C0",)),
        "late scan": Sent(7, ("1.1",)),
        "activity corrected": Sent(9, activity=1.03),
        "second cycle": Sent(46, ("2.0",), ("2.0",), therapies=2, activity=1.03, labs=("C1",)),
        "wrong scan": Sent(48, ("2.1",), therapies=2, activity=1.03),
    },
    "a scan reconstructed again, a late one taken back": {
        "base": Sent(5, ("0.0", "1.0"), ("0.0", "1.0"), labs=("C0",)),
        "wrong scan": Sent(7, ("1.1",)),
        AGAIN: Sent(9, ("1.0",)),
        "second cycle": Sent(46, ("2.0",), ("2.0",), therapies=2),
        "late scan": Sent(48, ("2.1",), therapies=2),
    },
    "a result corrected, the PET taken back": {
        "base": Sent(5, ("1.0",), ("1.0",), pet=False, labs=("C0",)),
        "wrong scan": Sent(6, ("0.0",), ("0.0",)),
        "late scan": Sent(7, ("1.2",)),
        "result corrected": Sent(9, labs=("C0",), creatinine="1.45"),
        "second cycle": Sent(46, ("2.0",), ("2.0",), therapies=2),
    },
}
TAKEN_BACK: dict[str, Callable[[Any], bool]] = {
    "an activity corrected, a scan of the second cycle taken back": lambda i: i.kind == "scan" and i.time_h > 45 * 24,
    "a scan reconstructed again, a late one taken back": lambda i: i.kind == "scan" and 36 < i.time_h < 1000,
    "a result corrected, the PET taken back": lambda i: i.kind == "scan" and i.plain["modality"] == "PET",
}
SEEDS = [(name, seed) for name in HISTORIES for seed in (1, 2, 3)]


REGIONS = ("red_marrow", "liver", "spleen", "kidney_left", "kidney_right", "lesion/L2")
SLICES = slice(15, 32)
"""That hold these regions: the histories ask about order, not about a whole body, and cost a sixth this way."""


class Abdomen:
    """A reference patient whose scans show some slices and regions."""

    def __init__(self, whole: ReferencePatient) -> None:
        self.settings, self.patient, self.anatomy, self._whole = whole.settings, whole.patient, whole.anatomy, whole

    def cycle(self, number: int, activity_mbq: float | None = None) -> PhantomCycle:
        cycle = self._whole.cycle(number, activity_mbq)
        drawn = cycle.segmentation
        labels = np.zeros_like(drawn.labels)
        for n, name in enumerate(REGIONS, start=1):
            labels[drawn.mask(name)] = n
        regions = tuple(next(r for r in drawn.regions if r.name == name) for name in REGIONS)
        shown = LabelVolume(labels[SLICES], moved(drawn.affine), drawn.frame_of_reference, regions)
        scans = tuple(
            dataclasses.replace(
                s,
                image=s.image[SLICES],
                ct_hu=s.ct_hu[SLICES],
                truth_mbq_ml=s.truth_mbq_ml[SLICES],
                affine=moved(s.affine),
            )
            for s in cycle.scans
        )
        return dataclasses.replace(
            cycle, scans=scans, segmentation=shown, truth={}, truth_dose=None, truth_tia=None, truth_labels=None
        )


def moved(affine: np.ndarray) -> np.ndarray:
    """Of the grid that is left."""
    there = affine.copy()
    there[:3, 3] += SLICES.start * affine[:3, 0]
    return there


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files of the reference patient's abdomen, written once."""
    reference = reference_patient(PhantomSettings(seed=7, cycles=2, matrix=32, time_points=3))
    return write_reference_patient(tmp_path_factory.mktemp("clinic"), Abdomen(reference))


@pytest.fixture(scope="module")
def files(clinic: Path) -> dict[str, dict[str, list[Path]]]:
    """ "cycle.number" of a scan, in order of time -> modality -> its files."""
    found: dict[str, dict[str, list[Path]]] = {}
    for folder in sorted(clinic.glob("cycle-*")):
        frames: dict[str, dict[str, list[Path]]] = {}
        times: dict[str, str] = {}
        for path in sorted(folder.glob("*.dcm")):
            d = pydicom.dcmread(path, stop_before_pixels=True)
            frame = str(d.FrameOfReferenceUID)
            frames.setdefault(frame, {}).setdefault(str(d.Modality), []).append(path)
            if d.Modality == "CT":
                times[frame] = f"{d.AcquisitionDate}{d.AcquisitionTime}"
        for n, frame in enumerate(sorted(frames, key=lambda f: times[f])):
            found[f"{folder.name.removeprefix('cycle-')}.{n}"] = frames[frame]
    return found


def write(folder: Path, name: str, sent: Sent, clinic: Path, files: Mapping[str, Mapping[str, Sequence[Path]]]) -> Path:
    """The folder of a delivery."""
    folder.mkdir(parents=True)
    for scan in sent.scans:
        for modality, paths in files[scan].items():
            for path in paths if modality != "SEG" or scan in sent.regions else ():
                copy = folder / f"{scan}-{path.name}"
                shutil.copy(path, copy)
                if name == AGAIN and modality == "NM":
                    b.edit(copy, brighter)
    record = json.loads((clinic / "administrations.json").read_text())
    pet, *therapies = record["administrations"]
    start = datetime.fromisoformat(therapies[0]["start_time"])
    therapies[0]["activity"] *= sent.activity
    record["administrations"] = [*([pet] if sent.pet else []), *therapies[: sent.therapies]]
    record["issued"] = (start + timedelta(days=sent.day)).isoformat()
    (folder / "administrations.json").write_text(json.dumps(record))
    shutil.copy(clinic / "calibration.json", folder)
    head, *rows = (clinic / "labs.csv").read_text().splitlines()
    rows = [r for r in rows if r.rsplit(",", 1)[1].startswith(sent.labs)] if sent.labs else []
    if sent.creatinine:
        row = next(r for r in rows if r.endswith("C0-baseline-creatinine")).split(",")
        row[3], row[6] = sent.creatinine, "corrected"
        rows = [",".join(row)]
    if rows:
        (folder / "labs.csv").write_text("\n".join((head, *rows, "")))
    return folder


def brighter(d: pydicom.Dataset) -> None:
    """Another reconstruction of the same acquisition."""
    counts = d.pixel_array
    d.PixelData = np.rint(counts * 1.06).astype(counts.dtype).tobytes()
    d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = f"{d.SOPInstanceUID}.1"[-64:]


def new_site(folder: Path, vault: Path) -> Site:
    return open_site(load_settings(home=folder / "home", vault=vault, n_draws=50, model="sum_of_exponentials"))


@pytest.fixture(scope="module")
def truths() -> dict[str, tuple[Site, dict[str, Path]]]:
    """History -> the site that was told it in order, and the folders of its deliveries."""
    return {}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sites")


def steps_of(name: str) -> list[Step]:
    """As the sender made them; what is wrong is taken back last."""
    return [*(("deliver", piece) for piece in HISTORIES[name]), ("retract", "wrong scan")]


def told_in_order(name: str, place: Path, clinic: Path, files: Any, truths: dict[str, Any]) -> tuple[Site, dict[str, Path]]:
    if name not in truths:
        base = place / f"history-{list(HISTORIES).index(name)}"
        folders = {p: write(base / f"piece-{n}", p, s, clinic, files) for n, (p, s) in enumerate(HISTORIES[name].items())}
        site = new_site(base / "in order", place / "vault")
        play(site, folders, steps_of(name), call_directly, taken_back={"wrong scan": TAKEN_BACK[name]})
        truths[name] = (site, folders)
    return truths[name]


def bytes_of(site: Site, states: Sequence[str]) -> dict[str, str]:
    """SHA-256 of every file of the states but what holds the time of day."""
    base = site.home.states(site.store.pids()[0])
    paths = (p for s in states for p in sorted((base / s).rglob("*")) if p.is_file())
    kept = (p for p in paths if p.name not in ("provenance.json", "COMMITTED"))
    return {str(p.relative_to(base)): hashlib.sha256(p.read_bytes()).hexdigest() for p in kept}


@pytest.mark.long
@pytest.mark.parametrize(("name", "seed"), SEEDS)
def test_fitted_numbers_do_not_depend_on_the_order_of_arrival(name, seed, place, clinic, files, truths, tmp_path, capsys):
    truth, folders = told_in_order(name, place, clinic, files, truths)
    expected = chain_of(truth)
    order = shuffled(steps_of(name), np.random.default_rng([20261122, seed]))
    site = new_site(tmp_path, place / "vault")
    believed = play(site, folders, order, call_directly, taken_back={"wrong scan": TAKEN_BACK[name]})

    assert chain_of(site) == expected, order
    assert [site.store.load(s).cycle for s in expected] == ([1, 2] if "PET" in name else [0, 1, 2])
    for state in expected:
        one, other = truth.store.load(state), site.store.load(state)
        for what in ("mean", "cholesky", "draws"):
            np.testing.assert_array_equal(getattr(one.posterior, what), getattr(other.posterior, what), err_msg=what)
        for what in ("dose_gy", "bed_gy"):
            np.testing.assert_array_equal(getattr(one.ledger, what), getattr(other.ledger, what), err_msg=what)
        assert one.proposal == other.proposal
    assert bytes_of(site, expected) == bytes_of(truth, expected), "not a byte of a state hangs on the order"

    pid = site.store.pids()[0]
    branches = {s for _, states in believed for s in states} - set(expected)
    assert branches, "what was believed on the way was something else"
    for when, states in believed:
        assert [i.id for i in reversed(site.store.as_of(pid, when))] == states
    for state in branches:
        assert np.isfinite(site.store.load(state).posterior.draws).all()
        assert float(site.store.open_dose(state).dose_mean_gy.max()) > 0
    when, states = believed[len(believed) // 2]
    capsys.readouterr()
    assert main(["--home", str(site.settings.home), "twin", "as-of", pid, when.isoformat(), "--json"]) == 0
    assert {i["id"] for i in json.loads(capsys.readouterr().out)["chain"]} == set(states)
    assert site.store.verify() == ()


@pytest.mark.long
def test_what_was_corrected_and_taken_back_moved_the_numbers(place, clinic, files, truths):
    """The histories ask something: the states before the correction and the retraction were others in their numbers, too."""
    name = next(iter(HISTORIES))
    truth, _ = told_in_order(name, place, clinic, files, truths)
    pid = truth.store.pids()[0]
    doses: dict[int, set[float]] = {}
    for state in truth.store.state_ids(pid):
        s = truth.store.load(state)
        doses.setdefault(s.cycle, set()).add(float(np.median(s.ledger.dose_gy[-1])) if s.ledger.cycles else 0.0)
    assert len(doses[1]) == 3, "one scan, two scans, another activity"
    assert len(doses[2]) >= 2
    assert replay(truth, chain_of(truth)[-1]) == []
