"""`tdt demo`: a reference patient through the closed loop, and where the twin errs against the truth.

The demonstration has a home of its own beside the configured one, so that an invented patient never lies among real ones. A
scripted clinician signs each proposal; the decision is marked as scripted, and the output says so.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import progress
from flows.run import orchestrated, outcome_of, take_in
from flows.services import PrefectServer
from flows.settings import Settings, load_settings
from tdt_core.errors import InputError
from tdt_core.twin import Decision, Proposal, TwinState

if TYPE_CHECKING:
    from tdt_core.phantom import ReferencePatient

SIGNED_BY = "Scripted clinician"
ROLE = "demonstration"


def demo_settings(home: Path | None = None) -> Settings:
    """Settings of the demonstration: home `<home>-demo` with folders of its own; services as configured."""
    base = load_settings()
    root = home if home is not None else base.home.with_name(f"{base.home.name}-demo")
    folders = {name: root.with_name(f"{root.name}-{name}") for name in ("vault", "inbox", "quarantine")}
    return load_settings(home=root, **folders)


def scripted_decision(state: str, proposal: Proposal | None, standard_activity_mbq: float) -> Decision:
    """What the scripted clinician answers: signs a proposal; without one, gives the standard activity and says why."""
    if proposal is not None and not proposal.abstains:
        return Decision(state, "signed", proposal.activity_mbq, SIGNED_BY, ROLE, "as proposed (scripted)", scripted=True)
    reason = "the twin makes no recommendation; the product's standard activity is given (scripted)"
    return Decision(state, "changed", standard_activity_mbq, SIGNED_BY, ROLE, reason, scripted=True)


def clear(settings: Settings, folder: Path) -> None:
    """Remove an earlier demonstration. Raises InputError when the home holds anything but one."""
    marker = settings.home.with_name(f"{settings.home.name}-patient") / "DEMONSTRATION"
    if settings.home.exists() and any(settings.home.iterdir()) and not marker.exists():
        raise InputError(
            "the folder for the demonstration holds something else",
            expected="an empty folder or an earlier demonstration",
            remedy="name another one with --home, before the command",
            kind="input.demo",
        )
    for path in (settings.home, settings.vault, settings.inbox, settings.quarantine, folder):
        shutil.rmtree(path, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    (folder / "DEMONSTRATION").write_text("Made by `tdt demo`, which removes and makes it again.\n", encoding="utf-8")


def run_demo(
    *,
    seed: int,
    matrix: int,
    cycles: int,
    home: Path | None = None,
    anatomy: Path | None = None,
    product: str = "Lu-177-PSMA-617",
) -> dict[str, Any]:
    """Make the patient, take in cycle after cycle, sign between them; returns what to show.

    anatomy : folder of a real labelled volume to be used in place of a drawn body; kinetics stay assigned.
    """
    settings = demo_settings(home)
    folder = settings.home.with_name(f"{settings.home.name}-patient")
    clear(settings, folder)
    with orchestrated(settings) as server:
        return _follow(settings, server, folder, _reference(seed, matrix, cycles, anatomy, product))


def _reference(seed: int, matrix: int, cycles: int, anatomy: Path | None, product: str) -> ReferencePatient:
    from storage.anatomy_files import read_anatomy
    from tdt_core.phantom import PhantomSettings, reference_patient

    labelled = None if anatomy is None else read_anatomy(anatomy)
    return reference_patient(PhantomSettings(seed=seed, cycles=cycles, matrix=matrix, product=product), labelled)


def _follow(settings: Settings, server: PrefectServer, folder: Path, reference: ReferencePatient) -> dict[str, Any]:
    from flows.site import open_site
    from storage.phantom_files import append_cycle, write_reference_patient
    from storage.twins import now

    seed, cycles = reference.settings.seed, reference.settings.cycles
    with progress.step(f"reference patient {seed}: pre-therapy PET and cycle 1"):
        inbox = write_reference_patient(folder, reference, through_cycle=1)
    site = open_site(settings)
    decisions: list[Decision] = []
    for cycle in range(1, cycles + 1):
        if cycle > 1:
            with progress.step(f"reference patient {seed}: cycle {cycle} with {decisions[-1].activity_mbq:.0f} MBq as signed"):
                append_cycle(folder, reference, cycle, activity_mbq=decisions[-1].activity_mbq)
        taken = take_in(settings, server, inbox)
        outcome = outcome_of(site.store, taken)
        progress.note(f"cycle {cycle}: {outcome['proposal']}")
        standard = reference.settings.standard_activity_mbq
        decisions.append(scripted_decision(outcome["newest"], site.store.load(outcome["newest"]).proposal, standard))
        if cycle < cycles:
            site.store.decide(decisions[-1], time=now())
            progress.note(f"a scripted clinician gives {decisions[-1].activity_mbq:.0f} MBq ({decisions[-1].kind})")
    return _told(site, outcome, folder)


def _told(site: Any, outcome: dict[str, Any], folder: Path) -> dict[str, Any]:
    from flows import derived
    from flows.truth import errors, read_truth

    truth = read_truth(folder / "truth" / "truth.json")
    rows = []
    with progress.step("reports with the truth beside the estimates"):
        for entry in outcome["states"]:
            state: TwinState = site.store.load(entry["state"])
            if state.cycle in truth:
                rows += [{"cycle": state.cycle, **row} for row in errors(state, truth[state.cycle])]
                derived.make(site, entry["state"], truth=dict(truth[state.cycle]))
    return {**outcome, "home": str(site.settings.home), "patient_folder": str(folder), "errors": rows}
