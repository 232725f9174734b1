"""All physics as plain arrays, in the form that compiled transport reads: index first by medium, then by energy."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from tdt_core.dosimetry.montecarlo import elastic, photons, radiative, stopping
from tdt_core.dosimetry.montecarlo.composition import Medium, media, medium
from tdt_core.dosimetry.montecarlo.grid import LOWEST_KEV, cumulative, energies_kev
from tdt_core.dosimetry.units import FloatArray

ENERGY_STEP = 0.08
"""Largest share of its energy that an electron loses in one step."""

K_STEP = 0.3
"""Largest path of one step in first transport mean free paths."""


CUTS_KEV = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
_CUT_RANGE = 0.01


def cut_for(spacing_mm: tuple[float, float, float]) -> float:
    """Cut for freed electrons: the highest that has a range in water of 1 % of the shortest edge or less."""
    energy = energies_kev()
    ranges = cumulative(1.0 / _total_loss_of_water(), energy)
    allowed = np.interp(_CUT_RANGE * min(spacing_mm) / 10.0, ranges, energy)
    return max([cut for cut in CUTS_KEV if cut <= allowed], default=CUTS_KEV[0])


LOSS, HARD, RADIATIVE, PER_LOSS, STRAGGLING, STEP, CSDA, THICK, ETA, FIRST, SCREENING = range(11)
MU, PHOTO, INCOHERENT, COHERENT = range(11, 15)
COLUMNS = 16
"""Columns of `Tables.rows`; all that is needed at one energy lies side by side in memory.

LOSS restricted stopping power, keV cm2/g: collisions below the cut and soft bremsstrahlung. HARD mean number of hard events of
an electron that slows down from E to the lowest energy. RADIATIVE share of bremsstrahlung among them. PER_LOSS first transport
mean free paths, and STRAGGLING variance of the loss in keV2, per keV of restricted loss. STEP longest step, keV of restricted
loss. CSDA range with all losses, g/cm2. THICK photons that an electron makes until it stops. ETA position among the
nodes of the screening parameter, FIRST mean of 1 - cos in one collision, SCREENING the parameter itself. MU all interactions of
photons, cm2/g; PHOTO, INCOHERENT, COHERENT shares of them up to and with each.
"""


class Tables(NamedTuple):
    """Tables of m media on the energy grid (n,).

    Attributes
    ----------
    rows : (m, n, COLUMNS).
    gs_a, gs_t : quantiles of multiple scattering, see `elastic`.
    thin_k, thick_k : (n, quantiles) photon energies, see `radiative`.
    x2, form : (m, points) form factors; `binding` (m, 2) x0 and power of the scattering function.
    cut_kev : energy above which a freed electron is tracked.
    """

    rows: FloatArray
    gs_a: FloatArray
    gs_t: FloatArray
    thin_k: FloatArray
    thick_k: FloatArray
    x2: FloatArray
    form: FloatArray
    binding: FloatArray
    cut_kev: float


@cache
def tables(cut_kev: float, energy_step: float = ENERGY_STEP, k_step: float = K_STEP) -> Tables:
    """Tables of all media for one cut; made once per process."""
    gs_a, gs_t = elastic.quantile_table()
    photon = [photons.photon_table(m.name) for m in media()]
    return Tables(
        rows=np.stack([_rows(m, p, cut_kev, energy_step, k_step) for m, p in zip(media(), photon, strict=True)]),
        gs_a=gs_a,
        gs_t=gs_t,
        thin_k=radiative.thin_quantiles(),
        thick_k=_thick()[1],
        x2=np.stack([p.x2 for p in photon]),
        form=np.stack([p.form for p in photon]),
        binding=np.array([[p.x0, p.power] for p in photon]),
        cut_kev=cut_kev,
    )


def _rows(m: Medium, p: photons.PhotonTable, cut_kev: float, energy_step: float, k_step: float) -> FloatArray:
    """(n, COLUMNS) of one medium."""
    energy, made, z2 = energies_kev(), radiative.shape(), radiative.scale(m)
    out = np.zeros((energy.size, COLUMNS))
    loss = stopping.collision_kev_cm2_g(m, energy, cut_kev) + made.soft * z2
    total = stopping.collision_kev_cm2_g(m, energy) + made.total * z2
    moller, photon = stopping.moller_cm2_g(m, energy, cut_kev), made.number * z2
    events = moller + photon
    # freed electrons above 1 keV turn the primary; below the cut they do so within multiple scattering
    soft = stopping.moller_transport_cm2_g(m, energy, cut_kev, LOWEST_KEV)
    eta = elastic.screening(m, energy)
    out[:, LOSS] = loss
    out[:, HARD] = cumulative(events / loss, energy)
    out[:, RADIATIVE] = np.divide(photon, events, out=np.zeros_like(events), where=events > 0)
    out[:, PER_LOSS] = (elastic.transport_cm2_g(m, energy) + soft) / loss
    out[:, STRAGGLING] = stopping.straggling_kev2_cm2_g(m, energy, cut_kev, LOWEST_KEV) / loss
    out[:, STEP] = np.minimum(energy_step * energy, k_step / out[:, PER_LOSS])
    out[:, CSDA] = cumulative(1.0 / total, energy) + energy[0] / total[0] / 2.0
    out[:, THICK] = _thick()[0] * z2 / radiative.scale(medium("water")) * _total_loss_of_water() / total
    out[:, ETA] = np.clip(np.log(eta / elastic.ETA_LOWEST) / np.log(elastic.ETA_RATIO), 0.0, elastic.ETA_NODES - 1.001)
    out[:, FIRST] = elastic.first_moment(eta)
    out[:, SCREENING] = eta
    out[:, MU] = p.photo + p.incoherent + p.coherent + p.pair
    out[:, PHOTO] = p.photo / out[:, MU]
    out[:, INCOHERENT] = (p.photo + p.incoherent) / out[:, MU]
    out[:, COHERENT] = (p.photo + p.incoherent + p.coherent) / out[:, MU]
    return out


@cache
def _thick() -> tuple[FloatArray, FloatArray]:
    return radiative.thick_target(_total_loss_of_water().tobytes())


@cache
def _total_loss_of_water() -> FloatArray:
    """Stopping power of water with all losses, keV cm2/g."""
    water, energy = medium("water"), energies_kev()
    return stopping.collision_kev_cm2_g(water, energy) + radiative.shape().total * radiative.scale(water)
