"""`tdt simulate --parameters`: a table of parameters as a virtual patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flows.simulate_input import Virtual, as_input, virtual_patient
from storage.tables import read_text
from tdt_core.errors import InputError
from tdt_core.kinetics import parameter_tables as tables
from tdt_core.kinetics.pbrpk import OPTIONS

LESION = "lesion/"


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


def tabled(virtual: Virtual, table: Table, ligand: str | None) -> Virtual:
    """A patient with the values of a table: those that it marks as given, and those that differ from what the table's patient
    has where these are given. What is set on the command line goes before it. `ligand`: the one that is administered, if any.
    """
    with as_input():
        said = table.about.get("ligand")
        if _agreed(table, "ligand", ligand) and said:
            virtual = virtual.with_ligand(said)
        model = virtual.model
        # a table that was written before a ligand was chosen differs from another one's rows, and means nothing by it
        own = replace(model, ligand="") if "model" in table.about and not said else model
        marked = tables.overrides(own, [r for r in table.rows if str(r["status"]).strip() == tables.GIVEN])
        usual = replace(virtual, model=own, given=marked).typical
        found = tables.overrides(own, table.rows, usual)
        said_of = {model.resolve(str(r["name"]).strip()): str(r["source"]) for r in table.rows if not tables.is_derived(r)}
        sources = {name: said_of[name] for name in found if name not in virtual.given}
        out = replace(virtual, model=model, given=found | dict(virtual.given), sources=sources)
        model.quantities(out.values)
    return out


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
