"""What a person writes after `tdt simulate`, read once: quantities with or without a unit, lesions in mL, a schedule, times."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from flows.settings import load_settings
from storage.tables import read_text
from tdt_core.errors import InputError, ModelError
from tdt_core.kinetics.ligands import ligand_rules, ligands
from tdt_core.kinetics.pbrpk import PBRPK, pbrpk
from tdt_core.kinetics.population import Population, has_population, population
from tdt_core.kinetics.rules import Rule
from tdt_core.kinetics.together import together
from tdt_core.kinetics.units import conversion
from tdt_core.nuclides import normalise_name
from tdt_core.planning import products, read_rows
from tdt_core.twin import Administration, Product

SCHEDULE_COLUMNS = ("time_h", "product", "ligand", "nuclide", "activity_mbq", "amount_nmol", "duration_h", "residual_mbq")
_NUMBERS = ("time_h", "activity_mbq", "amount_nmol", "duration_h", "residual_mbq")

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S.*)?")


TYPICAL, REFERENCE = "typical", "reference"
NUMERICAL = "psma_reference"
"""The numerical reference case, which keeps its numbers whatever ligand is given."""
TUMOURS = "tumour_rest."


@dataclass(frozen=True)
class Virtual:
    """A virtual patient: a model with lesions and options, and the quantities that were given, in the model's units: by hand,
    or by a table of parameters that names their `sources`.

    The rest is that of the typical patient of `people`, or the model's own where there are none. `ligands` are those of the
    schedule; what is given for one of several has its name in front, as in `tdt_core.kinetics.together`.
    """

    model: PBRPK
    given: Mapping[str, float] = field(default_factory=dict)
    people: Population | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    ligands: tuple[str, ...] = ()

    @property
    def several(self) -> bool:
        """Whether more than one ligand is given, each with rows of its own."""
        return len(self.ligands) > 1

    @property
    def members(self) -> Mapping[str, PBRPK]:
        """Ligand -> the model as that ligand moves in it; without a schedule the model under the name ""."""
        return together(self.model, self.ligands).members if self.several else {"".join(self.ligands): self.model}

    def given_to(self, ligand: str) -> dict[str, float]:
        """What was given for all ligands, and for that one (`PSMA-11/ligand.K_D`) under the name without it."""
        owned = {n: owner_of(n) for n in self.given}
        shared = {n: v for n, v in self.given.items() if not owned[n]}
        return shared | {n.partition("/")[2]: v for n, v in self.given.items() if ligand and owned[n] == ligand}

    @property
    def patient(self) -> str:
        """`typical` or `reference`."""
        return REFERENCE if self.people is None else TYPICAL

    @cached_property
    def typical(self) -> Mapping[str, float]:
        """What the typical patient says of the model's quantities; lesions are like its other tumours.

        The ligand's rows and what was given by hand come first (see `Population.typical`).
        """
        if self.people is None:
            return {}
        given = self.given_to("")
        values = self.people.typical(self.model, given)
        like = {n.removeprefix(TUMOURS): v for n, v in self.people.typical().items() if n.startswith(TUMOURS)}
        taken = {*given, *self.model.table.followers(given)}
        for lesion in (r for r in self.model.regions if r.startswith("lesion/")):
            values |= {f"{lesion}.{q}": v for q, v in like.items() if q != "volume" and f"{lesion}.{q}" not in taken}
        of_ligand = {r.name for n in (self.model.ligand, *self.ligands[1:]) if n for r in ligand_rules(n)}
        return {n: v for n, v in values.items() if n not in of_ligand}

    @property
    def values(self) -> dict[str, float]:
        """Everything that the model is given."""
        return {**self.typical, **self.given}

    @property
    def shared_values(self) -> dict[str, float]:
        """The same without what is given for one of several ligands: what the body has."""
        return {**self.typical, **self.given_to("")}

    def row_of(self, name: str) -> Rule:
        """The population's row of a quantity of the typical patient: its status, source and spread."""
        assert self.people is not None
        scope, _, quantity = name.rpartition(".")
        return self.people.table[f"{TUMOURS}{quantity}" if scope.startswith("lesion/") else name]

    def with_ligands(self, ligands: Sequence[str]) -> Virtual:
        """The same patient given these ligands: rows of the first replace the model's, the others bring their own. The
        numerical reference case keeps its own where one is given.

        Raises
        ------
        InputError `model.quantity` where something was given for a ligand that is not among them.
        """
        names = tuple(dict.fromkeys(ligands))
        strangers = [n for n in self.given if owner_of(n) and owner_of(n) not in names]
        if strangers:
            raise InputError(
                f"{strangers[0]} is of a ligand that the schedule does not give",
                expected=f"one of {', '.join(names)}" if names else "a schedule with that ligand",
                remedy="correct the ligand, or leave the quantity out",
                kind="model.quantity",
            )
        if not names:
            return self
        model = self.model if self.model.name == NUMERICAL else self.model.with_ligand(names[0])
        alone = replace(self, model=model, ligands=names[:1])
        return replace(self, model=model, ligands=names, given=self.given if names[1:] else alone.given_to(names[0]))


