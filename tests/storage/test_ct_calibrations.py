"""A scanner's own CT numbers: read from the folder or the site, kept with the CT, refused when they cannot be meant."""

from pathlib import Path

import inbox_builder as b
import numpy as np
import pytest

from storage.ct_calibrations import CSV_HEADER, read_ct_calibrations
from storage.dicom.ct_pt import UNCALIBRATED
from storage.evidence import EvidenceStore
from storage.home import open_home
from storage.intake import RefusedInbox, check, read_inbox
from storage.vault import Vault
from tdt_core.errors import InputError, TwinError
from tdt_core.imaging.ct_calibration import packaged_calibration

POINTS = [
    ("CT-1", "-1000", "0.001", "air", "phantom 2026"),
    ("CT-1", "-900", "0.10", "lung", "phantom 2026"),
    ("CT-1", "0", "0.99", "water", "phantom 2026"),
    ("CT-1", "1500", "1.95", "cortical_bone", "phantom 2026"),
]


def table(path: Path, points=POINTS, header=CSV_HEADER) -> Path:
    path.write_text("\n".join([",".join(header), *(",".join(p) for p in points)]) + "\n")
    return path


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return b.write_inbox(tmp_path_factory.mktemp("valid"))


def cts(folder: Path, tmp_path: Path, **more):
    intake = read_inbox(folder, Vault.open(tmp_path / "vault"), **more)
    return intake.cycles[1]


def test_points_and_media_are_read_by_device(tmp_path):
    found = read_ct_calibrations(table(tmp_path / "t.csv"))["CT-1"]
    assert found.density(np.array([-1000.0, 0.0, 750.0])) == pytest.approx([0.001, 0.99, 1.47])
    assert found.media == ((-1000.0, "air"), (-900.0, "lung"), (0.0, "water"), (1500.0, "cortical_bone"))
    assert found.source == "phantom 2026"


def test_a_scanner_without_media_keeps_the_packaged_ones(tmp_path):
    bare = [(d, hu, rho, "", source) for d, hu, rho, _, source in POINTS]
    assert read_ct_calibrations(table(tmp_path / "t.csv", bare))["CT-1"].media == packaged_calibration().media


def test_the_table_of_the_folder_goes_with_the_ct_into_the_evidence(valid, tmp_path):
    folder = b.copy_of(valid, tmp_path / "inbox")
    table(folder / "ct_calibration.csv")
    evidence = EvidenceStore(open_home(tmp_path / "home"))
    cycle = cts(folder, tmp_path, evidence=evidence)
    for ct in cycle.cts.values():
        assert ct.ct_calibration is not None
        assert evidence.get_scan(ct.id).ct_calibration == ct.ct_calibration
    assert UNCALIBRATED not in cycle.findings


def test_a_ct_without_a_table_keeps_its_name_and_another_table_gives_another(valid, tmp_path):
    plain = cts(valid, tmp_path)
    assert {ct.ct_calibration for ct in plain.cts.values()} == {None}
    names = [{ct.id for ct in plain.cts.values()}]
    for rho in ("0.99", "1.01"):
        points = [("CT-1", hu, rho if hu == "0" else density, m, s) for _, hu, density, m, s in POINTS]
        site = table(tmp_path / f"{rho}.csv", points)
        names.append({ct.id for ct in cts(valid, tmp_path, ct_calibration_file=site).cts.values()})
    assert not names[0] & names[1]
    assert not names[1] & names[2]


def test_the_sites_table_replaces_that_of_the_folder_and_an_empty_device_is_any_scanner(valid, tmp_path):
    folder = b.copy_of(valid, tmp_path / "inbox")
    table(folder / "ct_calibration.csv")
    site = table(tmp_path / "site.csv", [("", *p[1:4], "site") for p in POINTS])
    found = {ct.ct_calibration.source for ct in cts(folder, tmp_path, ct_calibration_file=site).cts.values()}
    assert found == {"site"}


def test_a_scanner_that_is_not_in_the_table_is_told(valid, tmp_path):
    site = table(tmp_path / "site.csv", [("CT-2", *p[1:]) for p in POINTS])
    cycle = cts(valid, tmp_path, ct_calibration_file=site)
    assert UNCALIBRATED in cycle.findings
    assert {ct.ct_calibration for ct in cycle.cts.values()} == {None}


def changed(row: int, column: int, value: str) -> list[tuple[str, ...]]:
    return [tuple(value if (i, k) == (row, column) else v for k, v in enumerate(p)) for i, p in enumerate(POINTS)]


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (changed(1, 1, "many"), "hu of point 2"),
        (changed(1, 1, "nan"), "hu of point 2"),
        (changed(2, 2, "-1"), "density_g_cm3 of point 3"),
        (changed(2, 2, "990"), "density_g_cm3 of point 3"),
        (changed(3, 3, "adamantium"), "point 4"),
        (changed(0, 0, "<CT>"), "device of point 1"),
        (changed(0, 4, ""), "point 1"),
        (changed(2, 1, "-1500"), "hu of point 3"),
        (changed(2, 1, "-950"), "scanner 1"),
        (changed(3, 2, "0.3"), "scanner 1"),
        ([POINTS[2], POINTS[3]], "scanner 1"),
        ([], "without a point"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(tmp_path, points, said):
    with pytest.raises(TwinError, match=said) as caught:
        read_ct_calibrations(table(tmp_path / "t.csv", points))
    assert caught.value.kind == "calibration.ct"
    assert "adamantium" not in str(caught.value)


def test_a_wrong_header_is_refused(tmp_path):
    with pytest.raises(InputError) as caught:
        read_ct_calibrations(table(tmp_path / "t.csv", header=("scanner", *CSV_HEADER[1:])))
    assert caught.value.kind == "file.csv"


def test_a_wrong_table_refuses_the_folder_and_changes_nothing(valid, tmp_path):
    folder = b.copy_of(valid, tmp_path / "inbox")
    table(folder / "ct_calibration.csv", changed(2, 2, "oops"))
    with pytest.raises(RefusedInbox) as caught:
        read_inbox(folder, Vault.open(tmp_path / "vault"))
    assert caught.value.kind == "calibration.ct"
    assert any(i.kind == "calibration.ct" for i in check(folder).items)
