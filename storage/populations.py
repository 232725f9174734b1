"""Learned population priors at rest: one immutable file per version, and in the audit trail who learned and accepted which.

    TDT_HOME/populations/<version>.json     canonical JSON of the prior; its SHA-256 is the version

A version is used for new patients only after somebody accepted it. What is accepted is read from the audit trail (events
`population-learned`, `population-accepted`, `population-withdrawn`), so there is no second file that could contradict it. The
numbers are means and spreads over all patients and the ids of their states; nothing of a single patient is in it.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from storage.atomic import disk_errors, sha256_file, write_atomic
from storage.audit import AuditTrail, Record
from storage.home import Home
from storage.locks import lock
from storage.state_files import Problem
from tdt_core.assimilation.learned import LearnedPrior
from tdt_core.codec import canonical_json
from tdt_core.errors import InputError, StoreError, UsageError

LEARNED, ACCEPTED, WITHDRAWN = "population-learned", "population-accepted", "population-withdrawn"
MIN_PREFIX = 4


class PopulationStore:
    """Learned populations of one TDT_HOME."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.folder = home.root / "populations"
        self.audit = AuditTrail(home)

    def versions(self) -> tuple[str, ...]:
        """All versions, in the order in which they were learned."""
        return tuple(e["version"] for e in self._events(LEARNED))

    def path(self, version: str) -> Path:
        """Where a version lies."""
        return self.folder / f"{version}.json"

    def load(self, version: str) -> LearnedPrior:
        """A version. Raises StoreError `store.unknown`, `store.damaged`."""
        path = self.path(version)
        if not path.is_file():
            raise StoreError(f"no population prior {version[:12]}", remedy="`tdt population list`", kind="store.unknown")
        if sha256_file(path) != version:
            raise StoreError(
                f"the population prior {version[:12]} is damaged",
                remedy=f"restore {path.name} from a backup",
                kind="store.damaged",
            )
        return LearnedPrior.of(json.loads(path.read_text(encoding="utf-8")))

    def find(self, prefix: str) -> str:
        """The one version that begins with `prefix`. Raises UsageError `store.unknown|ambiguous`."""
        found = sorted({v for v in self.versions() if v.startswith(prefix.lower())})
        if len(prefix) < MIN_PREFIX or len(found) != 1:
            raise UsageError(
                f"{len(found)} population priors begin with {prefix!r}",
                expected=f"one, named by {MIN_PREFIX} digits or more",
                remedy="`tdt population list`",
                kind="store.ambiguous" if found else "store.unknown",
            )
        return found[0]

    def put(self, prior: LearnedPrior, *, by: str, time: datetime) -> str:
        """Keep a version, accepted or not; the same one again changes nothing. Returns the version.

        `by` : who had it learned; a claim, as with signatures.
        """
        _require(by, "who learned it")
        with disk_errors("keeping a population prior"), lock(self.home.locks / "populations.lock"):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self.path(prior.version).exists():
                write_atomic(self.path(prior.version), canonical_json(prior.plain()).encode(), label="population")
            if prior.version not in self.versions():
                told = {"version": prior.version, "model": prior.model, "ligand": prior.ligand, "by": by}
                self.audit.append(LEARNED, told | {"gate": prior.gate.accepted}, time=time)
        return prior.version

    def accept(self, version: str, *, by: str, reason: str, time: datetime) -> LearnedPrior:
        """Use a version for new patients from now on.

        Raises
        ------
        InputError `population.gate` when held-out patients spoke against it, `population.incomplete` without a name or reason.
        StoreError as `load`.
        """
        _require(by, "who accepts it")
        _require(reason, "why it is accepted")
        prior = self.load(version)
        if not prior.gate.accepted:
            raise InputError(
                f"the population prior {version[:12]} did not pass its gate: {prior.gate.reason}",
                expected="a held-out log predictive density that does not fall",
                remedy="look for patients that do not belong to the cohort, or wait for more",
                kind="population.gate",
            )
        with disk_errors("accepting a population prior"), lock(self.home.locks / "populations.lock"):
            told = {"version": version, "model": prior.model, "ligand": prior.ligand, "by": by, "reason": reason}
            self.audit.append(ACCEPTED, told, time=time)
        return prior

    def withdraw(self, *, by: str, reason: str, time: datetime) -> tuple[str, ...]:
        """Go back to the packaged prior for new patients; returns the versions that are no longer used."""
        _require(by, "who withdraws it")
        _require(reason, "why it is withdrawn")
        with disk_errors("withdrawing population priors"), lock(self.home.locks / "populations.lock"):
            used = self.accepted()
            for prior in used:
                told = {"version": prior.version, "model": prior.model, "ligand": prior.ligand, "by": by, "reason": reason}
                self.audit.append(WITHDRAWN, told, time=time)
        return tuple(x.version for x in used)

    def accepted(self) -> tuple[LearnedPrior, ...]:
        """The version in use for every rung and ligand family that has one, in order of their names."""
        standing: dict[tuple[str, str], str] = {}
        for event in self._events(ACCEPTED, WITHDRAWN):
            scope = (event["model"], event["ligand"])
            if event["event"] == ACCEPTED:
                standing[scope] = event["version"]
            else:
                standing.pop(scope, None)
        return tuple(self.load(version) for _, version in sorted(standing.items()))

    def events(self, version: str) -> tuple[Record, ...]:
        """What the audit trail says of a version, oldest first."""
        return tuple(e for e in self._events(LEARNED, ACCEPTED, WITHDRAWN) if e["version"] == version)

    def verify(self) -> tuple[Problem, ...]:
        """Files that are damaged, missing, or not in the audit trail."""
        told = set(self.versions())
        present = {p.stem: p for p in self.folder.glob("*.json")} if self.folder.is_dir() else {}

        def problem(version: str, what: str) -> Problem:
            return Problem(self.path(version).relative_to(self.home.root).as_posix(), what)

        found = [problem(v, "is damaged") for v, p in sorted(present.items()) if sha256_file(p) != v]
        found += [problem(v, "is not in the audit trail") for v in sorted(present.keys() - told)]
        found += [problem(v, "is in the audit trail but not on disk") for v in sorted(told - present.keys())]
        return tuple(found)

    def _events(self, *names: str) -> list[Record]:
        return [e for e in self.audit.events() if e["event"] in names]


def _require(words: str, what: str) -> None:
    if not words.strip():
        raise InputError(f"a population prior without {what}", expected="a name and a reason", kind="population.incomplete")
