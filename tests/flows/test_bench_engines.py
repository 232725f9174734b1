"""`tdt bench engines` end to end on a small anatomy from files: every target told, Monte Carlo as the reference."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from flows.bench.engines import ENGINES, describe, prepare, run
from tdt_core.errors import InputError, UsageError


@pytest.fixture(scope="module")
def anatomy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A block of soft tissue with a lung and a kidney in it, 12 mm voxels, RAS on disk."""
    folder = tmp_path_factory.mktemp("anatomy")
    hu = np.full((20, 18, 16), -1000, np.int16)
    hu[3:17, 3:15, 2:14] = 40
    hu[4:9, 5:13, 3:13] = -700
    labels = np.zeros(hu.shape, np.int16)
    labels[11:15, 6:11, 5:10] = 1
    affine = np.diag([12.0, 12.0, 12.0, 1.0])
    nib.save(nib.Nifti1Image(hu, affine), folder / "ct.nii.gz")
    nib.save(nib.Nifti1Image(labels, affine), folder / "labels.nii.gz")
    (folder / "labels.json").write_text(json.dumps({"1": "kidney_left", "sex": "female", "source": "a test"}))
    return folder


def table(folder: Path, row: str) -> Path:
    path = folder / "activity.csv"
    path.write_text(f"# a remark\nregion,value,unit,status,source\n{row}\n")
    return path


@pytest.mark.long
def test_every_engine_is_compared_and_pictures_are_made(anatomy: Path, tmp_path: Path) -> None:
    activity = table(tmp_path, "kidney_left,30,MBq,assumed,test")
    figures = run(anatomy=str(anatomy), activity=str(activity), decays=40_000, pictures=str(tmp_path / "pictures"))
    kidney = figures["targets"]["kidney_left"]
    assert set(figures["targets"]) >= {"kidney_left", "rest: lung", "rest: soft_tissue"}
    for engine in ENGINES:
        assert kidney["mean_over_mc"][engine] == pytest.approx(1.0, abs=0.06)
    assert kidney["mean_over_mc"]["local"] < kidney["mean_over_mc"]["kernel"]
    # photons from the kidney into thin lung: the water kernel on an energy basis is far too high there
    assert figures["targets"]["rest: lung"]["mean_over_mc"]["kernel"] > 1.5
    assert figures["targets"]["rest: lung"]["mean_over_mc"]["local"] == 0
    told = describe(figures)
    assert all(name in told for name in figures["targets"])
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [p.name for p in pictures] == ["dose-Lu-177.png", "dvh-Lu-177.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in pictures)


def test_the_activity_is_what_the_table_or_a_unit_concentration_says(anatomy: Path, tmp_path: Path) -> None:
    per_mbq = 159.5 / np.log(2.0)
    case = prepare(anatomy, table(tmp_path, "kidney_left,30,MBq,assumed,test"), "Lu-177")
    assert case.tia_mbq_h.sum() == pytest.approx(30 * per_mbq, rel=1e-3)
    assert prepare(anatomy, None, "Lu-177").tia_mbq_h.sum() == pytest.approx(4 * 5 * 5 * 1.728 * per_mbq, rel=1e-3)


@pytest.mark.parametrize("row", ["liver,30,MBq,assumed,test", "kidney_left,30,GBq,assumed,test", "kidney_left,-1,MBq,a,t", "x"])
def test_a_table_that_does_not_fit_is_refused(anatomy: Path, tmp_path: Path, row: str) -> None:
    with pytest.raises(InputError, match="row"):
        prepare(anatomy, table(tmp_path, row), "Lu-177")


def test_an_anatomy_must_be_named() -> None:
    with pytest.raises(UsageError, match="--anatomy"):
        run()
