"""How activity and its time integral answer to parameters: exact derivatives of the solver's steps.

The chain rule has two parts: coefficients from parameters by complex step (rules are analytic, so exact to rounding), amounts
from coefficients along with the solution (`rosenbrock.solve`, one direction per member).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import xarray as xr

from tdt_core.errors import EstimationError, ModelError
from tdt_core.kinetics.rosenbrock import Solution, solve
from tdt_core.kinetics.simulation import OdeModel, Run, dataset, plan, with_decay
from tdt_core.twin import Administration

FloatArray = npt.NDArray[np.float64]

COMPLEX_STEP = 1e-30


@runtime_checkable
class ParametricModel(OdeModel, Protocol):
    """A model whose coefficients follow from named quantities by analytic rules."""

    def quantities(self, overrides: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """Every named quantity, (m,) each."""

    def resolve(self, name: str) -> str:
        """Full name of a quantity."""


def sensitivities(
    model: ParametricModel,
    parameters: Mapping[str, float] | None,
    names: Sequence[str],
    schedule: Sequence[Administration],
    times_h: Sequence[float] | FloatArray,
    *,
    end_h: float | None = None,
    rtol: float = 1e-6,
) -> xr.Dataset:
    """Derivatives of one patient's activities with respect to the logarithms of parameters.

    Parameters
    ----------
    names : parameters, p of them; values other than the model's own stand in `parameters`. See `simulate` for the rest.

    Returns
    -------
    Dataset of `simulate_batch` without `member`, and over `parameter`: `amount_slope` (nmol), `activity_slope` (MBq) and
    `tia_slope` (MBq h), each d / d ln parameter.

    Raises
    ------
    ModelError : an unknown parameter, or one whose value is 0 (it has no logarithm). EstimationError : the solver gave up.
    """
    given = dict(parameters or {})
    run = plan(model, schedule, times_h, end_h, rtol, by_part=False)
    base, directions = log_directions(run, given, names)
    found = solve(run.tables, np.repeat(base, max(len(names), 1), axis=0), run.course, rtol, run.scale_nmol, directions)
    if found.failed.any():
        raise EstimationError(
            "the solver could not follow the model", remedy="look for extreme parameters", kind="model.solver"
        )
    slopes = Solution(found.amounts_slope, found.integrals_slope, found.amounts, found.integrals, found.failed, found.steps)
    data = dataset(run, found).isel(member=0, drop=True)
    turned = dataset(run, slopes).rename(member="parameter").assign_coords(parameter=list(names))
    renamed = {str(name): f"{str(name).rpartition('_')[0]}_slope" for name in turned.data_vars}
    renamed["tia_mbq_h"] = "tia_slope"
    return xr.merge([data, turned.rename(renamed)], combine_attrs="override").assign_attrs(rtol=rtol)


def log_directions(run: Run, given: Mapping[str, Any], names: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    """(1, c) coefficients and (p, c) their derivatives with respect to ln parameter."""
    body = run.model
    assert isinstance(body, ParametricModel)
    values = body.quantities(given)
    base = run.network.gather(with_decay(body.coefficients(given), run.labels))
    rows = np.zeros((len(names), base.shape[1]))
    for i, name in enumerate(names):
        full = body.resolve(name)
        if full not in values:
            raise ModelError(
                f"{name} differs between the ligands of the schedule",
                expected="a parameter of one ligand, or one that all share",
                remedy=f"write the ligand in front: {run.schedule[0].ligand}/{full}",
                kind="model.sensitivity",
            )
        value = float(np.real(values[full]))
        if value == 0.0:
            raise ModelError(
                f"{name} is 0", expected="a value that has a logarithm", remedy="leave it out", kind="model.sensitivity"
            )
        stepped = body.coefficients({**given, name: np.array([value * (1 + 1j * COMPLEX_STEP)])})
        rows[i] = run.network.gather(with_decay(stepped, run.labels))[0].imag / COMPLEX_STEP
    return np.asarray(base.real), rows


def fisher_information(data: xr.Dataset, label: str, regions: Sequence[str], sd_log: FloatArray) -> FloatArray:
    """(p, p) information on ln parameters in ln activities of some regions at the times of `data`.

    sd_log : (regions, times) standard deviation of each ln activity; infinite where nothing is measured.
    """
    chosen = data.sel(label=label, region=list(regions))
    slope = chosen["activity_slope"].transpose("parameter", "region", "time_h").to_numpy()
    relative = slope / chosen["activity_mbq"].transpose("region", "time_h").to_numpy()
    weighted = (relative / np.asarray(sd_log)).reshape(len(slope), -1)
    return np.asarray(weighted @ weighted.T)
