"""A state's id: what it covers, and what it does not."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from storage.identity import science_digest, science_parts, state_id, state_identity
from tdt_core.errors import StoreError
from tdt_core.twin import Administration, Decision

ONE = Administration(0.0, "product", "ligand", "Lu-177", 7400.0)
TWO = replace(ONE, time_h=1008.0)
TWIN = replace(ONE, nuclide="Ac-225", activity_mbq=8.0)
BASE: dict[str, Any] = {
    "pid": "p-1",
    "parent": "a" * 64,
    "evidence_digests": ["b" * 64, "c" * 64, "d" * 64],
    "administrations": [ONE, TWIN, TWO],
    "decision": Decision("a" * 64, "signed", 7400.0, "x", "physician", "as proposed"),
    "prior": {"kidneys.uptake": 0.02},
    "model": "sum_of_exponentials",
    "settings": {"draws": 500},
    "root_seed": 7,
    "cycle": 2,
    "science": "e" * 64,
}


def name(**change: Any) -> str:
    return state_id(state_identity(**(BASE | change)))


def test_the_order_and_repetition_of_evidence_and_administrations_play_no_part() -> None:
    for digests in itertools.permutations(BASE["evidence_digests"]):
        assert name(evidence_digests=[*digests, digests[0]]) == name()
    for given in itertools.permutations(BASE["administrations"]):
        assert name(administrations=[*given, given[1]]) == name()


def test_administrations_stand_in_order_of_time() -> None:
    found = state_identity(**(BASE | {"administrations": [TWO, ONE]}))["administrations"]
    assert [a["time_h"] for a in found] == [0.0, 1008.0]


@pytest.mark.parametrize(
    "change",
    [
        {"pid": "p-2"},
        {"parent": None},
        {"evidence_digests": ["b" * 64]},
        {"administrations": [ONE, TWIN]},
        {"administrations": [ONE, TWIN, replace(TWO, residual_mbq=1.0)]},
        {"decision": None},
        {"decision": replace(BASE["decision"], activity_mbq=7000.0)},
        {"prior": {"kidneys.uptake": 0.021}},
        {"model": "mechanistic"},
        {"settings": {"draws": 501}},
        {"root_seed": 8},
        {"cycle": 3},
        {"science": "f" * 64},
    ],
)
def test_everything_that_decides_the_numbers_changes_the_id(change: dict[str, Any]) -> None:
    assert name(**change) != name()


def test_the_identity_holds_exactly_the_agreed_fields() -> None:
    assert set(state_identity(**BASE)) == {
        "schema_version", "pid", "cycle", "parent", "evidence", "administrations", "decision", "prior", "model", "settings",
        "root_seed", "science",
    }  # fmt: skip


def test_the_id_of_a_fixed_identity_never_changes() -> None:
    assert name() == "c8aa93936b7d1b999a62bdeda0d15be4834caabdf1a4225772f14cdfeca42146"


def test_a_state_without_evidence_has_no_identity() -> None:
    with pytest.raises(StoreError):
        name(evidence_digests=[])


def test_the_science_digest_covers_sources_data_and_numeric_libraries_and_no_caches() -> None:
    parts = science_parts()
    assert {"tdt_core/codec.py", "tdt_core/twin.py", "numpy version", "SimpleITK version"} <= parts.keys()
    assert any(p.startswith("tdt_core/data/") and p.endswith(".csv") for p in parts)
    assert not [p for p in parts if "__pycache__" in p or p.endswith(".pyc")]
    assert len(science_digest()) == 64
    assert science_digest() == science_digest()
    assert state_identity(**(BASE | {"science": None}))["science"] == science_digest()
