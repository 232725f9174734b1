"""The flow on real services: what Prefect, MLflow and the home keep of a patient names nobody."""

from __future__ import annotations

from pathlib import Path

import pytest
from loop_case import CANARY, write_patient

from flows.run import orchestrated, outcome_of, take_in
from flows.settings import Settings, load_settings, make_folders
from storage.twins import TwinStore


@pytest.mark.services
@pytest.mark.long
def test_no_canary_of_files_or_of_the_folder_name_reaches_prefect_mlflow_logs_or_pages(
    prefect_settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    inbox = write_patient(tmp_path / "patient", canaries=True)
    folder = inbox.rename(tmp_path / f"{CANARY} folder")
    settings = load_settings(home=tmp_path / "site" / "home", prefect_api=prefect_settings.prefect_api, n_draws=50, workers=1)
    with orchestrated(settings) as server:
        taken = take_in(settings, server, folder)
    told = outcome_of(TwinStore(make_folders(settings)), taken)
    assert [entry["cycle"] for entry in told["states"]] == [0, 1, 2]
    assert all(Path(entry["report"]).exists() for entry in told["states"])
    printed = capfd.readouterr()
    assert CANARY not in printed.out + printed.err
    searched = 0
    for root in (settings.home, prefect_settings.home):
        for path in root.rglob("*"):
            assert CANARY not in str(path.relative_to(root))
            if path.is_file():
                searched += 1
                assert CANARY.encode() not in path.read_bytes(), path
    assert any(p.name.endswith(".db") for p in prefect_settings.home.rglob("*"))
    assert searched > 50
