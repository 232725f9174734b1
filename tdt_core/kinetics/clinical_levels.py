"""What cohorts of patients report, computed for virtual patients, and the fit of a population to it.

Absorbed doses are self doses by electrons: the organ's own time-integrated activity over its mass. Excretion is all ligand that
left the body: urine, and what cells let go where released ligand is lost. Both half-lives of blood are of all ligand in serum,
corrected for decay. What amino acids spare the kidneys compares each patient under them with the same one without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import xarray as xr

from tdt_core.dosimetry.units import JOULE_PER_MBQ_H_KEV
from tdt_core.errors import EstimationError, ModelError
from tdt_core.kinetics.pbrpk import PBRPK, SINK, VENOUS
from tdt_core.kinetics.population import OWN, Population
from tdt_core.kinetics.schedules import amount_nmol
from tdt_core.kinetics.simulation import simulate_batch
from tdt_core.nuclides import nuclide
from tdt_core.parameters import packaged_csv
from tdt_core.twin import Administration

FloatArray = npt.NDArray[np.float64]

TABLES: Mapping[str, str] = {"psma": "psma617", "sstr": "sstr"}
"""Model -> its published figures: `clinical_levels_<this>.csv` and `clinical_trends_<this>.csv`."""

MBQ_PER_GBQ = 1000.0

ORGANS: Mapping[str, tuple[str, ...]] = {
    "kidneys": ("kidney_left", "kidney_right"),
    "parotid": ("parotid_left", "parotid_right"),
    "lacrimal": ("lacrimal_left", "lacrimal_right"),
    "glands": ("parotid_left", "parotid_right", "submandibular_left", "submandibular_right"),
    "red_marrow": ("red_marrow",),
    "liver": ("liver",),
    "spleen": ("spleen",),
    "pituitary": ("pituitary",),
    "tumour": ("tumour_rest",),
}
"""Reported organ -> regions of the model."""

SINGLE = "kidney_left"
"""The kidney that patients with a single one lack."""

REUPTAKE = "ligand.reuptake"
EXCRETED = "excreted_"

SD_FACTOR = 1.5
"""By how much a simulated SD between patients may differ from a published one."""

SD_MARGIN = 1.3
"""A fitted SD stays within this factor of the published one, so that it is inside SD_FACTOR on other draws too."""


@dataclass(frozen=True)
class Level:
    """One published figure; `sd` between patients is None where it was not published."""

    row: str
    unit: str
    cohort: str
    n: int | None
    mean: float
    sd: float | None
    status: str
    use: str
    source: str

    @property
    def judges(self) -> bool:
        """Whether a population is judged by it: it was read where it was published, with its spread."""
        return self.status == "verified" and self.sd is not None

    def holds(self, mean: float) -> bool | None:
        """Whether a mean lies within one SD of the cohort's; None where this line does not judge."""
        return abs(mean - self.mean) <= self.sd if self.judges and self.sd is not None else None

    def sd_ratio(self, sd: float) -> float | None:
        """A simulated SD over the cohort's."""
        return None if self.sd is None else sd / self.sd


def _table(kind: str, model: str) -> tuple[dict[str, str], ...]:
    if model not in TABLES:
        raise ModelError(f"no clinical {kind} for {model!r}", expected=f"one of {', '.join(TABLES)}", kind="model.name")
    return packaged_csv(f"clinical_{kind}_{TABLES[model]}.csv")


@cache
def levels(model: str = "psma") -> tuple[Level, ...]:
    """All published figures that a model is compared with, in the order of the table. Raises ModelError `model.name`."""
    return tuple(
        Level(
            r["row"],
            r["unit"],
            r["cohort"],
            int(r["n"]) if r["n"] else None,
            float(r["mean"]),
            float(r["sd"]) if r["sd"] else None,
            r["status"],
            r["use"],
            r["source"],
        )
        for r in _table("levels", model)
    )


def target(row: str, model: str = "psma") -> tuple[float, float | None]:
    """Mean and SD that a row is fitted to.

    The mean is that of the verified cohorts, weighted by their patients; the SD has the coefficient of variation of those that
    published one, weighted likewise, and is not below the smallest published SD over SD_MARGIN. A row without a verified cohort
    is fitted to the second-hand ones, of equal weight where their patients are not known.
    """
    lines = [v for v in levels(model) if v.row == row]
    verified = [v for v in lines if v.status == "verified" and v.n]
    cohorts = [(v.mean, v.sd, v.n or 1) for v in verified or lines]
    mean = sum(m * n for m, _, n in cohorts) / sum(n for _, _, n in cohorts)
    spread = [(sd, m, n) for m, sd, n in cohorts if sd is not None]
    if not spread:
        return mean, None
    variation = sum(n * sd / m for sd, m, n in spread) / sum(n for _, _, n in spread)
    return mean, max(variation * mean, min(sd for sd, _, _ in spread) / SD_MARGIN)


