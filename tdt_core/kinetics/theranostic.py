"""From a patient fitted to one ligand's images to predictions of another ligand: the theranostic pair.

Physiology and receptors are the patient's and carry over draw by draw. What is the ligand's (quantities of the scope `ligand`:
association, affinity, internalisation) does not: the treating ligand has its own rows of `pbrpk_ligands.csv`, drawn from their
spreads. A ligand that was imaged itself keeps what was fitted, and nothing is added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from tdt_core.errors import InputError
from tdt_core.kinetics.ladder import to_natural
from tdt_core.kinetics.pbrpk import PBRPK
from tdt_core.kinetics.simulation import simulate_batch
from tdt_core.parameters import ParameterTable
from tdt_core.twin import Administration

FloatArray = npt.NDArray[np.float64]
OWN = "ligand."


def transfer(
    model: PBRPK,
    draws: Mapping[str, FloatArray],
    imaged: str,
    schedule: Sequence[Administration],
    times_h: Sequence[float] | FloatArray = (),
    *,
    seed: int,
    spread: float = 1.0,
    end_h: float | None = None,
    rtol: float = 1e-5,
) -> xr.Dataset:
    """Predicted draws of a schedule.

    Parameters
    ----------
    model : the patient's, as it was fitted.
    draws : quantity -> (m,) posterior draws of the fit, with those of the imaged ligand's own quantities if it had any.
    imaged : ligand of the images.
    schedule : what is to be predicted, in general of another ligand of the same receptor.
    spread : factor on the spreads of the treating ligand's own quantities.

    Returns
    -------
    Dataset of `simulate_batch` over m members, and `transfer_sd_log` (label, region): the sd that the treating ligand's own
    quantities alone put on ln of the time-integrated activity; 0 for the imaged ligand. Attribute `drawn` names them.

    Raises
    ------
    InputError `input.parameters` without draws, or of different lengths; ModelError as `simulate_batch` and `with_ligand`.
    """
    arrays = {name: np.asarray(values, dtype=float) for name, values in draws.items()}
    sizes = {a.shape for a in arrays.values()}
    if len(sizes) != 1 or len(next(iter(sizes))) != 1:
        raise InputError(
            f"draws of shapes {', '.join(map(str, sizes)) or 'none'}",
            expected="one number for each draw of each quantity",
            kind="input.parameters",
        )
    m = next(iter(sizes))[0]
    shared = {name: a for name, a in arrays.items() if not model.resolve(name).startswith(OWN)}
    fitted = {name: a for name, a in arrays.items() if name not in shared}
    ligands = tuple(dict.fromkeys(a.ligand for a in schedule))
    rng = np.random.default_rng(seed)
    typical, varied, drawn = dict(shared), dict(shared), []
    for ligand in ligands:
        front = f"{ligand}/" if len(ligands) > 1 else ""
        if ligand == imaged:
            middle, other = fitted, fitted
        else:
            own = _own(model.with_ligand(ligand))
            middle = {name: np.full(m, p.value) for name, p in own.items()}
            centre = np.array([p.unconstrained for p in own.values()])
            sd = np.array([p.sd for p in own.values()])
            natural = to_natural(own, centre + spread * sd * rng.standard_normal((m, len(own))))
            other = {name: natural[:, i] for i, name in enumerate(own)}
            drawn += [f"{ligand}/{name}" for name in own]
        typical |= {front + name: values for name, values in middle.items()}
        varied |= {front + name: values for name, values in other.items()}
    body = model if len(ligands) > 1 or ligands[0] == imaged else model.with_ligand(ligands[0])
    data = simulate_batch(body, varied, schedule, times_h, end_h=end_h, rtol=rtol)
    if drawn:
        base = simulate_batch(body, typical, schedule, times_h, end_h=end_h, rtol=rtol)
        with np.errstate(divide="ignore", invalid="ignore"):
            moved = xr.DataArray(np.log(data["tia_mbq_h"] / base["tia_mbq_h"]))
        data["transfer_sd_log"] = moved.std("member", ddof=min(1, m - 1))
    else:
        data["transfer_sd_log"] = xr.zeros_like(data["tia_mbq_h"].isel(member=0, drop=True))
    data["transfer_sd_log"].attrs = {"units": "1"}
    return data.assign_attrs(imaged=imaged, drawn=drawn)


def _own(model: PBRPK) -> ParameterTable:
    """A ligand's own quantities that have a spread."""
    table = model.parameters
    return ParameterTable([p for n, p in table.items() if n.startswith(OWN) and p.distribution != "fixed" and p.sd > 0])
