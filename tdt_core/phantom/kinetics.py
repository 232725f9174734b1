"""The generator's own pharmacokinetics: a saturable whole-body system that is richer than any model that fits it.

Amounts in nmol of total ligand, decay-free; time in h. Plasma C exchanges with a fast and a slow pool, a skeletal marrow
pool and the liver (which empties through the bowel); each kidney filters into a lumen from which ligand is reabsorbed
unspecifically (R) or bound by receptors (B), internalised (N) and released; every receptor tissue has interstitium I,
surface-bound B and internalised N:

    dI/dt = T V (c - I/v) - k_on I/v (R0 - B) + k_off B - k_u I + rho k_rel N
    dB/dt = k_on I/v (R0 - B) - k_off B - k_int B
    dN/dt = k_int B + k_u I - k_rel N

with c = C / plasma volume. All tissues compete for the same ligand. Equations are this project's, in the form of the public
whole-body models (interstitium, bound, internalised); rates and volumes in `data/phantom_kinetics_*.csv`.
With equal kinetics of hot and cold ligand the activity of any nuclide is A0 exp(-lambda t) x amount / injected amount.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.integrate import solve_ivp

from tdt_core.errors import ModelError

FloatArray = npt.NDArray[np.float64]

PLASMA, FAST, SLOW, MARROW, LIVER, GUT, URINE, FAECES = range(8)
N_BODY = 8
LUMEN, REABSORBED, KIDNEY_BOUND, KIDNEY_INSIDE = range(4)


@dataclass(frozen=True, eq=False)
class SystemParameters:
    """One patient's system in one cycle. Per-tissue arrays follow `tissues`, per-kidney arrays follow `kidneys`.

    Volumes in L, receptor amounts in nmol, rates in 1/h, clearances and transports in L/h.
    """

    values: Mapping[str, float]
    plasma_l: float
    filtration_l_h: float
    kidneys: tuple[str, ...]
    kidney_share: FloatArray
    kidney_receptors: FloatArray
    lumen_l: FloatArray
    reabsorption: FloatArray
    reabsorbed_release: FloatArray
    kidney_release: FloatArray
    tissues: tuple[str, ...]
    transport_l_h: FloatArray
    interstitial_l: FloatArray
    receptors: FloatArray
    unspecific: FloatArray
    release: FloatArray

    @property
    def n_states(self) -> int:
        """8 body pools, 4 per kidney, 3 per tissue."""
        return N_BODY + 4 * len(self.kidneys) + 3 * len(self.tissues)

    def kidney_state(self, i: int, pool: int) -> int:
        """Index of a kidney's pool."""
        return N_BODY + pool * len(self.kidneys) + i

    def tissue_state(self, i: int, pool: int) -> int:
        """Index of a tissue's interstitial (0), bound (1) or internalised (2) pool."""
        return N_BODY + 4 * len(self.kidneys) + pool * len(self.tissues) + i


def rate_of_change(p: SystemParameters, y: FloatArray) -> FloatArray:
    """dy/dt of all pools, nmol/h. The sum is zero: ligand only moves."""
    v = p.values
    nk, nt = len(p.kidneys), len(p.tissues)
    kid = y[N_BODY : N_BODY + 4 * nk].reshape(4, nk)
    tis = y[N_BODY + 4 * nk :].reshape(3, nt)
    k_on = v["ligand.association"]
    k_off = k_on * v["ligand.dissociation_constant"]
    k_int, rho = v["receptor.internalisation"], v["receptor.recycled_share"]
    c = y[PLASMA] / p.plasma_l

    to_fast = v["plasma.to_fast"] * y[PLASMA] - v["plasma.from_fast"] * y[FAST]
    to_slow = v["plasma.to_slow"] * y[PLASMA] - v["plasma.from_slow"] * y[SLOW]
    to_marrow = v["marrow.uptake"] * y[PLASMA] - v["marrow.release"] * y[MARROW]
    to_liver = v["liver.clearance"] * c - v["liver.to_plasma"] * y[LIVER]
    bile, stool = v["liver.to_bile"] * y[LIVER], v["gut.transit"] * y[GUT]

    filtered = p.filtration_l_h * c * p.kidney_share
    drained = v["kidney.tubular_transit"] * kid[LUMEN]
    taken = p.reabsorption * kid[LUMEN]
    bound_k = k_on * kid[LUMEN] / p.lumen_l * (p.kidney_receptors - kid[KIDNEY_BOUND]) - k_off * kid[KIDNEY_BOUND]
    inside_k = k_int * kid[KIDNEY_BOUND]
    freed_r, freed_n = p.reabsorbed_release * kid[REABSORBED], p.kidney_release * kid[KIDNEY_INSIDE]
    freed_k = (freed_r + freed_n).sum()

    crossed = p.transport_l_h * (c - tis[0] / p.interstitial_l)
    bound_t = k_on * tis[0] / p.interstitial_l * (p.receptors - tis[1]) - k_off * tis[1]
    unspecific, inside_t, freed_t = p.unspecific * tis[0], k_int * tis[1], p.release * tis[2]

    d = np.empty_like(y)
    urine_share = v["kidney.urine_share"]
    d[PLASMA] = -to_fast - to_slow - to_marrow - to_liver - filtered.sum() - crossed.sum() + (1 - urine_share) * freed_k
    d[FAST], d[SLOW], d[MARROW] = to_fast, to_slow, to_marrow
    d[LIVER], d[GUT], d[FAECES] = to_liver - bile, bile - stool, stool
    d[URINE] = drained.sum() + urine_share * freed_k + (1 - rho) * freed_t.sum()
    dk = d[N_BODY : N_BODY + 4 * nk].reshape(4, nk)
    dk[LUMEN] = filtered - drained - taken - bound_k
    dk[REABSORBED] = taken - freed_r
    dk[KIDNEY_BOUND], dk[KIDNEY_INSIDE] = bound_k - inside_k, inside_k - freed_n
    dt = d[N_BODY + 4 * nk :].reshape(3, nt)
    dt[0] = crossed - bound_t - unspecific + rho * freed_t
    dt[1], dt[2] = bound_t - inside_t, inside_t + unspecific - freed_t
    return d


