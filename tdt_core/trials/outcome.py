"""What a cycle does to a virtual patient's organs: absorbed dose, BED, and per activity for the next cycle.

Doses are the electrons' of the nuclide, deposited where it decays: D = TIA E_e / m. Photons are left out of the truth and of
the outlook alike: a small part of the dose of an organ with uptake, a larger one of the marrow's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tdt_core.dosimetry.units import JOULE_PER_MBQ_H_KEV
from tdt_core.kinetics import KineticModel
from tdt_core.nuclides import nuclide
from tdt_core.planning.outlook import Tissue, effective_g, lea_catcheside_by_region, ledger_names, with_organs
from tdt_core.radiobiology import bed
from tdt_core.twin import Administration, Limit

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CycleDose:
    """Dose of one administration by ledger name (regions, then organs), per draw.

    names (k,); dose_gy (k, draws); g (k, draws) effective Lea-Catcheside factor, NaN where no limit is in BED.
    """

    names: tuple[str, ...]
    dose_gy: FloatArray
    g: FloatArray

    def of(self, name: str) -> FloatArray:
        """(draws,) absorbed dose of a region or organ, Gy."""
        return self.dose_gy[self.names.index(name)]

    def in_quantity(self, limit: Limit) -> FloatArray:
        """(draws,) dose of a limit's organ in the limit's quantity, Gy."""
        i = self.names.index(limit.organ)
        if limit.quantity == "AD":
            return self.dose_gy[i]
        assert limit.alpha_beta_gy is not None
        return bed(self.dose_gy[i], self.g[i], limit.alpha_beta_gy)


def tissues_of(limits: Sequence[Limit]) -> dict[str, Tissue]:
    """Dose-rate response of the organs whose limit is in BED."""
    return {
        x.organ: Tissue(float(x.alpha_beta_gy), float(x.repair_half_time_h), x.source, x.status)
        for x in limits
        if x.quantity == "BED" and x.alpha_beta_gy is not None and x.repair_half_time_h is not None
    }


def cycle_dose(rung: KineticModel, theta: FloatArray, given: Administration, tissues: Mapping[str, Tissue]) -> CycleDose:
    """Dose of an administration for (draws, n) parameters."""
    tia = rung.time_integrated_activity(theta, given).T  # (regions, draws), MBq h
    mass_kg = np.array([r.mass_g for r in rung.regions]) / 1000.0
    dose = tia * JOULE_PER_MBQ_H_KEV * nuclide(given.nuclide).electron_energy_kev / mass_kg[:, None]
    g = lea_catcheside_by_region(rung, theta, given, tissues)
    return CycleDose(ledger_names(rung.regions), with_organs(rung.regions, dose), effective_g(rung.regions, dose, g))
