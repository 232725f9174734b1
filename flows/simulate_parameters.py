"""Parameters of `tdt simulate`: a table as a virtual patient, and a virtual patient as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flows.simulate_input import Virtual, as_input, owner_of, virtual_patient
from storage.tables import read_text
from tdt_core.errors import InputError
from tdt_core.kinetics import parameter_tables as tables
from tdt_core.kinetics.pbrpk import OPTIONS, PBRPK

LESION = "lesion/"
PARAMETER_COLUMNS = ("name", "value", "unit", "rule", "distribution", "sd", "status", "source")


@dataclass(frozen=True)
class Table:
    """A file of parameters: the model's name and options where it says them, and rows as `tables.overrides` takes them."""

    file: str = ""
    about: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()


def read_table(path: Path) -> Table:
    """A `.csv` or `.json` of parameters, such as `tdt simulate --out` writes.

    Raises
    ------
    InputError `input.parameters` for no such file, another ending or no table.
    """
    if path.suffix.lower() not in (".csv", ".json") or not path.is_file():
        raise InputError(
            f"no parameters in {path}", expected="a .csv or .json file", remedy="correct its name", kind="input.parameters"
        )
    read = tables.from_csv if path.suffix.lower() == ".csv" else tables.from_json
    return Table(path.name, *read(read_text(path)))


def patient_of(
    table: Table,
    name: str,
    settings: Sequence[str],
    lesions: Sequence[str],
    without: Sequence[str],
    options: Mapping[str, str | None],
    patient: str | None,
) -> Virtual:
    """The virtual patient of a command line, with the options and lesions of a table: see `virtual_patient`."""
    named = {text.partition("=")[0].strip().removeprefix(LESION) for text in lesions}
    segmented: dict[str, float] = {}
    for n, row in enumerate(table.rows, start=1):
        organ, _, quantity = str(row["name"]).strip().rpartition(".")
        identity = organ.removeprefix(LESION)
        if organ.startswith(LESION) and quantity == "volume" and identity not in named:
            segmented[identity] = tables.value_in(row, "L", f"row {n} of the parameters: {organ}.volume")
    return virtual_patient(
        _agreed(table, "model", name) or name,
        settings,
        lesions,
        tuple(dict.fromkeys((*without, *table.about.get("without", "").split()))),
        {option: _agreed(table, option, options.get(option)) for option in OPTIONS},
        _agreed(table, "patient", patient),
        segmented,
    )


def tabled(virtual: Virtual, table: Table, ligands: Sequence[str]) -> Virtual:
    """A patient with the values of a table: those that it marks as given, and those that differ from what the table's patient
    has where these are given. What is set on the command line goes before it. `ligands`: those whose rows are used, if any.
    """
    with as_input():
        said = table.about.get("ligand")
        if _agreed(table, "ligand", " ".join(ligands) or None) and said:
            virtual = virtual.with_ligands(said.split())
        model = virtual.model
        owners = ("", *(virtual.ligands if virtual.several else ()))
        for n, row in enumerate(table.rows, start=1):
            if (owner := owner_of(str(row["name"]).strip())) not in owners:
                raise InputError(
                    f"row {n} of the parameters is of {owner}",
                    expected=f"ligands of the schedule: {', '.join(virtual.ligands)}"
                    if virtual.ligands
                    else "no ligand's name",
                    remedy="leave the row out; of one ligand alone, leave its name out",
                    kind="model.quantity",
                )
        found: dict[str, float] = {}
        sources: dict[str, str] = {}
        for ligand in owners:
            rows = [_without(row, ligand) for row in table.rows if owner_of(str(row["name"]).strip()) == ligand]
            own = virtual.members[ligand] if ligand else model
            # a table that was written before a ligand was chosen differs from another one's rows, and means nothing by it
            own = replace(own, ligand="") if "model" in table.about and not said else own
            marked = tables.overrides(own, [r for r in rows if str(r["status"]).strip() == tables.GIVEN])
            usual = replace(virtual, model=own, ligands=virtual.ligands if said else (), given=marked).typical
            front = f"{ligand}/" if ligand else ""
            values = tables.overrides(own, rows, usual)
            said_of = {model.resolve(r["name"]): str(r["source"]) for r in rows if not tables.is_derived(r)}
            found |= {front + name: value for name, value in values.items()}
            sources |= {front + name: said_of[name] for name in values}
        out = replace(
            virtual,
            given=found | dict(virtual.given),
            sources={name: source for name, source in sources.items() if name not in virtual.given},
        )
        for ligand, member in out.members.items():
            member.quantities({**out.typical, **out.given_to(ligand)})
    return out


