"""Learned population priors in MLflow: a registered model per rung and ligand family, a version per prior, alias `accepted`.

As with states MLflow is an index only: everything here is read from the files and the audit trail, and repeats add nothing.
"""

from __future__ import annotations

import logging

from storage.locks import lock
from storage.populations import ACCEPTED, PopulationStore
from storage.registry import IndexReport, Registry

log = logging.getLogger(__name__)

EXPERIMENT, ALIAS = "populations", "accepted"


def model_name(model: str, ligand: str) -> str:
    """Name of the registered model of a rung and a ligand family."""
    return f"population-{model}-{ligand}"


def index_populations(populations: PopulationStore, registry: Registry) -> IndexReport:
    """Bring MLflow up to the store; a failing MLflow is logged and reported, never raised."""
    done: list[str] = []
    try:
        with lock(populations.home.locks / "index.lock"):
            for version in populations.versions():
                if _register(populations, registry, version):
                    done.append(version)
            _set_aliases(populations, registry)
    except Exception as e:  # whatever MLflow raises: the index must never stop the store
        log.warning("MLflow index not updated for population priors (%s)", type(e).__name__)
        return IndexReport(tuple(done), (f"populations: {type(e).__name__}",))
    return IndexReport(tuple(done))


def _register(populations: PopulationStore, registry: Registry, version: str) -> bool:
    prior = populations.load(version)
    client, name = registry.client, model_name(prior.model, prior.ligand)
    if version in _known(registry, name):
        return False
    learned, *later = populations.events(version)
    tags = {
        "population_sha256": version,
        "parent_sha256": prior.parent or "none",
        "solver": prior.model,
        "ligand": prior.ligand,
        "gate_result": "passed" if prior.gate.accepted else "failed",
        "gate_reason": prior.gate.reason,
        "learned_by": learned["by"],
        "approver": next((e["by"] for e in later if e["event"] == ACCEPTED), "none"),
        "base_sha256": prior.base,
    }
    metrics = {
        "patients": float(prior.patients),
        "held_out": float(prior.gate.held_out),
        "gain_mean": prior.gate.gain_mean,
        "gain_median": prior.gate.gain_median,
        "fell": prior.gate.fell,
        "beyond": prior.gate.beyond,
    }
    metrics |= {f"shift.{k}": float(x) for k, x in zip(prior.hyper.keys, prior.hyper.shift, strict=True)}
    metrics |= {f"variance.{k}": float(x) for k, x in zip(prior.hyper.keys, prior.hyper.variance, strict=True)}
    run = registry.run(EXPERIMENT, f"{name} {version[:12]}", "population_sha256", version, tags)
    registry.record(run, metrics=metrics, params={"keys": str(len(prior.hyper.keys)), "states": str(len(prior.states))})
    client.set_terminated(run, status="FINISHED")
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    client.create_model_version(
        name, source=registry.source(populations.path(version)), run_id=run, tags=tags, await_creation_for=0
    )
    return True


def _known(registry: Registry, name: str) -> dict[str, str]:
    found = registry.client.search_model_versions(f"name = '{name}'", max_results=1000)
    return {v.tags.get("population_sha256", ""): str(v.version) for v in found}


def _set_aliases(populations: PopulationStore, registry: Registry) -> None:
    client = registry.client
    used = {model_name(p.model, p.ligand): p.version for p in populations.accepted()}
    scopes = {model_name(p.model, p.ligand) for p in map(populations.load, populations.versions())}
    for name in sorted(scopes):
        present = dict(client.get_registered_model(name).aliases)
        if name not in used:
            if ALIAS in present:
                client.delete_registered_model_alias(name, ALIAS)
            continue
        number = _known(registry, name)[used[name]]
        if str(present.get(ALIAS)) != number:
            client.set_registered_model_alias(name, ALIAS, number)
            by = [e["by"] for e in populations.events(used[name]) if e["event"] == ACCEPTED][-1]
            client.set_model_version_tag(name, number, "approver", by)
