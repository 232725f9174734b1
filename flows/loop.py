"""The loop as Prefect flows: a folder in, states, reports and a proposal out.

Prefect sees one task per step and cycle, each with ids only; Dask does the work inside a step. Task and flow names carry
pseudonyms and cycle numbers, never paths of a patient.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows import chain, derived, progress
from flows.dask_client import dask_client
from flows.dask_map import ordered_map
from flows.plan import CyclePlan
from flows.settings import Settings, load_settings
from flows.site import Site, open_site
from storage.registry import IndexReport, catch_up


@task(name="step", task_run_name="cycle {number}: {name}", persist_result=False, cache_policy=NO_CACHE)
def run_step(name: str, number: int, state: str, call: Callable[[], None]) -> None:
    """Run one step of one cycle. `call` is bound to the site and the plan; what Prefect records is name, cycle and state id."""
    get_run_logger().info("cycle %d, state %s: %s", number, state[:12], name)
    call()


@flow(name="take-in-patient", flow_run_name="take in", validate_parameters=False, persist_result=False)
def take_in_patient(folder: str, home: str | None = None) -> dict[str, Any]:
    """Take a folder in, bring the patient's chain up to date, make reports and exports of new states.

    Parameters
    ----------
    folder : the patient's files, under a name that names nobody (see `flows.inbox.alias`).
    home : TDT_HOME, by default the configured one.

    Returns
    -------
    dict with `pid`, `states`, `new`, `proposal` (MBq or None).
    """
    site = open_site(load_settings(home=home))
    with dask_client(site.settings) as client:
        outcome = chain.run_chain(site, Path(folder), as_tasks(ordered_map(client, site.settings.held_bytes)))
    for state_id in with_parents(site, outcome["new"]):
        with progress.step(f"report and exports of {state_id[:12]}"):
            make_derived(state_id, lambda s=state_id: derived.make(site, s))  # type: ignore[misc]
    derived.renew(site, outcome["pid"])
    with progress.step("index"):
        index(lambda: catch_up(site.store, site.settings.mlflow_uri or None))
    return outcome


def finish(site: Site, pid: str, new: list[str]) -> None:
    """Reports, exports and index of states that were made without a flow (`tdt retract`, `tdt refit`)."""
    for state_id in with_parents(site, new):
        with progress.step(f"report and exports of {state_id[:12]}"):
            derived.make(site, state_id)
    derived.renew(site, pid)
    for failure in catch_up(site.store, site.settings.mlflow_uri or None).failures:
        progress.note(f"the index could not be brought up to date: {failure}")


def with_parents(site: Site, states: list[str]) -> list[str]:
    """States and their parents, whose decision may have been recorded with them."""
    found: list[str] = []
    for state_id in states:
        found += [s for s in (site.store.load(state_id).parent, state_id) if s is not None and s not in found]
    return found


@task(name="report", task_run_name="report {state:.12}", persist_result=False, cache_policy=NO_CACHE)
def make_derived(state: str, call: Callable[[], Path]) -> None:
    """Report and exports of one state."""
    call()


@task(name="index", persist_result=False, cache_policy=NO_CACHE)
def index(call: Callable[[], IndexReport]) -> int:
    """Register new states in MLflow; a failing MLflow leaves notes for the next time, never a lost state."""
    report = call()
    for failure in report.failures:
        progress.note(f"the index could not be brought up to date: {failure}")
        get_run_logger().warning("the index could not be brought up to date: %s", failure)
    return len(report.registered)


def as_tasks(map_: Callable[..., Any]) -> chain.Caller:
    """A caller that hands every step to Prefect, gives Dask to those that can use it."""

    def call(name: str, step: chain.Step, site: Site, plan: CyclePlan) -> None:
        def bound() -> None:
            if name in ("quantify", "dose"):
                step(site, plan, map_)
            else:
                step(site, plan)

        run_step(name, plan.number, plan.state_id, bound)

    return call


def refit(settings: Settings, pid: str, reason: str) -> dict[str, Any]:
    """`tdt refit`: the chain again under present code and settings, as a new branch, with its reports."""
    site = open_site(settings)
    outcome = chain.refit(site, pid, reason)
    finish(site, pid, outcome["states"])
    return outcome


def replay(settings: Settings, state_id: str) -> list[str]:
    """`tdt replay`: what differs when a state is computed again."""
    return chain.replay(open_site(settings), state_id)


__all__ = ["as_tasks", "refit", "replay", "take_in_patient"]
