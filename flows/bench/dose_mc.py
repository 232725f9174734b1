"""The Monte Carlo part of `tdt bench dose`: speed in water, and one patient to a stated statistical uncertainty.

`mc.decays_per_second_per_core`: Lu-177 spread evenly over water, 64 cubed voxels of 4 mm, one thread, per second of processor
time, so that other work on the machine does not count; compilation and tables, once per machine and process, are left out.

`mc.patient_seconds`: wall time on all cores of a pilot, which plans the number of decays, and of the run that brings the
statistical SD of every voxel of tumours and kidneys to the wanted share of its dose. The SD is the scatter of 100 blocks of
decays, itself known to 7 %: the largest of several thousand stated ones lies a quarter above the true one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tdt_core.dosimetry.engines.mc import decays_for, monte_carlo_dose
from tdt_core.dosimetry.montecarlo.run import threads_or_all

if TYPE_CHECKING:
    from flows.bench.dose import Patient

NUCLIDE = "Lu-177"
TARGETS = ("kidney_left", "kidney_right", "lesion_1", "lesion_2")
PILOT_BLOCKS, BLOCKS = 25, 100
WATER_VOXELS, WATER_MM = 64, 4.0


def figures(
    patient: Patient,
    tia_mbq_h: npt.NDArray[np.float32],
    kernel_dose_gy: npt.NDArray[np.float32],
    *,
    relative_sd: float,
    pilot: int,
    speed: int,
    seed: int,
) -> dict[str, Any]:
    """Named figures; `pilot` and `speed` are decays."""
    per_second = decays_per_second(speed, seed)
    where = np.logical_or.reduce([patient.regions[name] for name in TARGETS])
    setting = (tia_mbq_h, patient.spacing_mm, NUCLIDE, patient.density, patient.material)
    monte_carlo_dose(*setting, decays=200, seed=seed)  # tables of this voxel size
    begun = time.perf_counter()
    first = monte_carlo_dose(*setting, decays=pilot, blocks=PILOT_BLOCKS, seed=seed)
    decays = decays_for(first, where, relative_sd, BLOCKS)
    found = monte_carlo_dose(*setting, decays=max(decays, BLOCKS), blocks=BLOCKS, seed=seed + 1)
    seconds = time.perf_counter() - begun
    sd = found.sd_gy[where] / found.dose_gy[where]
    kidney = patient.regions[TARGETS[0]]
    return {
        "mc.decays_per_second_per_core": per_second,
        "mc.patient_seconds": seconds,
        "mc.patient_threads": threads_or_all(None),
        "mc.patient_decays": found.decays,
        "mc.patient_voxels": int(where.sum()),
        "mc.patient_relative_sd_median": float(np.median(sd)),
        "mc.patient_relative_sd_max": float(sd.max()),
        "mc.kidney_over_kernel": float(found.dose_gy[kidney].mean() / kernel_dose_gy[kidney].mean()),
    }


def decays_per_second(decays: int, seed: int) -> float:
    """Decays of Lu-177 in water per second of one core."""
    tia = np.ones((WATER_VOXELS,) * 3)
    spacing = (WATER_MM,) * 3
    monte_carlo_dose(tia, spacing, NUCLIDE, decays=200, seed=seed)  # compiled, tables made
    begun = time.process_time()
    found = monte_carlo_dose(tia, spacing, NUCLIDE, decays=decays, seed=seed, threads=1)
    return found.decays / (time.process_time() - begun)


def describe(found: Mapping[str, Any]) -> list[str]:
    """Lines for the terminal."""
    decays, seconds = found["mc.patient_decays"], found["mc.patient_seconds"]
    return [
        f"  Monte Carlo, Lu-177 in water, 4 mm voxels: {found['mc.decays_per_second_per_core']:.3g} decays per second and core",
        f"  Monte Carlo, this patient with its media, {found['mc.patient_threads']} threads: {seconds:.0f} s, "
        f"{decays:.3g} decays; SD of the {found['mc.patient_voxels']} voxels of tumours and kidneys "
        f"{found['mc.patient_relative_sd_median']:.1%} (median), {found['mc.patient_relative_sd_max']:.1%} (largest); "
        f"kidney {found['mc.kidney_over_kernel']:.3f} of the kernel's dose",
    ]
