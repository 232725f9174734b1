"""Exponential curves of one, two or three phases per region, with the physical-decay bound built in.

    monoexponential   a(t) / A = u V e^(-ls t) e^(-lp t)
    biexponential     a(t) / A = u V [ e^(-ls t) - e^(-lu t) ] e^(-lp t)
    triexponential    a(t) / A = u V [ (1 - s) e^(-lf t) + s e^(-ls t) - e^(-lu t) ] e^(-lp t)

u = uptake per mL, V = region volume, s = amplitude of the slow phase. s < 1 is an early washout; s > 1 turns the middle phase
into a second, slower uptake, as in a kidney that goes on taking up while the blood clears. Biological rates are ordered and
positive by construction, ls = ln2/T_slow, lf = ls + ln2/T_fast, and lu = lf (two phases: ls) + ln2/T_uptake, so that for any
parameters activity is never negative and in the end falls no slower than physical decay; with two or three phases it starts at
zero. Regions are independent but for the prior. These are the curves of a bolus; an infusion is the mean of boluses over its
duration, in closed form. The population sum of exponentials is the third form under population priors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tdt_core.errors import ModelError
from tdt_core.kinetics.ladder import Covariates, register
from tdt_core.kinetics.ligands import family
from tdt_core.nuclides import nuclide
from tdt_core.parameters import Parameter, ParameterTable, packaged_csv, packaged_table
from tdt_core.twin import Administration, Region

FloatArray = npt.NDArray[np.float64]

UPTAKE, SLOW, FAST, AMPLITUDE, RISE = "uptake_per_ml", "slow_half_time", "fast_half_time", "slow_amplitude", "uptake_half_time"
QUANTITIES: Mapping[int, tuple[str, ...]] = {
    1: (UPTAKE, SLOW),
    2: (UPTAKE, SLOW, RISE),
    3: (UPTAKE, SLOW, FAST, AMPLITUDE, RISE),
}
"""Parameters of one region by number of phases, in the order of theta."""
LN2 = float(np.log(2.0))


@dataclass(frozen=True)
class Exponentials:
    """A rung of `phases` exponentials per region; region-major order of parameters.

    `wide` takes weakly informative priors around the population's medians instead of the population's own spread.
    """

    ligand: str
    regions: tuple[Region, ...]
    phases: int = 3
    wide: bool = True
    name: str = "triexponential"

    def __post_init__(self) -> None:
        if self.phases not in QUANTITIES:
            raise ModelError(f"{self.phases} exponential phases", expected="1, 2 or 3", kind="model.phases")

    @property
    def quantities(self) -> tuple[str, ...]:
        """Parameters of one region."""
        return QUANTITIES[self.phases]

    @property
    def background(self) -> ParameterTable:
        """Nothing: all of its numbers are estimated."""
        return ParameterTable([])

    @cached_property
    def parameters(self) -> ParameterTable:
        """Medians and spreads of every region, named `region.quantity`."""
        rows = {(r["ligand"], r["organ"], r["quantity"]): r for r in packaged_csv("kinetics_sum_of_exponentials.csv")}
        ligand_family = family(self.ligand)
        borrowed = "" if ligand_family == self.ligand else f" (values of {ligand_family} used for {self.ligand})"
        table = []
        for region in self.regions:
            organ = region.organ if (ligand_family, region.organ, UPTAKE) in rows else "other"
            for quantity in self.quantities:
                row = rows[ligand_family, organ, quantity]
                p = Parameter(
                    name=f"{region.name}.{quantity}",
                    value=float(row["value"]),
                    unit=row["unit"],
                    status="assumed" if borrowed else row["status"],  # type: ignore[arg-type]
                    source=row["source"] + borrowed,
                    distribution=row["distribution"],  # type: ignore[arg-type]
                    sd=float(row["sd"]),
                )
                table.append(self._widened(p, quantity, rows[ligand_family, organ, AMPLITUDE]) if self.wide else p)
        return ParameterTable(table)

    def _widened(self, p: Parameter, quantity: str, amplitude: Mapping[str, str]) -> Parameter:
        """A population row as weakly informative prior. Without a fast phase the uptake is that of the slow phase alone."""
        late = quantity == UPTAKE and AMPLITUDE not in self.quantities
        value = p.value * (float(amplitude["value"]) if late else 1.0)
        extra = packaged_table("kinetics_exponential.csv").value(f"extra_sd.{quantity}")
        sd = float(np.sqrt(p.sd**2 + extra**2 + (float(amplitude["sd"]) ** 2 if late else 0.0)))
        what = "uptake times slow amplitude" if late else "median"
        source = f"{what} of the population ({p.source}); sd widened by {extra:g} in ln: kinetics_exponential.csv"
        return Parameter(p.name, value, p.unit, "assumed", source, p.distribution, sd)

    @cached_property
    def _volumes(self) -> FloatArray:
        volumes = np.array([r.volume_ml for r in self.regions])
        if not (volumes > 0).all():
            empty = [r.name for r in self.regions if r.volume_ml <= 0]
            raise ModelError(f"regions without volume: {empty}", expected="volume_ml > 0", kind="model.regions")
        return volumes

    @property
    def separable(self) -> tuple[Region, ...]:
        """See `Separable`: all regions."""
        return self.regions

    def of_regions(self, regions: Sequence[Region]) -> Exponentials:
        """See `Separable`."""
        return replace(self, regions=tuple(regions))

    def exponentials(self, theta: FloatArray, administration: Administration) -> tuple[FloatArray, FloatArray]:
        """Amplitudes (m, regions, phases) in MBq and rates (m, regions, phases) in 1/h, physical decay included.

        With two or three phases the amplitudes sum to zero; the last one is the (negative) uptake phase.
        """
        p = np.atleast_2d(theta).reshape(-1, len(self.regions), len(self.quantities))
        scale = administration.net_activity_mbq * np.exp(p[..., 0]) * self._volumes
        slow = LN2 * np.exp(-p[..., 1])
        one = np.ones_like(slow)
        if self.phases == 1:
            rates, amplitudes = [slow], [one]
        elif self.phases == 2:
            rates, amplitudes = [slow, slow + LN2 * np.exp(-p[..., 2])], [one, -one]
        else:
            fast, share = slow + LN2 * np.exp(-p[..., 2]), np.exp(p[..., 3])
            rates, amplitudes = [fast, slow, fast + LN2 * np.exp(-p[..., 4])], [1.0 - share, share, -one]
        decay = nuclide(administration.nuclide).decay_constant_per_h
        return np.stack(amplitudes, axis=-1) * scale[..., None], np.stack(rates, axis=-1) + decay

    def activity(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        """See `KineticModel.activity`."""
        amplitudes, rates = self.exponentials(theta, administration)
        return np.asarray(np.einsum("mrk,mrkt->mrt", amplitudes, infused(rates, administration, times_h)))

    def time_integrated_activity(self, theta: FloatArray, administration: Administration) -> FloatArray:
        """See `KineticModel.time_integrated_activity`; the sum of amplitude / rate, less what decays before it is infused."""
        amplitudes, rates = self.exponentials(theta, administration)
        x = nuclide(administration.nuclide).decay_constant_per_h * administration.duration_h
        entered = -np.expm1(-x) / x if x > 0 else 1.0
        return np.asarray((amplitudes / rates).sum(axis=-1) * entered)

    def log_jacobian(self, theta: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
        """See `KineticModel.log_jacobian`; analytic."""
        n_regions, n_quantities = len(self.regions), len(self.quantities)
        theta = np.asarray(theta, dtype=float)
        p = theta.reshape(-1, n_regions, n_quantities)
        amplitudes, rates = self.exponentials(p, administration)
        e = infused(rates, administration, times_h)  # (m, regions, phases, t)
        de = infused_slope(rates, administration, times_h)
        total = np.einsum("mrk,mrkt->mrt", amplitudes, e)
        jacobian = np.zeros((*total.shape, n_regions, n_quantities))
        own = np.einsum("mrtrq->mrtq", jacobian)  # a view: only a region's own parameters move it
        own[..., 0] = 1.0
        for q, d in self._rate_derivatives(p).items():
            own[..., q] = np.einsum("mrk,mrk,mrkt->mrt", amplitudes, d, de) / total
        if self.phases == 3:
            own[..., 3] = amplitudes[:, :, 1, None] * (e[:, :, 1] - e[:, :, 0]) / total
        return jacobian.reshape(*theta.shape[:-1], *total.shape[1:], theta.shape[-1])

    def _rate_derivatives(self, p: FloatArray) -> dict[int, FloatArray]:
        """Position of a half-time T -> (m, regions, phases) d rate / d ln T: faster rates contain the slower ones."""
        step = {i: -LN2 * np.exp(-p[..., i]) for i, q in enumerate(self.quantities) if q in (SLOW, FAST, RISE)}
        slow = step[1]
        zero = np.zeros_like(slow)
        if self.phases == 1:
            contained = {1: [slow]}
        elif self.phases == 2:
            contained = {1: [slow, slow], 2: [zero, step[2]]}
        else:
            contained = {1: [slow, slow, slow], 2: [step[2], zero, step[2]], 4: [zero, zero, step[4]]}
        return {i: np.stack(parts, axis=-1) for i, parts in contained.items()}


def infused(rates: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
    """exp(-rate t), averaged over the boluses that an infusion is: (..., phases) rates -> (..., phases, times).

    With r = b + lp (biological and physical rate) and an infusion from 0 to T of a product that decays in the vial,

        e^(-lp t) (e^(-b max(t - T, 0)) - e^(-b t)) / (b T)      and e^(-r t) where T = 0.
    """
    t, length = np.asarray(times_h, dtype=float), administration.duration_h
    if length <= 0:
        return np.asarray(np.exp(-rates[..., None] * t))
    decay = nuclide(administration.nuclide).decay_constant_per_h
    b, since = (rates - decay)[..., None], np.maximum(t - length, 0.0)
    return np.asarray(-np.exp(-b * since - decay * t) * np.expm1(-b * (t - since)) / (b * length))


def infused_slope(rates: FloatArray, administration: Administration, times_h: FloatArray) -> FloatArray:
    """d `infused` / d rate, same shapes."""
    t, length = np.asarray(times_h, dtype=float), administration.duration_h
    mean = infused(rates, administration, times_h)
    if length <= 0:
        return -t * mean
    decay = nuclide(administration.nuclide).decay_constant_per_h
    b, since = (rates - decay)[..., None], np.maximum(t - length, 0.0)
    early, late = np.exp(-b * t - decay * t), np.exp(-b * since - decay * t)
    return np.asarray((t * early - since * late) / (b * length) - mean / b)


def _monoexponential(ligand: str, regions: Sequence[Region], covariates: Covariates) -> Exponentials:
    return Exponentials(ligand, tuple(regions), 1, True, "monoexponential")


def _biexponential(ligand: str, regions: Sequence[Region], covariates: Covariates) -> Exponentials:
    return Exponentials(ligand, tuple(regions), 2, True, "biexponential")


def _triexponential(ligand: str, regions: Sequence[Region], covariates: Covariates) -> Exponentials:
    return Exponentials(ligand, tuple(regions), 3, True, "triexponential")


register("monoexponential", _monoexponential)
register("biexponential", _biexponential)
register("triexponential", _triexponential)