def _without(row: Mapping[str, Any], ligand: str) -> Mapping[str, Any]:
    """A row under the name that it has in the model of its ligand."""
    return {**row, "name": str(row["name"]).strip().removeprefix(f"{ligand}/")}


def _agreed(table: Table, name: str, asked: str | None) -> str | None:
    """An option of the command line, or else the table's. Raises InputError `input.parameters` where they differ."""
    said = table.about.get(name)
    if asked is not None and said is not None and asked != said:
        words = name.replace("_", " ")
        raise InputError(
            f"{table.file} was made with the {words} {said}; {asked} is asked for",
            expected="one of them",
            remedy=f"ask for {said}, or take the {words} out of the file",
            kind="input.parameters",
        )
    return asked or said


# --- telling ---------------------------------------------------------------------------------------------------------


def status_counts(virtual: Virtual) -> dict[str, int]:
    """How many of the model's parameters have which status; those given by hand are counted as given."""
    counts = Counter(row["status"] for row in parameter_rows(virtual) if not row["rule"])
    ordered = {s: counts[s] for s in ("measured", "literature", "calibrated", "assumed") if counts[s]}
    return ordered | ({tables.GIVEN: len(virtual.given)} if virtual.given else {})


def counts_in_words(counts: Mapping[str, int]) -> str:
    """`97 literature, 9 assumed`."""
    return ", ".join(f"{n} {status}" for status, n in counts.items())


def parameter_rows(virtual: Virtual) -> list[dict[str, Any]]:
    """Every quantity: parameters with their number, derived ones with the value and the rule that it follows from. Of several
    ligands, what differs between them has a row of each, with its name in front."""
    of = {ligand: _rows_of(virtual, ligand, model) for ligand, model in virtual.members.items()}
    first, *others = of.values()
    same = {name for name, row in first.items() if all(rows[name] == row for rows in others)}
    out = []
    for name, row in first.items():
        if name in same:
            out.append(row)
        else:
            out += [{**rows[name], "name": f"{ligand}/{name}"} for ligand, rows in of.items()]
    return out


def _rows_of(virtual: Virtual, ligand: str, model: PBRPK) -> dict[str, dict[str, Any]]:
    given = virtual.given_to(ligand)
    values, parameters = {**virtual.typical, **given}, model.parameters
    quantities, follows = model.quantities(values), model.table.followers(values)
    rows = {}
    for name, declared in model.table.items():
        by_hand, typical = name in given, name in virtual.typical
        rule = virtual.row_of(name) if typical else model.table.acting(name, values)
        own = (typical or (name in parameters and name not in follows)) and not by_hand
        source = virtual.sources.get(f"{ligand}/{name}", virtual.sources.get(name, tables.BY_HAND))
        rows[name] = {
            "name": name,
            "value": float(quantities[name]),
            "unit": declared.unit,
            "rule": "" if by_hand or own else rule.rule,
            "distribution": rule.distribution if own else "fixed",
            "sd": rule.sd if own else 0.0,
            "status": tables.GIVEN if by_hand else rule.status,
            "source": source if by_hand else rule.source,
        }
    return rows


def parameters_csv(virtual: Virtual) -> str:
    """All quantities as CSV under the model's name and options; `--parameters` reads it back."""
    return tables.to_csv(parameter_rows(virtual), PARAMETER_COLUMNS, made_with(virtual))


def parameters_json(virtual: Virtual) -> str:
    """The same as JSON."""
    return tables.to_json(parameter_rows(virtual), made_with(virtual))


def made_with(virtual: Virtual) -> dict[str, str]:
    """Name, options, ligands and patient, for the head of a table."""
    ligands = {"ligand": " ".join(virtual.ligands)} if virtual.several else {}
    return {**tables.about(virtual.model), **ligands, "patient": virtual.patient}
