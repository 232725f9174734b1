"""Kernels on disk: the same bytes back, by content, and nothing damaged or out of date is used."""

import numpy as np
import pytest

from storage import kernel_cache
from storage.kernel_cache import KernelCache, kernel_digest
from tdt_core.dosimetry import absorbed_dose, voxel_s_values

NAME = "kernel|Lu-177|equilibrium|0.4x0.4x0.4"


def test_what_is_put_in_comes_back_in_another_process_s_cache(tmp_path):
    array = np.random.default_rng(1).random((3, 4, 5))
    KernelCache(tmp_path / "kernels")[NAME] = array
    again = KernelCache(tmp_path / "kernels")
    assert NAME in again
    assert again[NAME].tobytes() == array.tobytes()
    assert "other" not in again


def test_a_damaged_file_is_made_again(tmp_path):
    KernelCache(tmp_path)[NAME] = np.arange(10.0)
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    fresh = KernelCache(tmp_path)
    assert NAME not in fresh
    with pytest.raises(KeyError):
        fresh[NAME]
    fresh[NAME] = np.arange(10.0)
    assert (KernelCache(tmp_path)[NAME] == np.arange(10.0)).all()


def test_other_code_or_data_makes_other_names(tmp_path, monkeypatch):
    KernelCache(tmp_path)[NAME] = np.arange(3.0)
    monkeypatch.setattr(kernel_cache, "kernel_digest", lambda: "0" * 64)
    assert NAME not in KernelCache(tmp_path)
    assert len(kernel_digest()) == 64


def test_deleting_removes_the_file_and_a_missing_name_is_a_key_error(tmp_path):
    cache = KernelCache(tmp_path)
    cache[NAME] = np.arange(3.0)
    assert list(cache) == [NAME]
    assert len(cache) == 1
    del cache[NAME]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError):
        del cache[NAME]


def test_voxel_s_values_and_dose_are_the_same_with_it_without_it_and_from_disk(tmp_path):
    tia = np.random.default_rng(2).random((9, 9, 9))
    spacing = (4.0, 3.0, 3.0)
    plain = voxel_s_values("Lu-177", spacing, 3), absorbed_dose(tia, spacing, "Lu-177", engine="kernel")
    for _ in range(2):  # made, then read
        cache = KernelCache(tmp_path)
        found = (
            voxel_s_values("Lu-177", spacing, 3, cache=cache),
            absorbed_dose(tia, spacing, "Lu-177", engine="kernel", cache=cache),
        )
        assert (found[0] == plain[0]).all()
        assert (found[1] == plain[1]).all()
    assert len(list(tmp_path.iterdir())) >= 2


def test_media_densities_and_progeny_do_not_share_an_entry(tmp_path):
    cache = KernelCache(tmp_path)
    spacing = (4.0, 4.0, 4.0)
    bone, water, dense, alone = (
        voxel_s_values("Ac-225", spacing, 1, cache=cache, **more)
        for more in ({"medium": "cortical_bone"}, {}, {"density_g_cm3": 1.92}, {"progeny": "none"})
    )
    assert len({float(v.sum()) for v in (bone, water, dense, alone)}) == 4
