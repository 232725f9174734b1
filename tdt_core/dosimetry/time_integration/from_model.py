"""Curves of regions from a kinetic model's draws: the population's, or a patient's posterior."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Protocol

import numpy as np

from tdt_core.dosimetry.time_integration.curves import RegionalCurve
from tdt_core.dosimetry.units import FloatArray
from tdt_core.errors import ModelError
from tdt_core.twin import Administration, Region

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)
_EARLY = np.array([0.0, 0.01, 0.03, 0.1, 0.25, 0.5, 1.0])  # of the first scan's time: uptake is fast at first
_PANEL_H = 12.0


class CurveModel(Protocol):
    """What is needed of a kinetic model (`tdt_core.kinetics.KineticModel`)."""

    @property
    def regions(self) -> tuple[Region, ...]:
        """In the order of every output."""

    def activity(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        """(draws, regions, times) MBq."""

    def time_integrated_activity(self, theta: FloatArray, administration: Administration) -> FloatArray:
        """(draws, regions) MBq h."""


def model_curves(
    model: CurveModel, theta: FloatArray, administration: Administration, times_h: FloatArray, labels: Mapping[int, str]
) -> dict[int, RegionalCurve]:
    """label -> curve of its region over the draws theta (draws, parameters).

    The total is the model's own; what comes before the first scan and between the scans is integrated by Gauss-Legendre panels
    (finer near the administration), the tail is the rest. Raises ModelError for a region that the model lacks.
    """
    names = [r.name for r in model.regions]
    missing = sorted(set(labels.values()) - set(names))
    if missing:
        raise ModelError(f"no curve of {missing}", expected=f"some of {names}", kind="model.regions")
    times = np.asarray(times_h, dtype=np.float64)
    at = model.activity(theta, administration, times)
    before = _integral(model, theta, administration, times[0] * _EARLY)
    edges = [np.linspace(a, b, max(2, int(np.ceil((b - a) / _PANEL_H)) + 1)) for a, b in pairwise(times)]
    between = sum((_integral(model, theta, administration, e) for e in edges), np.zeros_like(before))
    after = np.maximum(model.time_integrated_activity(theta, administration) - before - between, 0.0)
    order = {label: names.index(name) for label, name in labels.items()}
    return {k: RegionalCurve(at[:, i], before[:, i], between[:, i], after[:, i]) for k, i in order.items()}


def _integral(model: CurveModel, theta: FloatArray, administration: Administration, edges: FloatArray) -> FloatArray:
    """(draws, regions) integral over panels between the edges."""
    half = np.diff(edges)[:, None] / 2
    nodes = (edges[:-1, None] + half + half * _NODES).ravel()
    return np.asarray(model.activity(theta, administration, nodes) @ (half * _WEIGHTS).ravel())
