"""What stands of all deliveries: no order of arrival enters, into words neither."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

from store_builder import PATIENT, administration

from storage.pool import Item, Statement, cycles_of_pool, items_of, judged, set_aside
from tdt_core.codec import to_plain

CT = ["frame", "c" * 64]


def statement(name: str, remarks: list[str]) -> Statement:
    """A delivery of the same CT and therapy, with what its folder gave to remark."""
    content: dict[str, Any] = {
        "patient": to_plain(PATIENT),
        "issued": "2026-05-01T00:00:00Z",
        "midnight_h": 9.0,
        "administrations": [to_plain(administration(1))],
        "scans": [],
        "ct": [CT],
        "labels": [],
        "labs": [],
        "withdrawn_labs": [],
        "samples": [],
        "prior_therapies": [],
        "remarks": {CT[1]: remarks} if remarks else {},
    }
    return Statement(name, "2026-05-02T00:00:00Z", content)


def test_every_delivery_may_remark_on_an_item_and_their_order_says_nothing() -> None:
    told = (statement("a", []), statement("b", ["two CTs in one frame"]), statement("c", ["a slice is missing"]))
    orders = {repr(items_of(order, dict)) for order in itertools.permutations(told)}
    (ct,) = (i for i in items_of(told, dict) if i.kind == "ct")
    assert len(orders) == 1
    assert ct.plain["remarks"] == ["a slice is missing", "two CTs in one frame"]


def test_the_remarks_of_one_delivery_stay_as_they_were_made() -> None:
    (ct,) = (i for i in items_of([statement("a", ["z", "b"]), statement("a again", ["z", "b"])], dict) if i.kind == "ct")
    assert ct.plain["remarks"] == ["z", "b"]


def scan_of(
    name: str, modality: str, nuclide: str, time_h: float, frame: str = "f", duration_s: float = 1200.0
) -> dict[str, Any]:
    return {
        "name": name * 64,
        "modality": modality,
        "nuclide": nuclide,
        "time_h": time_h,
        "frame_of_reference": frame,
        "duration_s": duration_s,
    }


def told(scans: list[dict[str, Any]], **content: Any) -> tuple[tuple[Item, ...], list[Statement]]:
    """What is judged of one delivery of these scans."""
    one = statement("a", [])
    one = Statement(one.digest, one.known, {**one.content, "scans": [s["name"] for s in scans], **content})
    return judged(items_of([one], {s["name"]: s for s in scans}.__getitem__), [one], ()), [one]


IMAGING = to_plain(dataclasses.replace(administration(1), nuclide="Ga-68", ligand="PSMA-11", intent="imaging", time_h=-170.0))
GALLIUM = {
    "kind": "blood",
    "start_h": -169.0,
    "end_h": None,
    "value": 0.01,
    "below": False,
    "nuclide": "Ga-68",
    "relative_sd": 0.05,
    "counter": "well",
    "counter_sd": 0.03,
    "rate": False,
}
LAB = {
    "time_h": -200.0,
    "analyte": "creatinine",
    "value": 1.0,
    "unit": "mg/dL",
    "comparator": "",
    "status": "final",
    "record": "1",
}


def test_samples_from_before_therapy_wait_with_their_scan_until_it_has_regions() -> None:
    pet = [scan_of("1", "PET", "Ga-68", -169.0, "p")]
    given = [IMAGING, to_plain(administration(1))]
    with_regions = told(pet, administrations=given, samples=[GALLIUM], labs=[LAB], labels=[["p", "d" * 64]])
    assert [len(x["samples"]) for x in cycles_of_pool("p", *with_regions).values() if "samples" in x] == [1]
    assert set_aside(with_regions[0], cycles_of_pool("p", *with_regions)) == []
    without = told(pet, administrations=given, samples=[GALLIUM], labs=[LAB])
    bundles = cycles_of_pool("p", *without)
    assert sorted(bundles) == [1]
    assert "samples" not in bundles[1]
    assert [x["analyte"] for x in bundles[1]["labs"]] == ["creatinine"]
    assert set_aside(without[0], bundles) == [
        "1 scan and 1 sample from before the first therapy not used: no regions on a scan before it"
    ]


def test_two_nuclides_in_one_acquisition_are_two_scans_and_two_reconstructions_are_one() -> None:
    both, _ = told([scan_of("1", "SPECT", "Lu-177", 24.0), scan_of("2", "SPECT", "In-111", 24.0)])
    assert [i.status for i in both if i.kind == "scan"] == ["standing", "standing"]
    again, _ = told([scan_of("1", "SPECT", "Lu-177", 24.0), scan_of("2", "SPECT", "Lu-177", 24.0)])
    assert sorted(i.status for i in again if i.kind == "scan") == ["replaced", "standing"]


def test_two_nuclides_counted_in_one_tube_are_two_samples() -> None:
    lutetium = GALLIUM | {"nuclide": "Lu-177", "start_h": 2.0}
    gallium = lutetium | {"nuclide": "Ga-68"}
    items, _ = told([], samples=[lutetium, gallium, lutetium | {"value": 0.02}])
    assert sorted((i.plain["nuclide"], i.status) for i in items if i.kind == "sample") == [
        ("Ga-68", "standing"),
        ("Lu-177", "replaced"),
        ("Lu-177", "standing"),
    ]


def test_a_scan_counts_from_its_start_which_a_pet_names_and_a_spect_lies_half_an_acquisition_after() -> None:
    items, _ = told([scan_of("1", "PET", "Ga-68", 0.1), scan_of("2", "SPECT", "Lu-177", 24.0)])
    starts = {i.plain["modality"]: i.time_h for i in items if i.kind == "scan"}
    assert starts == {"PET": 0.1, "SPECT": 24.0 - 1 / 6}
