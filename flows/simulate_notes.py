"""Notes of `tdt simulate`: what a run rests on, and where it leaves what its numbers were made for."""

from __future__ import annotations

from collections.abc import Sequence

from flows.simulate_input import Virtual
from tdt_core.errors import InputError
from tdt_core.kinetics.daughters import daughters_of, element_of
from tdt_core.kinetics.ligands import family, has_own_parameters, receptor_of
from tdt_core.kinetics.pbrpk import OPTIONS
from tdt_core.kinetics.schedules import administered
from tdt_core.nuclides import nuclide
from tdt_core.twin import Administration

ASSUMED_OF_LIGAND = ("ligand.k_on", "ligand.K_D", "ligand.lambda_int")
"""Parameters that a run names where they are assumed."""


def notes_on(virtual: Virtual, given: Sequence[Administration]) -> tuple[str, ...]:
    """What a reader must know of a run beside its numbers.

    Raises
    ------
    InputError `model.ligand` for a ligand that the model has no receptors for.
    """
    model = virtual.model
    notes = _of_patient(virtual)
    for ligand in dict.fromkeys(a.ligand for a in given):
        own = family(ligand)
        target = receptor_of(ligand)
        if target not in model.targets:
            raise InputError(
                f"{ligand} binds to {target}; the model {model.name} has receptors for {', '.join(model.targets)}",
                expected=f"a ligand of {', '.join(model.targets)}",
                remedy="choose another model or another product",
                kind="model.ligand",
            )
        if model.ligand or virtual.several:
            continue  # its own rows are used, and their status shows in the parameters
        if has_own_parameters(ligand) and ligand != own:
            notes.append(f"{ligand} is given, the parameters are those of the model's own ligand (assumed)")
        elif ligand != own:
            notes.append(f"{ligand} has no parameters of its own: those of {own} are used (assumed)")
    assumed = []
    for ligand, member in virtual.members.items():
        known = virtual.given_to(ligand)
        asked = [q for q in ASSUMED_OF_LIGAND if q in member.parameters and q not in known]
        names = [q for q in asked if member.parameters[q].status == "assumed"]
        assumed += [f"{ligand}/{q}" if virtual.several else q for q in names]
    if assumed:
        notes.append(f"assumed, nothing was found for it: {', '.join(assumed)}; see the status of each parameter")
    notes += _of_options(virtual, given)
    if model.name == "psma_reference":
        notes.append("psma_reference is the numerical reference case of the engine, no patient")
        if virtual.several:
            notes.append("several ligands: each moves by its own rows, none by the rates of the reference case")
    return (*notes, *_too_hot(given))


def _of_options(virtual: Virtual, given: Sequence[Administration]) -> list[str]:
    """What followed daughters and turnover rest on, and which daughters are not followed."""
    model, notes = virtual.model, []
    bear = [n for n in administered(given) if daughters_of(n)]
    pairs = ", ".join(f"{d} of {n}" for n in bear for d in daughters_of(n))
    if model.daughters == "none":
        return [f"{pairs} is counted where its parent decays; --daughters followed lets it leave"] if bear else []
    if not bear:
        return [f"daughters are followed, and none of {', '.join(administered(given))} is in the table"]
    scopes = {f"{n}/{d}" for n in bear for d in daughters_of(n)} | {element_of(d) for n in bear for d in daughters_of(n)}
    parameters = model.parameters
    assumed = [q for q in parameters if q.rpartition(".")[0] in scopes and parameters[q].status == "assumed"]
    notes.append(f"{pairs} is followed on and off the ligand; assumed: {', '.join(assumed)}")
    return notes


def _of_patient(virtual: Virtual) -> list[str]:
    """What the typical patient rests on, and where the run leaves what it was calibrated for."""
    people, model = virtual.people, virtual.model
    if people is None:
        return []
    fitted = sorted(n for n in people.calibrated if n in virtual.typical)
    notes = [f"the typical patient of a population that was calibrated to clinical levels: {', '.join(fitted)}"]
    left = [f"{o.replace('_', ' ')} {getattr(model, o)}" for o in OPTIONS if getattr(model, o) != getattr(people.model, o)]
    left += [f"the ligand {ligand}" for ligand in virtual.ligands or (model.ligand,) if ligand not in ("", people.ligand)]
    values = model.quantities(virtual.shared_values)
    woman = float(values["body.female"]) > 0
    if woman and "body.female" not in people.table:
        left.append("a woman, whose height and weight stay those of the men where they are not given")
    usual, kidneys = ([o.name for o in m.organs if o.template == "paired_kidney"] for m in (people.model, model))
    if len(kidneys) < len(usual):
        left.append(f"{kidneys[0]} alone, with all filtration and flow and its usual volume" if kidneys else "no kidneys")
    if left:
        notes.append(f"not what the population was calibrated for: {', '.join(left)}")
    if "tumour_rest" in model.regions and any(r.startswith("lesion/") for r in model.regions):
        load = float(values["tumour_rest.volume"])
        notes.append(f"{1000 * load:.0f} mL of other tumours stay beside the lesions; --without tumour_rest if there are none")
    if woman and "prostate" in model.regions:
        notes.append("a woman with a prostate; --without prostate")
    return notes


def _too_hot(given: Sequence[Administration]) -> list[str]:
    """Vials that hold more radioactive ligand than ligand: no chemistry makes them."""
    notes = []
    for a in (a for a in given if a.nuclide):
        atoms_nmol = a.activity_mbq / nuclide(a.nuclide).mbq_per_nmol
        if a.amount_nmol is not None and atoms_nmol > a.amount_nmol:
            notes.append(
                f"{a.activity_mbq:g} MBq of {a.nuclide} are {atoms_nmol:.3g} nmol of it, more than the "
                f"{a.amount_nmol:g} nmol of ligand given at {a.time_h:g} h: a trace for a calculation, no vial"
            )
    return notes