def outcomes(
    people: Population,
    drawn: Mapping[str, FloatArray],
    *,
    model: PBRPK | None = None,
    administration: Administration | None = None,
    rtol: float = 1e-4,
) -> dict[str, FloatArray]:
    """Rows of the clinical levels for each virtual patient, (m,) each, in the units of the table.

    `model` is the variant that the draws are for. Raises EstimationError where the solver gave up on someone.
    """
    model = model or people.model
    given = administration or people.administration()
    shared = people.settings
    late, early = ([shared.value(f"{OWN}.{end}_{side}") for side in ("from", "to")] for end in ("late", "early"))
    excretion = _hours_of_excretion(people.model.name)
    data = _solved(model, drawn, given, sorted({*late, *early, *excretion}), rtol)
    doses, tias = _organs(model, drawn, data, given)
    ligand = data["amount_nmol"].sel(label="total")
    out = {f"{organ}.dose": dose for organ, dose in doses.items()}
    out |= {f"{organ}.tiac": tia for organ, tia in tias.items()}
    for hours in excretion:
        out[f"{EXCRETED}{hours:g}h"] = 100.0 * ligand.sel(region=SINK, time_h=hours).to_numpy() / amount_nmol(given)
    if REUPTAKE in drawn:
        plain = {**drawn, REUPTAKE: np.ones_like(drawn[REUPTAKE])}
        without = _organs(model, plain, _solved(model, plain, given, [late[1]], rtol), given)[0]
        out["kidneys.spared"] = 100.0 * (1.0 - doses["kidneys"] / without["kidneys"])
    blood = ligand.sel(region=VENOUS)

    def at(hours: float) -> FloatArray:
        return np.asarray(blood.sel(time_h=hours).to_numpy())

    rate = np.log(at(late[0]) / at(late[1])) / (late[1] - late[0])

    def beyond(hours: float) -> FloatArray:
        return at(hours) - at(late[0]) * np.exp(-rate * (hours - late[0]))

    out["blood.late_half_life"] = np.log(2.0) / rate
    out["blood.early_half_life"] = np.log(2.0) * (early[1] - early[0]) / np.log(beyond(early[0]) / beyond(early[1]))
    return out


def _hours_of_excretion(model: str) -> list[float]:
    """Hours after the administration at which excretion is told: those that were published, and 4, 12 and 24 h."""
    rows = (v.row for v in levels(model) if v.row.startswith(EXCRETED))
    return sorted({4.0, 12.0, 24.0, *(float(r.removeprefix(EXCRETED).removesuffix("h")) for r in rows)})


def _solved(
    model: PBRPK, drawn: Mapping[str, FloatArray], given: Administration, times: list[float], rtol: float
) -> xr.Dataset:
    data = simulate_batch(model, drawn, [given], times, rtol=rtol)
    if bool(data["failed"].any()):
        raise EstimationError(
            f"the solver gave up on {int(data['failed'].sum())} virtual patients",
            remedy="look for extreme parameters",
            kind="model.solver",
        )
    return data


