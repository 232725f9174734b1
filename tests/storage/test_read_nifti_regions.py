"""NIfTI label maps with their sidecars: the same regions as a SEG gives, in any order of axes, and nobody's name."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import inbox_builder as b
import nibabel as nib
import numpy as np
import pydicom
import pytest

from storage.dicom.write_common import save
from storage.evidence import EvidenceStore, digest_labels
from storage.home import open_home
from storage.intake import RefusedInbox, check, read_inbox
from storage.masks import Grid
from storage.nifti_regions import on_grid
from storage.vault import Vault
from tdt_core.imaging.volume import LabelVolume

CANARY = "CANARYTEXT"
FLIPS = [(x, y, z) for x in (1, -1) for y in (1, -1) for z in (1, -1)]
NAMES = {
    "1": {"region": "kidney_left"},
    "2": {"code": "64033007", "laterality": "right"},
    "3": {"region": "Liver"},
    "4": {"region": "lesion", "tracking_id": "L1"},
}


def image_of(array: np.ndarray, affine: np.ndarray, flips=(1, 1, 1), order=(0, 1, 2)) -> nib.Nifti1Image:
    """A NIfTI of an array (z, y, x) with an LPS affine; `flips` and `order` of its stored axes (x, y, z)."""
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine[:, [2, 1, 0, 3]]
    stored, turn = array.transpose(2, 1, 0), np.eye(4)
    for axis, sign in enumerate(flips):
        if sign < 0:
            stored = np.flip(stored, axis)
            turn[axis, axis], turn[axis, 3] = -1, stored.shape[axis] - 1
    image = nib.Nifti1Image(np.ascontiguousarray(stored.transpose(order)), (ras @ turn)[:, [*order, 3]])
    return image


def frame_of(folder: Path) -> str:
    return str(pydicom.dcmread(folder / "t1ct-00.dcm").FrameOfReferenceUID)


def sidecar(folder: Path, **changes: object) -> dict[str, object]:
    return {
        "schema": 1, "patient_id": b.PERSON.id, "frame_of_reference": frame_of(folder), "labels": dict(NAMES),
    } | changes  # fmt: skip


def put(folder: Path, *, image: nib.Nifti1Image | None = None, name: str = "map.nii.gz", **changes: object) -> None:
    nib.save(image_of(b.labels().labels, b.AFFINE) if image is None else image, folder / name)
    (folder / f"{name.split('.')[0]}.json").write_text(json.dumps(sidecar(folder, **changes)))


@pytest.fixture(scope="session")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return b.write_inbox(tmp_path_factory.mktemp("valid") / "inbox")


@pytest.fixture
def folder(valid, tmp_path) -> Path:
    """The valid patient without its SEG."""
    copy = b.copy_of(valid, tmp_path / "inbox")
    (copy / "t1seg.dcm").unlink()
    return copy


def labels_of(folder: Path, vault: Vault) -> LabelVolume:
    labels = read_inbox(folder, vault).cycles[1].labels
    assert labels is not None
    return labels


def test_a_label_map_gives_the_same_cycles_and_digests_as_a_seg(valid, folder):
    put(folder)
    vault = Vault.in_memory()
    drawn, mapped = read_inbox(valid, vault), read_inbox(folder, vault)
    np.testing.assert_array_equal(drawn.cycles[1].labels.labels, mapped.cycles[1].labels.labels)
    assert drawn.cycles[1].labels.regions == mapped.cycles[1].labels.regions
    assert digest_labels(drawn.cycles[1].labels) == digest_labels(mapped.cycles[1].labels)
    assert [c.digests for c in drawn.cycles] == [c.digests for c in mapped.cycles]
    assert [r.code for r in mapped.cycles[1].labels.regions if r.organ == "kidneys"] == ["64033007"] * 2


def test_every_order_and_direction_of_the_axes_gives_the_same_voxels():
    """RAS, LPS and the others; regions on different sides in all three axes, so that a wrong turn shows."""
    grid = Grid(b.SHAPE, b.AFFINE, "frame", "series")
    for flips in FLIPS:
        for order in ((0, 1, 2), (2, 0, 1), (1, 0, 2)):
            image = image_of(b.labels().labels, b.AFFINE, flips, order)
            array = np.asarray(image.dataobj).transpose(2, 1, 0)
            affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine[:, [2, 1, 0, 3]]
            np.testing.assert_array_equal(on_grid(array, affine, grid), b.labels().labels)


@pytest.mark.parametrize("axes", [("L", "P", "S"), ("R", "A", "S"), ("S", "R", "P")])
def test_files_written_in_other_orientations_are_read_alike(axes, valid, folder):
    plain = image_of(b.labels().labels, b.AFFINE)
    turn = nib.orientations.ornt_transform(nib.io_orientation(plain.affine), nib.orientations.axcodes2ornt(axes))
    image = plain.as_reoriented(turn)
    assert nib.aff2axcodes(image.affine) == axes
    put(folder, image=image, name="map.nii")
    vault = Vault.in_memory()
    assert digest_labels(labels_of(folder, vault)) == digest_labels(labels_of(valid, vault))


def test_a_quaternion_alone_or_whole_numbers_as_floats_or_a_series_do_as_well(valid, folder):
    image = image_of(b.labels().labels.astype(np.float32), b.AFFINE)
    image.set_qform(image.affine, code=1)
    image.set_sform(None, code=0)
    ct = pydicom.dcmread(folder / "t1ct-00.dcm")
    put(folder, image=image)
    side = sidecar(folder) | {"series": str(ct.SeriesInstanceUID)}
    del side["frame_of_reference"]
    (folder / "map.json").write_text(json.dumps(side))
    vault = Vault.in_memory()
    assert digest_labels(labels_of(folder, vault)) == digest_labels(labels_of(valid, vault))


def test_names_of_files_do_not_matter_and_the_same_pair_twice_counts_once(valid, folder):
    put(folder, name="SMITH.nii.gz")
    again = folder / "deep" / "again"
    again.mkdir(parents=True)
    shutil.copyfile(folder / "SMITH.nii.gz", again / "b.nii.gz")
    shutil.copyfile(folder / "SMITH.json", again / "b.json")
    report = check(folder)
    assert report.ok, report.lines()
    assert "a file came twice with the same bytes; one was dropped" in report.findings
    assert [i.kind for i in report.items if i.kind] == []  # the sidecar is no unknown file
    assert "SMITH" not in "\n".join(report.lines())
    vault = Vault.in_memory()
    assert digest_labels(labels_of(folder, vault)) == digest_labels(labels_of(valid, vault))


def test_a_seg_and_a_label_map_of_one_frame_count_together(folder, valid):
    """Organs in the SEG, the lesion in a label map; a region in both is refused, as in two SEGs."""
    source = [pydicom.dcmread(p) for p in sorted(folder.glob("t1ct-*.dcm"))]
    organs = b.labels(("kidney_left", "kidney_right", "liver"))
    save(b.segmentation("t1", source, organs), folder / "organs.dcm")
    lesion = np.where(b.labels().labels == 4, 4, 0).astype(np.uint8)
    put(folder, image=image_of(lesion, b.AFFINE), labels={"4": NAMES["4"]})
    vault = Vault.in_memory()
    assert digest_labels(labels_of(folder, vault)) == digest_labels(labels_of(valid, vault))
    put(folder)
    assert "mask.repeated" in [i.kind for i in check(folder).refused]


def changed(**changes: object) -> Callable[[Path], None]:
    return lambda folder: put(folder, **changes)


def relabelled(n: str, entry: object) -> Callable[[Path], None]:
    return changed(labels=NAMES | {n: entry})


def dropped(name: str) -> Callable[[Path], None]:
    def broken(folder: Path) -> None:
        put(folder)
        b.edit_json(folder / "map.json", lambda d: d.pop(name))

    return broken


def drawn(change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray = b.AFFINE) -> Callable[[Path], None]:
    return lambda folder: put(folder, image=image_of(change(b.labels().labels), affine))


def raw(change: Callable[[bytes], bytes], name: str = "map.nii") -> Callable[[Path], None]:
    def broken(folder: Path) -> None:
        put(folder, name=name)
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return broken


def unplaced(folder: Path) -> None:
    image = image_of(b.labels().labels, b.AFFINE)
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    put(folder, image=image)


def lonely(folder: Path) -> None:
    put(folder)
    (folder / "map.json").unlink()


def both_forms(folder: Path) -> None:
    put(folder)
    put(folder, name="map.nii")


def linked(folder: Path) -> None:
    put(folder)
    (folder / "map.nii.gz").rename(folder / ".hidden")
    (folder / "map.nii.gz").symlink_to(folder / ".hidden")


def flipped_bit(data: bytes) -> bytes:
    """Same content, wrong checksum."""
    return data[:-8] + bytes([data[-8] ^ 1]) + data[-7:]


def halves(labels: np.ndarray) -> np.ndarray:
    return labels.astype(np.float32) * 0.5


def with_nine(labels: np.ndarray) -> np.ndarray:
    out = labels.copy()
    out[0, 0, 0] = 9
    return out


def exchanged(labels: np.ndarray) -> np.ndarray:
    return np.array([0, 2, 1, 3, 4], np.int16)[labels]


MOVED, MIRRORED, COARSE = b.AFFINE.copy(), b.AFFINE.copy(), b.AFFINE.copy()
MOVED[0, 3] += 10.0  # half a voxel
MIRRORED[0] *= -1  # LPS written as if it were RAS
MIRRORED[0, 3] += 7.0  # of an image that is not centred: a centred one falls to the check of sides
COARSE[:3, :3] *= 1.01

BROKEN: list[tuple[str, Callable[[Path], None], str]] = [
    ("no sidecar", lonely, "nifti.sidecar_missing"),
    ("a sidecar that is a table", lambda f: put(f, name="calibration2.nii") or (f / "calibration2.nii").rename(
        f / "calibration.nii"), "nifti.sidecar_missing"),
    ("two files with one sidecar", both_forms, "file.twice"),
    ("a sidecar that is no JSON", lambda f: [put(f), (f / "map.json").write_text("{")], "file.json"),
    ("a sidecar of another schema", changed(schema=2), "nifti.sidecar"),
    ("a sidecar without a frame", dropped("frame_of_reference"), "nifti.sidecar"),
    ("a sidecar with frame and series", changed(series="1.2"), "nifti.sidecar"),
    ("a sidecar with another field", changed(comment=CANARY), "nifti.sidecar"),
    ("a sidecar without labels", changed(labels={}), "nifti.sidecar"),
    ("a sidecar that names the outside", relabelled("0", {"region": "body"}), "nifti.sidecar"),
    ("a label in words", relabelled(CANARY, {"region": "spleen"}), "nifti.sidecar"),
    ("a label with another field", relabelled("3", {"region": "liver", "note": CANARY}), "nifti.sidecar"),
    ("a label with a bare name", relabelled("3", "liver"), "nifti.sidecar"),
    ("somebody else's labels", changed(patient_id=f"{CANARY}-2"), "identity.swapped_patient"),
    ("nobody's labels", changed(patient_id=" "), "identity.missing"),
    ("a frame of no image", changed(frame_of_reference="1.2.3"), "nifti.reference"),
    ("an unknown name", relabelled("3", {"region": CANARY}), "region.unknown"),
    ("an unknown code", relabelled("3", {"code": "12738006"}), "region.unknown"),
    ("a code that is a text", relabelled("3", {"code": CANARY}), "region.unknown"),
    ("a kidney without a side", relabelled("2", {"code": "64033007"}), "region.laterality"),
    ("a side in words", relabelled("2", {"code": "64033007", "laterality": CANARY}), "region.laterality"),
    ("a liver with a side", relabelled("3", {"code": "10200004", "laterality": "left"}), "region.laterality"),
    ("name and code that disagree", relabelled("1", {"region": "kidney_left", "code": "64033007", "laterality": "right"}),
     "region.contradiction"),
    ("name and side that disagree", relabelled("1", {"region": "kidney_left", "laterality": "right"}), "region.contradiction"),
    ("a lesion without a tracking id", relabelled("4", {"region": "lesion"}), "region.tracking"),
    ("a lesion by a person's name", relabelled("4", {"region": "lesion", "tracking_id": CANARY}), "region.tracking"),
    ("a label that the sidecar lacks", drawn(with_nine), "nifti.label"),
    ("a label that the map lacks", relabelled("7", {"region": "spleen"}), "mask.empty"),
    ("a region twice", relabelled("2", {"region": "kidney_left"}), "mask.repeated"),
    ("kidneys exchanged", drawn(exchanged), "mask.laterality"),
    ("fractions", drawn(halves), "nifti.values"),
    ("negative labels", drawn(lambda a: -a), "nifti.values"),
    ("labels that are not finite", drawn(lambda a: np.where(a == 0, np.nan, a).astype(np.float32)), "nifti.values"),
    ("half a voxel off", drawn(lambda a: a, MOVED), "nifti.grid"),
    ("off by a mirror", drawn(lambda a: a, MIRRORED), "nifti.grid"),
    ("spacing off by 1 %", drawn(lambda a: a, COARSE), "nifti.grid"),
    ("a slice less", drawn(lambda a: a[:-1]), "nifti.grid"),
    ("four axes", lambda f: put(f, image=nib.Nifti1Image(np.zeros((3, 3, 3, 2), np.int16), np.eye(4))), "nifti.axes"),
    ("no place", unplaced, "nifti.orientation"),
    ("a truncated file", raw(lambda d: d[:-9]), "nifti.unreadable"),
    ("trailing bytes", raw(lambda d: d + b"x"), "nifti.unreadable"),
    ("a truncated gzip", raw(lambda d: d[:-9], "map.nii.gz"), "nifti.unreadable"),
    ("a damaged gzip", raw(flipped_bit, "map.nii.gz"), "nifti.unreadable"),
    ("no NIfTI at all", raw(lambda d: CANARY.encode() * 100), "nifti.unreadable"),
    ("a huge map", raw(lambda d: d[:42] + np.array([30000] * 3, "<i2").tobytes() + d[48:]), "file.dimensions"),
    ("a bomb", raw(lambda d: gzip.compress(gzip.decompress(d) + bytes(2**22)), "map.nii.gz"), "nifti.unreadable"),
    ("a link", linked, "file.link"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "broken", "kind"), BROKEN, ids=[name for name, _, _ in BROKEN])
def test_a_broken_label_map_is_refused_with_its_reason_and_nobody_is_named(name, broken, kind, folder, tmp_path):
    broken(folder)
    evidence = EvidenceStore(open_home(tmp_path / "home"))
    with pytest.raises(RefusedInbox) as refused:
        read_inbox(folder, Vault.open(tmp_path / "vault"), evidence=evidence, quarantine_folder=tmp_path / "quarantine")
    report = refused.value.report
    item = next((i for i in report.refused if i.kind == kind), None)
    assert item is not None, report.lines()
    assert item.found
    assert item.expected
    assert item.remedy
    assert list((tmp_path / "home" / "evidence").iterdir()) == []
    reasons = [p.read_text() for p in (tmp_path / "quarantine").glob("*/reason.json")]
    assert any(json.loads(r)["kind"] == kind for r in reasons)
    said = "\n".join([str(refused.value), *report.lines(), *reasons])
    assert not [c for c in (CANARY, "CANARY", "ID-47", frame_of(folder)) if c in said]


def test_every_reason_of_a_label_map_stands_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "data-in.md").read_text(encoding="utf-8")
    assert {kind for _, _, kind in BROKEN if f"`{kind}`" not in text} == set()
    storage = Path(__file__).parents[2] / "storage"
    source = "".join((storage / n).read_text() for n in ("nifti.py", "nifti_regions.py", "dicom/classify.py"))
    raised = {part.split('"')[0] for part in source.split('kind="nifti.')[1:]}
    assert raised == {kind.removeprefix("nifti.") for _, _, kind in BROKEN if kind.startswith("nifti.")}


def test_texts_of_the_header_and_its_extensions_go_nowhere(valid, folder, tmp_path):
    image = image_of(b.labels().labels, b.AFFINE)
    for name in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[name] = CANARY.encode()
    for code in ("comment", "afni"):
        image.header.extensions.append(nib.nifti1.Nifti1Extension(code, CANARY.encode() * 3))
    put(folder, image=image, name=f"{CANARY}.nii")
    assert (folder / f"{CANARY}.nii").read_bytes().count(CANARY.encode()) == 10
    home, vault = tmp_path / "home", Vault.in_memory()
    intake = read_inbox(folder, vault, evidence=EvidenceStore(open_home(home)))
    assert [c.digests for c in intake.cycles] == [c.digests for c in read_inbox(valid, vault).cycles]
    secrets = (CANARY, b.PERSON.id, frame_of(folder))
    said = repr(intake) + "\n".join(check(folder).lines()) + json.dumps(check(folder).as_dict())
    assert not [s for s in secrets if s in said]
    for path in (p for p in home.rglob("*") if p.is_file()):
        assert not [s for s in secrets if s.encode() in path.read_bytes() or s in str(path)], path
