"""SBML identifiers of what a model names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tdt_core.kinetics.network import Network
from tdt_core.kinetics.sbml.counts import counts_of
from tdt_core.kinetics.simulation import OdeModel
from tdt_core.twin import Administration

_RESERVED = {"time", "pi", "avogadro", "exponentiale", "infinity", "inf", "nan", "notanumber", "true", "false", "delay"}


class Identifiers(NamedTuple):
    """SBML identifiers of regions and coefficients by name, states by `label/region/part`, integrals by (label, region)."""

    regions: Mapping[str, str]
    states: Mapping[str, str]
    coefficients: Mapping[str, str]
    integrals: Mapping[tuple[str, str], str]


def identifiers(
    model: OdeModel, labels: Sequence[str] | None = None, schedule: Sequence[Administration] | None = None
) -> Identifiers:
    """What `export` calls everything for these arguments, so that a tool's inputs and outputs can be set and read by name."""
    if labels is None:
        counts = counts_of(model, None, schedule)
        return named(model, counts.network, counts.labels)
    return named(model, model.network(tuple(labels)), labels)


def named(model: OdeModel, network: Network, labels: Sequence[str]) -> Identifiers:
    """Identifiers of a model's regions, and of a network and its labels."""
    taken: set[str] = set()

    def table(names: Iterable[str]) -> dict[str, str]:
        return {name: identifier_of(name, taken) for name in names}

    return Identifiers(
        table(model.regions),
        table(s.name for s in network.states),
        table(network.coefficients),
        {(label, r): identifier_of(f"tia {label} {r}", taken) for label in labels for r in model.regions},
    )


def identifier_of(name: str, taken: set[str]) -> str:
    """A readable SId that is not taken yet, and is from now on."""
    text = re.sub(r"[^A-Za-z0-9]+", "_", name.replace(" / ", "_per_")).strip("_")
    text = text if text and not text[0].isdigit() else f"x_{text}"
    if text.lower() in _RESERVED:
        text += "_"
    out, n = text, 1
    while out in taken:
        n += 1
        out = f"{text}_{n}"
    taken.add(out)
    return out


def printable(text: str) -> str:
    """A text that XML can hold."""
    return "".join(c if c.isprintable() else "?" for c in text)
