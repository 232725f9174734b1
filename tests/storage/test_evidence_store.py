"""Evidence: named by content, whole or absent, exact on the way back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from storage.evidence import EvidenceStore, digest_json, digest_labels, digest_scan, npy_header
from storage.home import open_home
from tdt_core.errors import StoreError
from tdt_core.imaging.volume import LabelVolume, Scan, Volume
from tdt_core.twin import CalibrationRecord, Region

CALIBRATION = CalibrationRecord("camera", "208 keV", "MEGP", "osem", "Lu-177", 9.5, 0.03, 14.0, 0.05, "2026-01-05", "phantom")


def scan(seed: int = 1) -> Scan:
    array = np.random.default_rng(seed).gamma(2, 1, (3, 4, 5)).astype(np.float32)
    affine = np.diag([-4.8, 4.8, 4.8, 1.0])
    return Scan("", "SPECT", Volume(array, affine, "MBq/mL", "2.25.7"), 24.5, 1200.0, "Lu-177", CALIBRATION, 11400.0, "counts")


@pytest.fixture
def store(tmp_path: Path) -> EvidenceStore:
    return EvidenceStore(open_home(tmp_path / "home"))


def test_a_scan_comes_back_exactly_and_carries_its_digest(store: EvidenceStore) -> None:
    digest = store.put_scan(scan())
    found = store.get_scan(digest)
    assert found.id == digest == digest_scan(found)
    assert found.volume.array.dtype == np.float32
    assert found.volume.array.tobytes() == scan().volume.array.tobytes()
    assert np.array_equal(found.volume.affine, scan().volume.affine)
    for name in ("modality", "time_h", "duration_s", "nuclide", "calibration", "counts_per_mbq", "value_branch"):
        assert getattr(found, name) == getattr(scan(), name)
    assert not found.volume.array.flags.writeable
    assert store.kind(digest) == "scan"


def test_labels_come_back_exactly(store: EvidenceStore) -> None:
    labels = np.random.default_rng(2).integers(0, 3, (3, 4, 5)).astype(np.int16)
    regions = (Region("kidney_left", "kidneys", "64033007", "left", volume_ml=1.5), Region("lesion/L1", "lesions", "x"))
    volume = LabelVolume(labels, np.eye(4), "2.25.7", regions)
    digest = store.put_labels(volume)
    found = store.get_labels(digest)
    assert digest == digest_labels(volume) == digest_labels(found)
    assert np.array_equal(found.labels, labels)
    assert found.regions == regions


def test_putting_the_same_content_twice_writes_once(store: EvidenceStore) -> None:
    digest = store.put_scan(scan())
    before = {p: p.stat().st_mtime_ns for p in store.home.evidence.rglob("*")}
    assert store.put_scan(scan()) == digest
    assert {p: p.stat().st_mtime_ns for p in store.home.evidence.rglob("*")} == before
    assert store.digests() == [digest]


def test_the_digest_does_not_depend_on_memory_layout_byte_order_or_the_scans_own_id() -> None:
    one = scan()
    for array in (np.asfortranarray(one.volume.array), one.volume.array.astype(">f4"), one.volume.array[::1]):
        assert digest_scan(replace(one, id="x", volume=one.volume.replace(array))) == digest_scan(one)


@pytest.mark.parametrize(
    "change",
    [
        {"time_h": 24.75},
        {"modality": "PET"},
        {"duration_s": 1201.0},
        {"nuclide": "Y-90"},
        {"calibration": None},
        {"counts_per_mbq": 1.0},
        {"value_branch": "rescale"},
    ],
)
def test_every_field_of_a_scan_is_part_of_its_digest(change: dict) -> None:
    assert digest_scan(replace(scan(), **change)) != digest_scan(scan())


def test_values_type_shape_geometry_and_unit_are_part_of_the_digest() -> None:
    one = scan()
    v = one.volume
    nudged = v.array.copy()
    nudged[0, 0, 0] = np.nextafter(nudged[0, 0, 0], np.float32(9))
    for volume in (
        v.replace(nudged),
        v.replace(v.array.astype(np.float64)),
        v.replace(v.array.reshape(4, 3, 5)),
        v.replace(v.array, "1"),
        replace(v, affine=v.affine * 2),
        replace(v, frame_of_reference="2.25.8"),
    ):
        assert digest_scan(replace(one, volume=volume)) != digest_scan(one)


@given(
    hnp.arrays(
        st.sampled_from([np.int16, np.uint8, np.float32, np.float64]),
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=4),
    )
)
def test_the_npy_file_is_what_numpy_reads(array: np.ndarray) -> None:
    import io

    data = io.BytesIO(npy_header(array.dtype.newbyteorder("<").str, array.shape) + array.tobytes())
    assert np.load(data, allow_pickle=False).tobytes() == array.tobytes()
    assert (len(npy_header(array.dtype.str, array.shape))) % 64 == 0


def test_json_items_are_named_by_kind_and_content(store: EvidenceStore) -> None:
    digest = store.put_json("labs", [{"analyte": "psa", "value": 1.5}])
    assert store.get_json(digest) == [{"analyte": "psa", "value": 1.5}]
    assert digest == digest_json("labs", [{"value": 1.5, "analyte": "psa"}])
    assert digest != digest_json("other", [{"analyte": "psa", "value": 1.5}])
    with pytest.raises(StoreError) as e:
        store.get_json(digest, "administrations")
    assert e.value.kind == "store.type"


def test_nan_in_json_and_texts_in_arrays_are_refused_and_leave_nothing(store: EvidenceStore) -> None:
    with pytest.raises(StoreError):
        store.put_json("labs", {"value": float("nan")})
    with pytest.raises(StoreError):
        store.put_scan(replace(scan(), volume=scan().volume.replace(np.full((1, 1, 1), "x"))))
    assert store.digests() == []
    assert list(store.home.staging.iterdir()) == []


@pytest.mark.parametrize("where", [0, 30, 90, -1])
@pytest.mark.parametrize("name", ["meta.json", "array.npy"])
def test_a_flipped_byte_is_found_named_and_refused(store: EvidenceStore, name: str, where: int) -> None:
    digest = store.put_scan(scan())
    path = store.path(digest) / name
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(bytes(data))
    assert store.verify(digest) == [path]
    for use in (lambda: store.get_scan(digest), lambda: store.put_scan(scan())):
        with pytest.raises(StoreError, match=name) as e:
            use()
        assert e.value.kind == "store.damaged"


def test_missing_and_foreign_files_are_found(store: EvidenceStore) -> None:
    digest = store.put_scan(scan())
    (store.path(digest) / "stranger").touch()
    assert [p.name for p in store.verify(digest)] == ["stranger"]
    (store.path(digest) / "array.npy").unlink()
    assert [p.name for p in store.verify(digest)] == ["array.npy", "stranger"]


def test_unknown_and_malformed_digests_are_refused(store: EvidenceStore) -> None:
    for digest in ("a" * 64, "../x", "A" * 64):
        with pytest.raises(StoreError) as e:
            store.get_json(digest)
        assert e.value.kind == "store.unknown"