def owner_of(name: str) -> str:
    """Ligand that a quantity is given for, `PSMA-11` of `PSMA-11/ligand.K_D`; empty for all."""
    ligand, slash, _ = name.partition("/")
    return ligand if slash and ligand in ligands() else ""


@contextmanager
def as_input() -> Iterator[None]:
    """What a model refuses was written by hand here, so it is input: same words, same kind, exit code of refused input."""
    try:
        yield
    except ModelError as error:
        raise InputError(error.found, expected=error.expected, remedy=error.remedy, kind=error.kind) from error


def _quantity(text: str, option: str) -> tuple[str, float, str]:
    """`name = number [unit]` as name, number and unit."""
    name, equals, value = (part.strip() for part in text.partition("="))
    match = _NUMBER.fullmatch(value)
    if not (name and equals and match) or not math.isfinite(float(match[1])):
        raise InputError(
            f"{option} {text!r} cannot be read",
            expected="organ.quantity=number, finite, with or without a unit after it, such as kidneys.volume=300mL",
            remedy="correct the quantity; tdt simulate --show-parameters lists the names",
            kind="input.quantity",
        )
    return name, float(match[1]), (match[2] or "").strip()


def _converted(name: str, value: float, unit: str, wanted: str) -> float:
    """A value in the unit of its quantity. Raises UnitError for an unknown unit or one of something else."""
    return value * conversion(unit, wanted, name) if unit else value


def _lesion(text: str) -> tuple[str, float, list[str]]:
    """`id=volume[,quantity=number...]` as id, volume in mL and the further items."""
    first, *more = (part.strip() for part in text.split(","))
    identity, volume, unit = _quantity(first, "--lesion")
    identity = identity.removeprefix("lesion/")
    if not _ID.fullmatch(identity):
        raise InputError(
            f"a lesion is named {identity!r}",
            expected="letters, digits, dots, hyphens and underscores, at most 64",
            kind="input.lesion",
        )
    volume_ml = _converted(f"volume of lesion {identity}", volume, unit, "mL")
    if volume_ml <= 0:
        raise InputError(f"lesion {identity} has {volume_ml:g} mL", expected="a volume above 0 mL", kind="input.lesion")
    return identity, volume_ml, more


def virtual_patient(
    name: str,
    settings: Sequence[str] = (),
    lesions: Sequence[str] = (),
    without: Sequence[str] = (),
    options: Mapping[str, str | None] | None = None,
    patient: str | None = None,
    segmented: Mapping[str, float] | None = None,
) -> Virtual:
    """The model of the command line.

    Parameters
    ----------
    name : packaged model. settings : `organ.quantity=number[unit]`. lesions : `id=volume_ml[,quantity=number[unit]...]`.
    without : organs to leave out. options : those of `PBRPK` by name; None as the patient's model has them.
    patient : `typical`, calibrated to clinical levels, by default where there is a population of the model; or `reference`, the
        model's own numbers.
    segmented : further lesions, volume in L by id.

    Raises
    ------
    InputError : kinds of `tdt_core.kinetics.rules`, `input.quantity`, `input.lesion`; UnitError.
    """
    read = [_lesion(text) for text in lesions]
    names = [identity for identity, _, _ in read]
    doubled = sorted({n for n in names if names.count(n) > 1})
    if doubled:
        raise InputError(f"lesion {', '.join(doubled)} is given twice", expected="each lesion once", kind="input.lesion")
    with as_input():
        people = _people(name, patient)
        model = pbrpk(name) if people is None else people.model
        if without:
            model = model.without(*without)
        model = model.with_options(**(options or {}))  # type: ignore[arg-type]
        volumes = {i: ml / 1000.0 for i, ml, _ in read} | dict(segmented or {})
        model = model.with_lesions({i: {"volume": litres} for i, litres in volumes.items()})
        given: dict[str, float] = {}
        items = [(s, "--set", "") for s in settings]
        items += [(s, "--lesion", f"lesion/{identity}.") for identity, _, more in read for s in more]
        first = {f"lesion/{identity}.volume" for identity in names}
        for text, option, scope in items:
            written, value, unit = _quantity(text, option)
            owner = "" if scope else owner_of(written)
            table = model.with_ligand(owner).table if owner else model.table
            own = table.resolve(scope + (written.partition("/")[2] if owner else written))
            full = f"{owner}/{own}" if owner else own
            if full in given or full in first:
                raise InputError(
                    f"{full} is given twice",
                    expected="one value",
                    remedy="leave one out; the volume of a lesion comes first, --lesion L1=12.5mL",
                    kind="input.quantity",
                )
            given[full] = _converted(full, value, unit, table[own].unit)
        virtual = Virtual(model, given, people)
        model.quantities(virtual.shared_values)
    return virtual


def _people(name: str, patient: str | None) -> Population | None:
    """Whose typical patient it is. Raises InputError `input.patient`, and what `population` refuses."""
    if patient not in (None, TYPICAL, REFERENCE):
        raise InputError(f"the patient {patient!r}", expected=f"{TYPICAL} or {REFERENCE}", kind="input.patient")
    wanted = has_population(name) if patient is None else patient == TYPICAL
    return population(name) if wanted else None


