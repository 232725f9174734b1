"""All physics as plain arrays, in the form that compiled transport reads: index first by medium, then by energy."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from tdt_core.dosimetry.montecarlo import elastic, photons, radiative, stopping
from tdt_core.dosimetry.montecarlo.composition import media
from tdt_core.dosimetry.montecarlo.grid import LOWEST_KEV, cumulative, energies_kev
from tdt_core.dosimetry.units import FloatArray

ENERGY_STEP = 0.08
"""Largest share of its energy that an electron loses in one step."""

K_STEP = 0.3
"""Largest path of one step in first transport mean free paths."""


CUTS_KEV = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
_CUT_RANGE = 0.01


def cut_for(spacing_mm: tuple[float, float, float]) -> float:
    """Energy above which freed electrons are tracked: the highest of `CUTS_KEV` with a range in water of 1 % of the shortest edge."""
    energy = energies_kev()
    ranges = cumulative(1.0 / _total_loss_of_water(), energy)
    allowed = np.interp(_CUT_RANGE * min(spacing_mm) / 10.0, ranges, energy)
    return max([cut for cut in CUTS_KEV if cut <= allowed], default=CUTS_KEV[0])


class Tables(NamedTuple):
    """Tables on the energy grid (n,) of each of m media; every `_m` quantity is per gram.

    Attributes
    ----------
    loss : (m, n) restricted stopping power, keV cm2/g: collisions below the cut and soft bremsstrahlung.
    hard : (m, n) mean number of hard events of an electron that slows down from E to the lowest energy.
    radiative_share : (m, n) share of bremsstrahlung among hard events.
    per_loss : (m, n) first transport mean free paths per keV of restricted loss.
    straggling : (m, n) variance of the loss per keV of restricted loss, keV.
    step : (m, n) longest step, keV of restricted loss.
    csda : (m, n) range with all losses, g/cm2.
    thick : (m, n) photons above the cut that an electron makes until it stops.
    eta : (m, n) position in the nodes of the screening parameter; `first` (m, n) mean of 1 - cos in one collision.
    screening : (m, n) screening parameter itself.
    gs_a, gs_t : quantiles of multiple scattering, see `elastic`.
    thin_k, thick_k : (n, quantiles) photon energies, see `radiative`.
    mu : (m, n) all interactions of photons, cm2/g; `photo`, `incoherent`, `coherent` (m, n) shares up to and with each.
    x2, form : (m, points) form factors; `x0`, `power` (m,) scattering function.
    cut_kev : energy above which a freed electron is tracked.
    """

    loss: FloatArray
    hard: FloatArray
    radiative_share: FloatArray
    per_loss: FloatArray
    straggling: FloatArray
    step: FloatArray
    csda: FloatArray
    thick: FloatArray
    eta: FloatArray
    first: FloatArray
    screening: FloatArray
    gs_a: FloatArray
    gs_t: FloatArray
    thin_k: FloatArray
    thick_k: FloatArray
    mu: FloatArray
    photo: FloatArray
    incoherent: FloatArray
    coherent: FloatArray
    x2: FloatArray
    form: FloatArray
    x0: FloatArray
    power: FloatArray
    cut_kev: float


@cache
def tables(cut_kev: float, energy_step: float = ENERGY_STEP, k_step: float = K_STEP) -> Tables:
    """Tables of all media for one cut; made once per process."""
    energy = energies_kev()
    made = radiative.shape()
    rows: dict[str, list[FloatArray]] = {name: [] for name in Tables._fields}
    thick, thick_k = radiative.thick_target(_total_loss_of_water().tobytes())
    water_scale = radiative.scale(media()[_water()])
    for m in media():
        z2 = radiative.scale(m)
        loss = stopping.collision_kev_cm2_g(m, energy, cut_kev) + made.soft * z2
        total = stopping.collision_kev_cm2_g(m, energy) + made.total * z2
        moller, photon = stopping.moller_cm2_g(m, energy, cut_kev), made.number * z2
        events = moller + photon
        # freed electrons above 1 keV turn the primary; below the cut they do so within multiple scattering
        soft = stopping.moller_transport_cm2_g(m, energy, cut_kev, LOWEST_KEV)
        transport = (elastic.transport_cm2_g(m, energy) + soft) / loss
        eta = elastic.screening(m, energy)
        rows["loss"].append(loss)
        rows["hard"].append(cumulative(events / loss, energy))
        rows["radiative_share"].append(np.divide(photon, events, out=np.zeros_like(events), where=events > 0))
        rows["per_loss"].append(transport)
        rows["straggling"].append(stopping.straggling_kev2_cm2_g(m, energy, cut_kev, LOWEST_KEV) / loss)
        rows["step"].append(np.minimum(energy_step * energy, k_step / transport))
        rows["csda"].append(cumulative(1.0 / total, energy) + energy[0] / total[0] / 2.0)
        rows["thick"].append(thick * z2 / water_scale * _total_loss_of_water() / total)
        rows["eta"].append(np.clip(np.log(eta / elastic.ETA_LOWEST) / np.log(elastic.ETA_RATIO), 0.0, elastic.ETA_NODES - 1.001))
        rows["first"].append(elastic.first_moment(eta))
        rows["screening"].append(eta)
        p = photons.photon_table(m.name)
        mu = p.photo + p.incoherent + p.coherent + p.pair
        rows["mu"].append(mu)
        rows["photo"].append(p.photo / mu)
        rows["incoherent"].append((p.photo + p.incoherent) / mu)
        rows["coherent"].append((p.photo + p.incoherent + p.coherent) / mu)
        rows["x2"].append(p.x2)
        rows["form"].append(p.form)
        rows["x0"].append(np.array(p.x0))
        rows["power"].append(np.array(p.power))
    stacked = {name: np.ascontiguousarray(np.stack(values)) for name, values in rows.items() if values}
    gs_a, gs_t = elastic.quantile_table()
    return Tables(
        **stacked,
        gs_a=gs_a,
        gs_t=gs_t,
        thin_k=radiative.thin_quantiles(),
        thick_k=thick_k,
        cut_kev=cut_kev,
    )


def _water() -> int:
    return [m.name for m in media()].index("water")


@cache
def _total_loss_of_water() -> FloatArray:
    water, energy = media()[_water()], energies_kev()
    return stopping.collision_kev_cm2_g(water, energy) + radiative.shape().total * radiative.scale(water)