def _organs(
    model: PBRPK, drawn: Mapping[str, FloatArray], data: xr.Dataset, given: Administration
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Self doses (Gy/GBq) and time-integrated activity coefficients (h) of the organs that the model has."""
    values = model.quantities(drawn)
    per_kg = JOULE_PER_MBQ_H_KEV * nuclide(given.nuclide).electron_energy_kev * MBQ_PER_GBQ  # Gy kg / GBq, of each h
    doses, tias = {}, {}
    for organ, regions in ORGANS.items():
        there = [r for r in regions if r in model.regions]
        if there:
            tia = data["tia_mbq_h"].sel(label="total", region=there).sum("region").to_numpy() / given.net_activity_mbq
            mass = sum((values[f"{r}.volume"] for r in there), np.zeros(())) * values["body.density"]
            tias[organ], doses[organ] = np.asarray(tia), np.asarray(per_kg * tia / mass)
    return doses, tias


def cohort(people: Population, m: int, seed: int = 0) -> dict[str, FloatArray]:
    """All rows of the clinical levels for m virtual patients; where a row asks, also for the same with a single kidney."""
    out = outcomes(people, people.draw(m, seed))
    if any(level.row == "single_kidney.dose" for level in levels(people.model.name)):
        single = people.model.without(SINGLE)
        out["single_kidney.dose"] = outcomes(people, people.draw(m, seed, single), model=single)["kidneys.dose"]
    return out


def falling(model: str = "psma") -> dict[str, tuple[str, ...]]:
    """Trend -> rows that fall along it in patients."""
    return {step["trend"]: tuple(step["falls"].split()) for step in _table("trends", model)}


def trends(people: Population, m: int, seed: int = 0) -> dict[str, dict[float, dict[str, FloatArray]]]:
    """Trend -> step -> row -> (m,) self doses of the same m virtual patients at each published step."""
    drawn = people.draw(m, seed)
    out: dict[str, dict[float, dict[str, FloatArray]]] = {}
    for step in _table("trends", people.model.name):
        value = float(step["value"])
        if step["trend"] == "tumour_load":
            found = outcomes(people, {**drawn, "tumour_rest.volume": np.full(m, value)})
        else:
            found = outcomes(people, drawn, administration=people.administration(amount_nmol=value))
        out.setdefault(step["trend"], {})[value] = {r: v for r, v in found.items() if r.endswith(".dose")}
    return out


def calibrate(people: Population, m: int = 1000, seed: int = 0, tolerance: float = 2e-3, rounds: int = 12) -> Population:
    """The population with the medians and sds that its column `calibrated_to` names fitted to the clinical levels.

    Newton's method on the logarithms of means and SDs, for the same m draws throughout; as many rows as parameters.

    Raises
    ------
    EstimationError `estimation.calibration` where the levels are not met to `tolerance` (relative) in `rounds` steps.
    """
    free = [(name, what, row) for name, fits in people.calibrated.items() for what, row in fits.items()]

    def candidate(x: FloatArray) -> Population:
        medians = {n: _median(people, n, v) for (n, what, _), v in zip(free, x, strict=True) if what == "median"}
        sds = {n: float(np.exp(v)) for (n, what, _), v in zip(free, x, strict=True) if what == "sd"}
        return people.changed(medians, sds)

    def misfit(x: FloatArray) -> FloatArray:
        tried = candidate(x)
        found = outcomes(tried, tried.draw(m, seed))
        name = people.model.name
        return np.array([np.log(_STATISTIC[what](found[row]) / _wanted(row, what, name)) for _, what, row in free])

    x = np.array([_start(people, name, what) for name, what, _ in free])
    step = 0.02
    for _ in range(rounds):
        base = misfit(x)
        if np.abs(base).max() < tolerance:
            return candidate(x)
        slopes = np.column_stack([(misfit(x + step * e) - base) / step for e in np.eye(len(x))])
        x = x - np.clip(np.linalg.solve(slopes, base), -0.7, 0.7)
    raise EstimationError(
        "the population does not meet the clinical levels: "
        + ", ".join(f"{what} of {row} off by {100 * np.expm1(b):.1f} %" for (_, what, row), b in zip(free, base, strict=True)),
        expected=f"all within {100 * tolerance:g} %",
        remedy="fit other parameters, or drop a row",
        kind="estimation.calibration",
    )


_STATISTIC: Mapping[str, Callable[[FloatArray], float]] = {
    "median": lambda values: float(values.mean()),  # a median moves the mean
    "sd": lambda values: float(values.std(ddof=1)),
}


def _wanted(row: str, what: str, model: str) -> float:
    mean, sd = target(row, model)
    value = mean if what == "median" else sd
    if value is None:
        raise EstimationError(f"no SD of {row} was published", remedy="do not fit it", kind="estimation.calibration")
    return value


def _start(people: Population, name: str, what: str) -> float:
    p = people.table.parameters[name]
    if what == "sd":
        return float(np.log(p.sd))
    return p.unconstrained if p.distribution == "logitnormal" else float(np.log(p.value))


def _median(people: Population, name: str, x: float) -> float:
    logit = people.table.parameters[name].distribution == "logitnormal"
    return float(1.0 / (1.0 + np.exp(-x)) if logit else np.exp(x))


__all__ = ["ORGANS", "SD_FACTOR", "Level", "calibrate", "cohort", "falling", "levels", "outcomes", "target", "trends"]