def administration(
    *,
    product: str | None = None,
    ligand: str | None = None,
    nuclide: str | None = None,
    activity_mbq: float | None = None,
    amount_nmol: float | None = None,
    time_h: float = 0.0,
    duration_h: float = 0.0,
    residual_mbq: float = 0.0,
) -> Administration:
    """One administration; a product fills in what is not given. Raises InputError `input.schedule` naming what is missing."""
    name = product or "of the command line"
    nuclide = None if nuclide is None else normalise_name(nuclide)
    if product is not None:
        table = _products()
        if product not in table:
            raise InputError(
                f"no product named {product!r}",
                expected=f"one of {', '.join(table)}",
                remedy="correct the name, or give ligand, nuclide, activity and ligand amount",
                kind="input.product",
            )
        known = table[product]
        for word, value, own in (("ligand", ligand, known.ligand), ("nuclide", nuclide, known.nuclide)):
            if value not in (None, own):
                raise InputError(
                    f"product {product} with the {word} {value}", expected=own, remedy=f"leave the {word} out, or the product",
                    kind="input.product",
                )  # fmt: skip
        ligand, nuclide = known.ligand, known.nuclide
        activity_mbq = known.standard_activity_mbq if activity_mbq is None else activity_mbq
        amount_nmol = known.standard_amount_nmol if amount_nmol is None else amount_nmol
    cold = nuclide is None and activity_mbq == 0
    nuclide = "" if cold else nuclide
    needed = {"ligand": ligand, "nuclide": nuclide, "activity_mbq": activity_mbq, "amount_nmol": amount_nmol}
    missing = [word for word, value in needed.items() if value is None]
    if missing:
        raise InputError(
            f"an administration without {', '.join(missing)}",
            expected="a product, or ligand, nuclide, activity_mbq and amount_nmol; cold ligand: activity_mbq 0, no nuclide",
            remedy="name a product, or give what is missing",
            kind="input.schedule",
        )
    if not (math.isfinite(duration_h) and duration_h >= 0):
        raise InputError(
            f"an administration lasts {duration_h:g} h",
            expected="0 for a bolus, or the hours of the infusion",
            kind="input.schedule",
        )
    return Administration(
        time_h, name, str(ligand), str(nuclide), float(activity_mbq or 0.0), amount_nmol, duration_h, residual_mbq
    )


def _products() -> dict[str, Product]:
    """The site's products where its settings name some, else the packaged ones."""
    path = load_settings().products
    return products(None if path is None else read_rows(read_text(path)))


def read_schedule(path: Path) -> tuple[Administration, ...]:
    """Administrations from a CSV with columns of `SCHEDULE_COLUMNS`; those that a row does not need may be empty or absent.

    Raises
    ------
    InputError : `input.schedule`, naming the line; what `Administration` refuses.
    """
    if not path.is_file():
        raise InputError(f"no schedule {path}", expected="a CSV file", remedy="correct its name", kind="input.schedule")
    lines = [x for x in read_text(path).splitlines() if x.strip() and not x.startswith("#")]
    rows = csv.DictReader(lines)
    header = [str(c).strip() for c in rows.fieldnames or ()]
    wrong = [c for c in header if c not in SCHEDULE_COLUMNS]
    if wrong or "time_h" not in header or len(set(header)) != len(header):
        raise InputError(
            f"the schedule has the columns {', '.join(header) or 'none'}",
            expected=f"time_h and others of {', '.join(SCHEDULE_COLUMNS[1:])}, each once",
            remedy="correct the first line; columns name their unit, so a number has none",
            kind="input.schedule",
        )
    rows.fieldnames = header
    given = []
    for n, row in enumerate(rows, start=1):
        cells = {str(k): (v or "").strip() for k, v in row.items() if k is not None and isinstance(v, str)}
        if None in row or not cells.get("time_h"):
            raise InputError(
                f"administration {n} of the schedule has no time_h, or more cells than there are columns",
                expected=f"{len(header)} cells, hours in time_h",
                kind="input.schedule",
            )
        values: dict[str, Any] = {k: v for k, v in cells.items() if v}
        for column in _NUMBERS:
            if column in values:
                values[column] = _cell(n, column, values[column])
        try:
            given.append(administration(**values))
        except InputError as error:
            raise InputError(
                f"administration {n} of the schedule: {error.found}",
                expected=error.expected,
                remedy=error.remedy,
                kind=error.kind,
            ) from None
    return tuple(given)


def _cell(n: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(
            f"administration {n} of the schedule has {column} = {text!r}",
            expected="a finite number without a unit",
            kind="input.schedule",
        )
    return value


def read_times(text: str) -> tuple[float, ...]:
    """`1,4,24` as hours, rising."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = [math.nan]
    if not all(map(math.isfinite, found)):
        raise InputError(f"--times {text!r} cannot be read", expected="hours with commas between them", kind="input.time")
    return tuple(sorted(set(found)))
