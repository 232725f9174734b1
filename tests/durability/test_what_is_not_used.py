"""What of a folder is not used is said when it is taken in."""

from __future__ import annotations

import inbox_builder as b
from histories import PIECES, SCANS, new_site, write_piece

from flows import chain, progress
from storage.deliveries import pool_of
from storage.dicom.write_common import save


def test_regions_without_their_scan_are_said_to_be_left_out(tmp_path):
    site = new_site(tmp_path / "site", tmp_path / "vault")
    pid, *_ = chain.take_in(site, write_piece(tmp_path / "base", PIECES["base"]))
    before = [i.id for i in pool_of(site.store, pid).items if i.kind == "labels"]
    folder = write_piece(tmp_path / "regions-alone", PIECES["activity corrected"])
    slices = b.ct("t1", SCANS["t1"][0])
    for k, d in enumerate(slices):
        save(d, folder / f"ct-{k:02d}.dcm")
    save(b.segmentation("t1", slices, b.labels(("liver",))), folder / "seg.dcm")
    told = []
    with progress.listening(told.append):
        chain.take_in(site, folder)
    assert any(e.task.startswith("regions without their scan") for e in told)
    assert [i.id for i in pool_of(site.store, pid).items if i.kind == "labels"] == before
