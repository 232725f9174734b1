"""`tdt population`: a prior learned from closed patients: learn, list, show, accept, packaged."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows.cli_common import EXIT_NO, AsJson, print_json, print_table, say

population = typer.Typer(
    help="A population prior learned from closed patients: learn, list, show, accept, packaged.", no_args_is_help=True
)

VersionArgument = Annotated[str, typer.Argument(help="Version of a population prior, or its first digits.")]
Name = Annotated[str | None, typer.Option(help="Who does this; kept with it.")]
Reason = Annotated[str | None, typer.Option(help="Why; kept with it.")]


def _site() -> Any:
    from flows.settings import load_settings
    from flows.site import open_site
    from storage.home import open_home

    settings = load_settings()
    open_home(settings.home, create=False)
    return open_site(settings)


@population.command()
def learn(
    name: Name = None,
    model: Annotated[str, typer.Option(help="Kinetic rung whose states teach.")] = "whole_body",
    ligand: Annotated[str, typer.Option(help="Ligand family.")] = "PSMA-617",
    patient: Annotated[list[str] | None, typer.Option(help="Learn from these patients instead of all closed ones.")] = None,
    keep_apart: Annotated[list[str] | None, typer.Option(help="Patients to test on and learn nothing from.")] = None,
    as_json: AsJson = False,
) -> None:
    """Learn a prior from closed patients and test it on held-out ones. It is not used before `tdt population accept`.

    Exit code 4 when held-out patients speak against it.
    """
    from flows.population import learn_from, told
    from tdt_core.kinetics.ligands import family

    site = _site()
    by = name or str(typer.prompt("name"))
    prior, cohort = learn_from(site, by, model, family(ligand), patient or (), keep_apart or ())
    shown = told(site, prior) | {"left_out": [{"pid": pid, "reason": why} for pid, why in cohort.left_out]}
    if as_json:
        print_json(shown)
    else:
        for pid, why in cohort.left_out:
            say(f"left out {pid}: {why}")
        _print(shown)
    if not prior.gate.accepted:
        raise typer.Exit(EXIT_NO)


@population.command("list")
def list_versions(as_json: AsJson = False) -> None:
    """Every learned prior with its verdict, and which one is in use."""
    from flows.population import told

    site = _site()
    shown = [told(site, site.populations.load(v)) for v in site.populations.versions()]
    if as_json:
        print_json({"versions": shown})
        return
    rows = [
        (
            s["version"][:12],
            s["model"],
            s["ligand"],
            s["patients"],
            f"{s['gate']['gain_mean']:+.2f}",
            f"{s['gate']['gain_median']:+.2f}",
            "passed" if s["gate"]["accepted"] else "refused",
            "in use" if s["accepted"] else "",
        )
        for s in shown
    ]
    print_table("Population priors", ("version", "model", "ligand", "patients", "mean gain", "median gain", "gate", ""), rows)


@population.command()
def show(version: VersionArgument, as_json: AsJson = False) -> None:
    """What a learned prior says against the packaged one, its verdict, and what became of it."""
    from flows.population import told

    site = _site()
    shown = told(site, site.populations.load(site.populations.find(version)))
    if as_json:
        print_json(shown)
    else:
        _print(shown)


@population.command()
def accept(version: VersionArgument, name: Name = None, reason: Reason = None, as_json: AsJson = False) -> None:
    """Use a learned prior for patients whose twin begins from now on; twins that exist keep theirs."""
    from flows.population import accept as accept_version
    from flows.population import told

    site = _site()
    found = site.populations.find(version)
    prior = accept_version(site, found, name or str(typer.prompt("name")), reason or str(typer.prompt("reason")))
    if as_json:
        print_json(told(site, prior))
    else:
        say(f"new patients with {prior.ligand} ({prior.model}) start from population prior {prior.version[:12]}")


@population.command()
def packaged(name: Name = None, reason: Reason = None, as_json: AsJson = False) -> None:
    """Go back to the packaged prior for patients whose twin begins from now on."""
    from flows.population import withdraw

    gone = withdraw(_site(), name or str(typer.prompt("name")), reason or str(typer.prompt("reason")))
    if as_json:
        print_json({"withdrawn": list(gone)})
    else:
        say(f"withdrawn: {', '.join(v[:12] for v in gone)}" if gone else "the packaged prior is in use already")


def _print(shown: dict[str, Any]) -> None:
    gate = shown["gate"]
    say(f"Population prior {shown['version'][:12]} of {shown['model']} with {shown['ligand']}. Research use only.")
    say(f"{shown['patients']} patients; parent {(shown['parent'] or 'the packaged prior')[:12]}.")
    say(
        f"Held-out patients: ln predictive density {gate['gain_mean']:+.2f} in the mean, {gate['gain_median']:+.2f} in the "
        f"median, lower in {gate['fell']:.0%} of {gate['held_out']}; {gate['beyond']:.0%} beyond the 99.9 % point."
    )
    say(f"Gate: {'passed' if gate['accepted'] else 'refused'}, {gate['reason']}.")
    rows = [(r["key"], f"{r['shift_sd']:+.2f}", f"{r['spread_ratio']:.2f}") for r in shown["learned"]]
    print_table("Against the packaged prior", ("parameter", "median moved by, in packaged sds", "spread, times packaged"), rows)
    say(shown["noise_reason"])
    for group, factor in shown["noise"].items():
        say(f"drift of {group}: {factor:.2f} times the packaged variance")
    for e in shown["events"]:
        why = f": {e['reason']}" if "reason" in e else ""
        say(f"{e['time'][:16]} {e['event'].removeprefix('population-')} by {e['by']}{why}")
    say("in use for new patients" if shown["accepted"] else "not in use")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(population, name="population")
