"""Arrays beyond a limit lie in a file without a name: the process's own memory does not grow, results do not change."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from storage.scratch import arrays_within
from tdt_core.dosimetry import credible_dose
from tdt_core.errors import StoreError
from tdt_core.lazy import LazyMapping

SHAPE = (12, 12, 12)
MEGABYTES = 60


def own_memory_mb() -> float:
    """Memory of this process that is no file's, MB."""
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon")]
    return float(line.split()[1]) / 1e3


@pytest.mark.parametrize(("limit_mb", "grows"), [(MEGABYTES - 1, False), (MEGABYTES, True)])
def test_beyond_the_limit_memory_does_not_grow_and_nothing_is_left(tmp_path: Path, limit_mb: int, grows: bool) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc")
    before = own_memory_mb()
    array = arrays_within(limit_mb * 1e6, tmp_path)((MEGABYTES, 250_000))
    array[:] = np.arange(250_000, dtype=np.float32)
    assert (own_memory_mb() - before > MEGABYTES / 2) == grows
    assert float(array[-1, 77]) == 77.0
    assert list(tmp_path.iterdir()) == []


def test_credible_maps_from_a_file_and_from_things_made_when_asked_for_are_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, SHAPE)
    names = ("kidney_left", "rest")
    masks = {name: labels == n for n, name in enumerate(names, start=1)}
    weights = {name: (m / m.sum()).astype(np.float32) for name, m in masks.items()}
    tia = rng.uniform(500, 1000, (20, 2))
    plain = credible_dose(weights, tia, masks, spacing_mm=(4.0,) * 3, nuclide="Lu-177")
    lazy = credible_dose(
        LazyMapping(names, weights.__getitem__),
        tia,
        LazyMapping(names, masks.__getitem__),
        spacing_mm=(4.0,) * 3,
        nuclide="Lu-177",
        empty=arrays_within(0.0, tmp_path),
    )
    for name in ("mean_gy", "sd_gy", "region_dose_gy", "dose_matrix_gy_per_mbq_h"):
        assert np.array_equal(getattr(plain, name), getattr(lazy, name)), name
    assert np.array_equal(plain.bands.dose_gy, lazy.bands.dose_gy)
    assert (plain.dvh, plain.conservation) == (lazy.dvh, lazy.conservation)


def test_a_disk_without_room_is_told_before_anything_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreError) as found:
        arrays_within(0.0, tmp_path)((4, 4))
    assert found.value.kind == "store.full"
    assert list(tmp_path.iterdir()) == []
