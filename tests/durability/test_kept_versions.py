"""Homes written by earlier versions stay readable for ever, and the order in which evidence comes plays no part.

`fixtures/home_v1.zip` was written by the first version of the store: two cycles, a decision on each, the second one replaced, a
scan, a label volume and a finished trial. It is never written again; a new layout or schema gets a fixture of its own.
"""

from __future__ import annotations

import itertools
import zipfile
from pathlib import Path

import pytest
from store_builder import PID, item, make_state, open_store

from storage.trials import TrialStore
from storage.twins import TwinStore, now

FIXTURES = Path(__file__).parent / "fixtures"
IDS = (
    "aab3c80df7d3151a05ba6de93e7d0cdf3fcb383257e3b633561bbdd9d781b34f",
    "8ca08359d755addea4244a812e26dd85c913050f5b89b41fe568ae1a9fb8774b",
)


@pytest.fixture
def v1(tmp_path: Path) -> TwinStore:
    with zipfile.ZipFile(FIXTURES / "home_v1.zip") as z:
        z.extractall(tmp_path / "home")
    return open_store(tmp_path / "home")


def test_a_home_of_version_1_is_whole_and_its_chain_is_the_same(v1: TwinStore) -> None:
    assert v1.verify() == ()
    assert [i.id for i in v1.log(PID)] == list(reversed(IDS))
    assert v1.recover() == ()


def test_states_of_version_1_load_with_their_numbers(v1: TwinStore) -> None:
    state = v1.load(IDS[1])
    assert float(state.posterior.mean[0]) == -0.5205806956926005
    assert state.ledger.dose_gy.shape == (2, 3, 6)
    with v1.open_dose(IDS[1]) as dose:
        assert float(dose["dose_mean_gy"].values[1, 1, 1]) == pytest.approx(0.9534015655517578, rel=0)
    decision = v1.decision(IDS[1])
    assert decision is not None
    assert (decision.kind, decision.activity_mbq) == ("changed", 6500.0)
    assert len(v1.decisions(PID)) == 3


def test_evidence_and_trials_of_version_1_load(v1: TwinStore) -> None:
    kinds = sorted(v1.evidence.kind(d) for d in v1.evidence.digests())
    assert kinds == ["labels", "labs", "labs", "labs", "labs", "scan"]
    (scan,) = [d for d in v1.evidence.digests() if v1.evidence.kind(d) == "scan"]
    assert v1.evidence.get_scan(scan).volume.array.sum() == 276.0
    trials = TrialStore(v1.home)
    (trial,) = trials.list()
    assert float(trials.open(trial)["dose_gy"].sel(arm="proposed")[1]) == 3.0


def test_a_home_of_version_1_takes_in_the_next_cycle(v1: TwinStore) -> None:
    before = list(v1.info(IDS[1]).evidence)
    state, dose = make_state(cycle=3, parent=IDS[1], evidence=[item(v1, "scan", 3)], before=before)
    v1.commit(state, dose, expected_head=IDS[1], provenance={}, knowledge_time=now())
    assert v1.head(PID) == state.id
    assert v1.verify() == ()


def test_the_order_and_repetition_of_evidence_give_the_same_state_and_the_same_store(tmp_path: Path) -> None:
    names = ("scan", "labs", "administration")
    ids = set()
    for n, order in enumerate(itertools.permutations(names)):
        store = open_store(tmp_path / str(n))
        digests = [item(store, name, 1) for name in (*order, order[0])]
        state, dose = make_state(cycle=1, parent=None, evidence=digests[:3])
        again, _ = make_state(cycle=1, parent=None, evidence=digests[:3], before=digests)
        store.commit(state, dose, expected_head=None, provenance={}, knowledge_time=now())
        ids |= {state.id, again.id}
        assert len(store.evidence.digests()) == 3
        assert store.first_new_cycle(PID, {1: [*digests, *digests]}) is None
    assert len(ids) == 1
