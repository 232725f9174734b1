"""What stands of all deliveries: no order of arrival enters, into words neither."""

from __future__ import annotations

import itertools
from typing import Any

from store_builder import PATIENT, administration

from storage.pool import Statement, items_of
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
