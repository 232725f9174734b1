"""A home that was written before deliveries were kept: its chain stands for them, and nothing of it is lost."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
from store_builder import PATIENT, PID, START, administration

from storage.audit import AuditTrail
from storage.cycles import KIND as CYCLE
from storage.deliveries import KIND, pool_of, record_delivery, record_retraction
from storage.evidence import EvidenceStore
from storage.home import open_home
from tdt_core.codec import to_plain

PET = dataclasses.replace(administration(1), time_h=-48.0, nuclide="Ga-68", intent="imaging")


class OldHome:
    """A store whose chain rests on bundles that no delivery told of."""

    def __init__(self, root):
        home = open_home(root)
        self.audit, self.evidence, self.chain = AuditTrail(home), EvidenceStore(home), []

    def log(self, pid):
        return tuple(SimpleNamespace(id=digest, knowledge_time=START) for digest in reversed(self.chain))

    def load(self, digest):
        return SimpleNamespace(summary={"cycle_bundle": digest})

    def rest_on(self, *cycles):
        """Make a chain of cycles, as an older version or a new derivation would."""
        self.chain = [self.evidence.put_json(CYCLE, c) for c in cycles]


def cycle(number, given, labs=()):
    return {
        "pid": PID,
        "patient": to_plain(PATIENT),
        "number": number,
        "administrations": [to_plain(given)],
        "scans": [],
        "cts": {},
        "labels": None,
        "labels_for": "",
        "labs": list(labs),
        "digests": [],
        "findings": [],
    }


@pytest.fixture
def old(tmp_path):
    store = OldHome(tmp_path / "home")
    store.rest_on(cycle(0, PET), cycle(1, administration(1)), cycle(2, administration(2)))
    return store


def items(store, **options):
    return {i.id: i.status for i in pool_of(store, PID, **options).items}


def delivered(store):
    return [e for e in store.audit.events() if e["event"] == KIND]


def test_a_cycle_before_therapy_is_among_the_cycles_of_its_pool(old):
    cycles = pool_of(old, PID).cycles()
    assert [len(c["administrations"]) for c in cycles.values()] == [1, 1]
    assert [c["patient"] for c in cycles.values()] == [to_plain(PATIENT)] * 2


def test_what_a_retraction_takes_out_of_the_chain_stays_known_and_can_be_put_in_force_again(old):
    before = items(old)
    second = next(i.id for i in pool_of(old, PID).items if i.time_h == administration(2).time_h)
    record_retraction(old, PID, second, undone=False, reason="never given", by="a physicist", time=START)
    old.rest_on(cycle(0, PET), cycle(1, administration(1)))
    assert items(old) == {**before, second: "retracted"}
    record_retraction(old, PID, second, undone=True, reason="it was", by="a physicist", time=START)
    assert items(old) == before


def test_a_death_while_the_chain_is_kept_loses_no_cycle(old, monkeypatch):
    content = {**pool_of(old, PID).statements[-1].content, "issued": "2026-05-01T00:00:00Z"}
    before, append = items(old), AuditTrail.append

    def die_at_the_second(self, event, data, **options):
        if len(self.events()) == 1:
            raise SystemExit
        return append(self, event, data, **options)

    with monkeypatch.context() as m:
        m.setattr(AuditTrail, "append", die_at_the_second)
        with pytest.raises(SystemExit):
            record_delivery(old, content, time=START)
    assert (len(delivered(old)), items(old)) == (1, before)
    record_delivery(old, content, time=START)
    told = delivered(old)
    assert (len(told), len({e["delivery"] for e in told}), items(old).keys()) == (len(told), 4, before.keys())


def test_the_hour_of_midnight_is_told_by_the_deliveries_that_know_it(old):
    prior = {"time_h": 24.0, "region": "liver", "dose_gy": 6.0, "radiation": "photon", "source": "estimate"}
    late = dataclasses.replace(administration(1), time_h=40.0)
    content = {**pool_of(old, PID).statements[-1].content, "administrations": [to_plain(late)], "prior_therapies": [prior]}
    record_delivery(old, {**content, "midnight_h": 10.0, "issued": "2026-05-01T00:00:00Z"}, time=START)
    holding = [k for k, c in pool_of(old, PID).cycles().items() if c["prior_therapies"]]
    assert holding == [min(pool_of(old, PID).cycles())], "hour 40 is in the day after that of hour 24, counted from midnight"