@dataclass(frozen=True, eq=False)
class Course:
    """Amounts over time after one administration: `times_h` (t,) from the injection, `amounts` (t, n_states) in nmol, and
    `bladder` (t,) the part of the urine that still is in the bladder."""

    times_h: FloatArray
    amounts: FloatArray
    bladder: FloatArray
    amount_nmol: float

    @property
    def excreted(self) -> FloatArray:
        """(t,) nmol that left the body."""
        return self.amounts[:, URINE] - self.bladder + self.amounts[:, FAECES]


def time_grid(horizon_h: float, voids_h: FloatArray) -> FloatArray:
    """Times from 0 to the horizon: dense early, and both sides of every void."""
    inside = voids_h[(voids_h > 0.01) & (voids_h < horizon_h)]
    base = np.concatenate([[0.0], np.geomspace(2e-3, horizon_h, 420)])
    return np.unique(np.concatenate([base, inside, inside + 1e-6]))


def bladder_content(times_h: FloatArray, urine: FloatArray, voids_h: FloatArray, residual: float) -> FloatArray:
    """(t,) urine still in the bladder when every void leaves the share `residual` behind."""
    at_void = np.interp(voids_h, times_h, urine)
    left = np.zeros(voids_h.size + 1)
    for j in range(voids_h.size):
        before = at_void[j] - (at_void[j - 1] if j else 0.0) + left[j]
        left[j + 1] = residual * before
    n_voids = np.searchsorted(voids_h, times_h - 5e-7)
    since = np.concatenate([[0.0], at_void])[n_voids]
    return np.maximum(urine - since + left[n_voids], 0.0)


def simulate(p: SystemParameters, amount_nmol: float, horizon_h: float, first_void_h: float) -> Course:
    """Solve the system after a bolus of `amount_nmol` (the infusion is minutes long, the first scan hours later).

    Raises ModelError when the solver fails or loses ligand.
    """
    interval = p.values["bladder.void_interval"]
    voids = np.arange(first_void_h, horizon_h, interval)
    times = time_grid(horizon_h, voids)
    y0 = np.zeros(p.n_states)
    y0[PLASMA] = amount_nmol
    solution = solve_ivp(
        lambda _t, y: rate_of_change(p, y),
        (0.0, horizon_h),
        y0,
        method="LSODA",
        t_eval=times,
        rtol=1e-7,
        atol=1e-9 * amount_nmol,
    )
    amounts = np.maximum(solution.y.T, 0.0) if solution.success else np.full((1, 1), np.nan)
    total = amounts.sum(axis=1)
    if not (solution.success and np.allclose(total, amount_nmol, rtol=1e-5)):
        raise ModelError(
            f"the generator's kinetics failed: {solution.message}, ligand kept to {abs(total / amount_nmol - 1).max():.1e}",
            remedy="report the seed",
            kind="model.phantom",
        )
    bladder = bladder_content(times, amounts[:, URINE], voids, p.values["bladder.residual_share"])
    return Course(times, amounts, bladder, amount_nmol)
