"""Trials at rest: the same bytes for any number of workers, failures recorded, the page self-contained."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows import trial, trial_page
from flows.settings import Settings, load_settings, make_folders
from storage import trials
from storage.trials import TrialStore, Variable
from tdt_core.codec import to_plain
from tdt_core.errors import EstimationError
from tdt_core.trials import ENDPOINTS, Design

DESIGN = Design(root_seed=5, patients=4, n_draws=60)


def begin(store: TrialStore, design: Design = DESIGN) -> Path:
    return store.create(
        {"design": to_plain(design)},
        members=design.patients,
        coords={"arm": list(design.arms), "cycle": [1, 2]},
        variables={e.name: Variable(("arm", "cycle"), e.unit) for e in ENDPOINTS},
    )


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted((folder / "results.zarr").rglob("*")) if p.is_file()}


@pytest.mark.long
@pytest.mark.services
def test_one_worker_two_workers_and_none_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "BLOCK", 2)
    found = []
    for workers in (0, 1, 2):
        settings = load_settings(home=tmp_path / f"h{workers}", workers=max(workers, 1))
        store = TrialStore(make_folders(settings))
        folder = begin(store)
        if workers:
            trial._simulate(settings, DESIGN, folder)
        else:
            trial.simulate_and_write(str(folder), to_plain(DESIGN), [3, 1, 0, 2])
        store.finish(folder.name)
        found.append(content(folder))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) > len(ENDPOINTS)


def test_an_interrupted_trial_goes_on_and_gives_what_an_uninterrupted_one_gives(site: Settings, tmp_path: Path) -> None:
    store, other = TrialStore(make_folders(site)), TrialStore(make_folders(load_settings(home=tmp_path / "other")))
    folder, whole = begin(store), begin(other)
    trial.simulate_and_write(str(folder), to_plain(DESIGN), [0, 1])
    assert trials.progress(folder).pending == (2, 3)
    trial.simulate_and_write(str(folder), to_plain(DESIGN), trials.progress(folder).pending)
    trial.simulate_and_write(str(whole), to_plain(DESIGN), range(4))
    store.finish(folder.name)
    other.finish(whole.name)
    assert content(folder) == content(whole)


def test_a_patient_that_fails_is_recorded_and_left_out_of_the_statistics(
    site: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trial.simulate_patient

    def one_fails(design: Design, number: int) -> Any:
        if number == 1:
            raise EstimationError("no start of the fit reached a finite objective", kind="estimation.diverged")
        return real(design, number)

    monkeypatch.setattr(trial, "simulate_patient", one_fails)
    store = TrialStore(make_folders(site))
    folder = begin(store)
    assert trial.simulate_and_write(str(folder), to_plain(DESIGN), range(4)) == 1
    store.finish(folder.name)
    assert trials.failures(folder)[1]["kind"] == "estimation.diverged"
    assert trial.results_of(store, folder.name).shape == (3, 2, 2, len(ENDPOINTS))


def test_the_sites_own_limits_are_part_of_the_design(tmp_path: Path) -> None:
    file = tmp_path / "limits.csv"
    file.write_text(
        "organ,quantity,value_gy,alpha_beta_gy,repair_half_time_h,risk,status,source,set_by\n"
        "kidneys,AD,23,,,0.05,assumed,test,site\n"
    )
    design = trial.with_policy(DESIGN, load_settings(home=tmp_path / "h", limits=file))
    assert [(x.organ, x.value_gy) for x in design.limits] == [("kidneys", 23.0)]
    assert trial.limit_facts(design.limits) == [("limit of kidneys", "23 Gy absorbed dose, accepted risk 5%; test")]
    assert trial.with_policy(DESIGN, load_settings(home=tmp_path / "h")) == DESIGN


def rows(names: Sequence[str]) -> list[dict[str, Any]]:
    estimate = {"mean": 1.0, "standard_error": 0.1, "patients": 3}
    return [
        {
            "endpoint": e.name,
            "unit": e.unit,
            "cycle": 2,
            "arms": dict.fromkeys(names, estimate),
            "differences": {names[1]: estimate},
        }
        for e in ENDPOINTS
    ]


def test_the_page_asks_for_nothing_outside_itself_and_says_research_use_only() -> None:
    arms = ("fixed", "proposed")
    values = {e.name: np.array([[7400.0, 5000.0], [7400.0, 0.0], [7400.0, 9000.0]]) for e in ENDPOINTS}
    page = trial_page.render("a" * 64, to_plain(DESIGN), rows(arms), rows(arms), values, (3700.0, 11100.0), 1, [("<x>", "<y>")])
    assert "Research use only" in page
    assert "1 more failed" in page
    assert "<script" not in page
    assert not re.findall(r"(?:src|href)=[\"']?(?!data:|#)", page)
    assert set(re.findall(r"https?://[^\"' <]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert "&lt;x&gt;" in page
    assert "nothing given: 1" in page
