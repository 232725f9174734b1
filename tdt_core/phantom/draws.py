"""Drawing a patient's numbers from tables that state median, spread between patients, within a patient and between cycles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from tdt_core.parameters import Parameter, packaged_csv

STREAMS = {"body": 1, "kinetics": 2, "walk": 3, "anatomy": 4, "texture": 5, "calibration": 6, "schedule": 7, "image": 8}
STREAMS |= {"contour": 9, "labs": 10, "motion": 11, "lesions": 12}


def stream(seed: int, name: str, *member: int) -> np.random.Generator:
    """Random generator of one purpose: `default_rng([seed, purpose, member...])`, so that no draw shifts another."""
    return np.random.default_rng([seed, STREAMS[name], *member])


@dataclass(frozen=True)
class Row:
    """A parameter with its spread within a patient and its step between cycles (log space)."""

    parameter: Parameter
    sd_within: float
    walk_sd: float


@cache
def rows(table: str) -> Mapping[str, Row]:
    """A packaged generator table by name."""
    return {
        r["name"]: Row(
            Parameter(
                name=r["name"],
                value=float(r["value"]),
                unit=r["unit"],
                status=r["status"],  # type: ignore[arg-type]
                source=r["source"],
                distribution=r["distribution"],  # type: ignore[arg-type]
                sd=float(r["sd"]),
            ),
            float(r.get("sd_within") or 0.0),
            float(r.get("walk_sd") or 0.0),
        )
        for r in packaged_csv(table)
    }


def draw(table: str, rng: np.random.Generator, spread: float = 1.0) -> dict[str, float]:
    """One patient's value of every row; `spread` 0 gives the medians. The order of the table fixes the stream."""
    out: dict[str, float] = {}
    for name, row in rows(table).items():
        z = float(rng.standard_normal()) * spread
        p = row.parameter
        if p.distribution == "lognormal":
            out[name] = p.value * float(np.exp(p.sd * z))
        elif p.distribution == "normal":
            out[name] = p.value + p.sd * z
        else:
            out[name] = p.value
    return out


def within(table: str, name: str, rng: np.random.Generator, instances: Sequence[str], spread: float = 1.0) -> dict[str, float]:
    """Log-normal factors that tell the sides or lesions of one patient apart; one per instance, median 1."""
    sd = rows(table)[name].sd_within * spread
    return {i: float(np.exp(sd * rng.standard_normal())) for i in instances}


def walk(table: str, rng: np.random.Generator, spread: float = 1.0) -> dict[str, float]:
    """Log-normal factors of one step from cycle to cycle, median 1; 1 for rows that do not drift."""
    return {name: float(np.exp(row.walk_sd * spread * rng.standard_normal())) for name, row in rows(table).items()}
