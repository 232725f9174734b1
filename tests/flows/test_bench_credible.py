"""What the benchmark of credible maps counts: depth inside a region, coverage, error, and a whole state against its truth."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray

from flows.bench import credible
from tdt_core.errors import GeometryError

SHAPE, SPACING = (24, 24, 24), 4.0
FWHM = 9.0
AFFINE = np.diag([SPACING, SPACING, SPACING, 1.0])


def test_voxels_deep_inside_a_ball_are_those_of_a_smaller_ball():
    z, y, x = np.ogrid[:24, :24, :24]
    r = np.sqrt((z - 12.0) ** 2 + (y - 12.0) ** 2 + (x - 12.0) ** 2) * SPACING
    inside = credible.deep_inside(r <= 38.0, np.full(3, SPACING), 12.0)
    assert r[inside].max() <= 38.0 - 12.0 + SPACING / 2
    assert inside[r < 38.0 - 12.0 - SPACING].all()
    slab = np.ones((9, 1, 1), bool) & np.ones((9, 40, 40), bool)
    deep = credible.deep_inside(slab, np.full(3, 4.0), 16.0)
    assert deep[:, 20, 20].tolist() == [False] * 4 + [True] + [False] * 4  # 4.5 voxels of 4 mm to each face
    assert not credible.deep_inside(np.ones((3, 3, 3), bool), np.full(3, 4.0), 20.0).any()  # beyond the grid is outside


@pytest.mark.parametrize(("sd", "expected"), [(0.1, 0.90), (0.05, 0.59), (0.2, 0.999)])
def test_coverage_is_the_share_of_true_voxels_within_the_stated_interval(sd, expected):
    rng = np.random.default_rng(2)
    truth = np.full((40, 40, 40), 5.0)
    mid = truth * np.exp(0.1 * rng.standard_normal(truth.shape))
    bands = {"q05": mid * np.exp(-1.645 * sd), "q50": mid, "q95": mid * np.exp(1.645 * sd)}
    found = credible.voxels(np.ones(truth.shape, bool), 2 * truth, truth, bands)
    assert found["voxel_covered"] == pytest.approx(expected, abs=0.01)
    assert found["voxel_covered_unblurred"] < 0.02
    assert found["voxel_scatter"] == pytest.approx(0.1, rel=0.02)
    assert found["voxel_shift"] == pytest.approx(0.0, abs=0.002)


def state_with_truth(folder: Path, scale: float = 1.0, shift_mm: float = 0.0):
    """A state whose maps are the true dose times `scale`, 10 % wide."""
    dose = np.linspace(2.0, 6.0, 24)[:, None, None] * np.ones(SHAPE)
    label = np.zeros(SHAPE, np.int16)
    label[4:20, 4:20, 4:20] = 1
    (folder / "cycle-1").mkdir(parents=True)
    affine = AFFINE.copy()
    affine[0, 3] = shift_mm
    np.savez(folder / "cycle-1" / "dose_gy.npz", array=dose, affine=affine)
    known = {"calibration": {"resolution_fwhm_mm": FWHM}, "regions": {"kidney_left": {"volume_ml": 200.0, "dose_gy": 4.0}}}
    (folder / "truth.json").write_text(json.dumps({"cycles": [{"number": 1, "truth": known}]}))
    maps = xarray.Dataset(
        {
            "label": (("z", "y", "x"), label),
            **{f"dose_{q}_gy": (("z", "y", "x"), f * scale * dose) for q, f in (("q05", 0.9), ("q50", 1.0), ("q95", 1.1))},
        },
        attrs={"affine": AFFINE.ravel().tolist(), "regions": '["kidney_left"]'},
    )
    row = {"region": "kidney_left", "organ": "kidneys", "dose_gy": {"q05": 3.6 * scale, "q50": 4.0 * scale, "q95": 4.4 * scale}}
    state = SimpleNamespace(id="s", cycle=1, summary={"doses": [row]})
    return SimpleNamespace(store=SimpleNamespace(open_dose=lambda _: maps)), state


@pytest.mark.parametrize(("scale", "covered"), [(1.0, 1.0), (1.25, 0.0)])
def test_a_state_is_compared_with_its_true_dose(tmp_path, scale, covered):
    site, state = state_with_truth(tmp_path, scale)
    (row,) = credible.look(site, state, tmp_path / "cycle-1")
    assert row["error"] == pytest.approx(scale - 1.0)
    assert row["voxel_covered"] == row["voxel_covered_unblurred"] == covered == float(row["covered"])
    assert row["voxel_shift"] == pytest.approx(np.log(scale), abs=5e-3)
    result = {"completed": True, "looks": [[row]]}
    out = credible.figures([result, {"completed": False, "seed": 1, "error": "lost"}])
    assert out["completed_fraction"] == 0.5
    assert out["voxel_coverage90"] == out["voxel_coverage90.kidneys"] == out["coverage90.kidneys"] == covered
    assert out["voxels.kidneys"] == row["voxels"] > 100
    assert out["coverage90.liver"] is None
    assert "voxel_coverage90" in credible.describe(out)


def test_a_truth_on_another_grid_is_refused(tmp_path):
    site, state = state_with_truth(tmp_path, shift_mm=1.0)
    with pytest.raises(GeometryError, match="another grid"):
        credible.look(site, state, tmp_path / "cycle-1")
