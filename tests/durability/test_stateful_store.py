"""Any history of cycles, late evidence, refits, repeats and decisions, against a plain dictionary."""

from __future__ import annotations

import shutil
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from store_builder import PID, START, item, make_state, open_store, signed

from tdt_core.errors import ConflictError, StoreError
from tdt_core.twin import Decision

MAX_CYCLES = 4


class Histories(RuleBasedStateMachine):
    """The model: chains as lists of ids, which evidence each cycle brought, and the decision on each state."""

    def __init__(self) -> None:
        super().__init__()
        shared = Path("/dev/shm")
        self.folder = tempfile.mkdtemp(dir=shared if shared.is_dir() else None)
        self.store = open_store(Path(self.folder) / "home")
        self.chain: list[str] = []
        self.evidence: dict[int, list[str]] = {}
        self.decisions: dict[str, Decision] = {}
        self.states: dict[str, tuple[Any, Any]] = {}
        self.known: list[tuple[Any, list[str]]] = []
        self.clock = START
        self.code = "s"
        self.names = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def tick(self) -> Any:
        self.clock += timedelta(hours=1)
        return self.clock

    def derive(self, first: int, last: int, reason: str = "") -> None:
        """Commit the cycles first..last on the evidence at hand, as a run does."""
        for cycle in range(first, last + 1):
            parents = self.chain[: cycle - 1]
            before = [d for c in range(1, cycle) for d in self.evidence[c]]
            state, dose = make_state(
                cycle=cycle,
                parent=parents[-1] if parents else None,
                evidence=self.evidence[cycle],
                before=before,
                decision=self.decisions.get(parents[-1]) if parents else None,
                science=self.code * 64,
            )
            when = self.tick()
            self.store.commit(
                state,
                dose,
                expected_head=self.store.head(PID),
                provenance={},
                knowledge_time=when,
                refit_reason=reason,
            )
            self.states[state.id] = (state, dose)
            self.chain = [*parents, state.id]
            self.known.append((when, self.chain))

    def bring(self, cycle: int) -> None:
        self.names += 1
        self.evidence.setdefault(cycle, []).append(item(self.store, f"item {self.names}", cycle))

    @precondition(lambda self: len(self.chain) < MAX_CYCLES)
    @rule()
    def take_in_the_next_cycle(self) -> None:
        cycle = len(self.chain) + 1
        self.bring(cycle)
        assert self.store.first_new_cycle(PID, self.evidence) == cycle
        self.derive(cycle, cycle)

    @precondition(lambda self: self.chain)
    @rule(data=st.data())
    def take_in_late_evidence(self, data: st.DataObject) -> None:
        cycle = data.draw(st.integers(1, len(self.chain)))
        self.bring(cycle)
        assert self.store.first_new_cycle(PID, self.evidence) == cycle
        self.derive(cycle, len(self.chain))

    @precondition(lambda self: self.chain and self.code < "z")
    @rule(data=st.data())
    def refit_under_new_code(self, data: st.DataObject) -> None:
        cycle = data.draw(st.integers(1, len(self.chain)))
        old, self.code = self.code, chr(ord(self.code) + 1)
        with pytest.raises(StoreError) as e:
            self.derive(cycle, cycle)
        assert e.value.kind == "store.assimilated"
        assert self.code != old
        self.derive(cycle, len(self.chain), reason="new code")

    @precondition(lambda self: self.chain)
    @rule(data=st.data())
    def commit_again_what_is_there(self, data: st.DataObject) -> None:
        state, dose = self.states[data.draw(st.sampled_from(self.chain))]
        head = self.store.head(PID)
        moves = len(self.store.heads(PID))
        self.store.commit(state, dose, expected_head=None, provenance={}, knowledge_time=self.clock)
        assert (self.store.head(PID), len(self.store.heads(PID))) == (head, moves)
        assert self.store.first_new_cycle(PID, self.evidence) is None

    @precondition(lambda self: self.chain)
    @rule()
    def decide_on_the_newest(self) -> None:
        decision = signed(self.chain[-1])
        self.store.decide(decision, time=self.tick())
        self.decisions[self.chain[-1]] = decision

    @precondition(lambda self: len(self.chain) > 1)
    @rule()
    def deciding_on_an_older_one_is_refused(self) -> None:
        if self.chain[-2] in self.decisions:
            return
        with pytest.raises(ConflictError):
            self.store.decide(signed(self.chain[-2]), time=self.tick())

    @precondition(lambda self: self.chain)
    @rule()
    def start_from_a_stale_head(self) -> None:
        state, dose = make_state(cycle=1, parent=None, evidence=[item(self.store, "stale", 1)])
        with pytest.raises(ConflictError):
            self.store.commit(state, dose, expected_head="0" * 64, provenance={}, knowledge_time=self.tick())

    @rule()
    def reopen(self) -> None:
        self.store = open_store(self.store.home.root)
        assert self.store.recover() == ()

    @invariant()
    def the_store_says_what_the_dictionary_says(self) -> None:
        assert self.store.head(PID) == (self.chain[-1] if self.chain else None)
        log = self.store.log(PID)
        assert [i.id for i in reversed(log)] == self.chain
        assert {i: self.store.decision(i) for i in self.chain if self.store.decision(i)} == {
            i: d for i, d in self.decisions.items() if i in self.chain
        }
        assert self.store.assimilated(PID) == {d for c in range(1, len(self.chain) + 1) for d in self.evidence[c]}
        assert set(self.store.state_ids(PID)) == set(self.states)

    @invariant()
    def every_state_has_its_parent_and_time_does_not_go_back(self) -> None:
        infos = {i: self.store.info(i) for i in self.states}
        for info in infos.values():
            assert info.parent is None or infos[info.parent].cycle == info.cycle - 1
            assert info.parent is None or infos[info.parent].knowledge_time < info.knowledge_time
        times = [m["knowledge_time"] for m in self.store.heads(PID)]
        assert times == sorted(times)

    @invariant()
    def what_was_known_stays_known(self) -> None:
        for when, chain in self.known[-3:]:
            assert [i.id for i in reversed(self.store.as_of(PID, when))] == chain

    @invariant()
    def the_store_verifies(self) -> None:
        assert self.store.verify() == ()


Histories.TestCase.settings = settings(
    max_examples=12, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


class TestHistories(Histories.TestCase):  # type: ignore[name-defined,misc]
    pass


class LongHistories(Histories):
    """The same, longer."""


LongHistories.TestCase.settings = settings(
    max_examples=80, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.long
class TestLongHistories(LongHistories.TestCase):  # type: ignore[name-defined,misc]
    pass
