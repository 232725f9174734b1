"""Derivatives of the whole-body model against differences of tight solves, and what follows from laws."""

import numpy as np
import pytest

from tdt_core.errors import ModelError
from tdt_core.kinetics.pbrpk import pbrpk
from tdt_core.kinetics.sensitivity import fisher_information, sensitivities
from tdt_core.kinetics.simulation import simulate_batch
from tdt_core.twin import Administration

MODEL = pbrpk("psma_reference")
NAMES = [
    "kidneys.R_density", "salivary_glands.R_density", "tumour_rest.R0", "ligand.k_on", "ligand.k_off", "body.weight",
    "kidneys.TER", "tumour_2.volume", "kidneys.lambda_rel", "tumour_1.lambda_int", "kidneys.phi", "muscle.kPS",
]  # fmt: skip
ONE = (Administration(0.0, "p", "PSMA-617", "Lu-177", 7400.0, amount_nmol=110.0),)
FRESH_VIALS = (*ONE, Administration(30.0, "p", "PSMA-617", "Lu-177", 3700.0, amount_nmol=60.0, duration_h=0.5))
TIMES = [1.0, 4.0, 24.0, 72.0]


@pytest.mark.parametrize("schedule", [ONE, FRESH_VIALS], ids=["hot fraction", "carried label"])
def test_derivatives_agree_with_central_differences_of_tight_solves(schedule: tuple[Administration, ...]) -> None:
    got = sensitivities(MODEL, {}, NAMES, schedule, TIMES, rtol=1e-9)
    values = MODEL.quantities({})
    step = 1e-4
    for name in NAMES:
        base = float(values[MODEL.resolve(name)])
        pair = simulate_batch(MODEL, {name: base * np.exp(step * np.array([1.0, -1.0]))}, schedule, TIMES, rtol=1e-11)
        for quantity, slope in (("activity_mbq", "activity_slope"), ("tia_mbq_h", "tia_slope")):
            difference = (pair[quantity][0] - pair[quantity][1]) / (2 * step)
            # relative to the slope, or to 1 % of the quantity where it hardly answers; 0.01 MBq is far below what is seen
            scale = np.abs(difference) + 0.01 * np.abs(pair[quantity][0]) + 0.01
            worst = float((np.abs(got[slope].sel(parameter=name) - difference) / scale).max())
            assert worst < 1e-5, (name, quantity)


def test_scaling_amounts_and_receptors_together_leaves_fractions_alone() -> None:
    """d/d ln of all receptor amounts - d/d ln k_on, at amounts scaled alike, is the derivative of the amount law."""
    receptors = [f"{o}.R_density" for o in ("tumour_1", "tumour_2", "salivary_glands", "kidneys")] + [
        f"{o}.R0" for o in ("tumour_rest",)
    ]
    # liver, spleen, prostate and GI follow tumour_rest's density by rules; give them, so that each stands for itself
    own = {f"{o}.R_density": float(MODEL.quantities({})[f"{o}.R_density"]) for o in ("liver", "spleen", "prostate", "gi")}
    held = {**own, "tumour_rest.volume": float(MODEL.quantities({})["tumour_rest.volume"])}
    names = [*receptors, *own, "ligand.k_on"]
    data = sensitivities(MODEL, held, names, ONE, TIMES, rtol=1e-9)
    step = 1e-4
    more, less = (
        simulate_batch(
            MODEL, held, (Administration(0.0, "p", "PSMA-617", "Lu-177", 7400.0, amount_nmol=110.0 * f),), TIMES, rtol=1e-11
        )
        for f in (np.exp(step), np.exp(-step))
    )
    by_amount = (more["tia_mbq_h"][0] - less["tia_mbq_h"][0]) / (2 * step)
    by_rest = data["tia_slope"].sum("parameter") - 2 * data["tia_slope"].sel(parameter="ligand.k_on")
    assert np.abs(by_amount + by_rest).max() < 1e-4 * np.abs(data["tia_mbq_h"]).max()


def test_a_parameter_that_nothing_follows_from_has_no_effect() -> None:
    data = sensitivities(MODEL, {}, ["brain.interstitial_volume"], ONE, TIMES)
    assert np.abs(data["tia_slope"]).max() == 0.0


def test_information_adds_over_scans_and_a_parameter_seen_nowhere_has_none() -> None:
    data = sensitivities(MODEL, {}, ["kidneys.R_density", "salivary_glands.R_density"], ONE, TIMES)
    sd = np.full((1, len(TIMES)), 0.1)
    whole = fisher_information(data, "Lu-177", ["kidneys"], sd)
    parts = sum(
        fisher_information(data, "Lu-177", ["kidneys"], np.where(np.arange(len(TIMES)) == i, 0.1, np.inf)[None])
        for i in range(len(TIMES))
    )
    assert np.allclose(whole, parts)
    assert whole[0, 0] > 100 * whole[1, 1]
    assert np.linalg.eigvalsh(whole).min() > -1e-9


def test_a_quantity_of_zero_or_an_unknown_one_is_refused() -> None:
    with pytest.raises(ModelError) as zero:
        sensitivities(MODEL, {}, ["brain.kPS"], ONE, TIMES)
    assert "0" in str(zero.value)
    with pytest.raises(ModelError):
        sensitivities(MODEL, {}, ["kidneys.R_densty"], ONE, TIMES)
