"""The body of one patient and how it changes: covariates, organ sizes, kinetic parameters and their drift between cycles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tdt_core.phantom.draws import draw, rows, stream, walk, within
from tdt_core.phantom.kinetics import SystemParameters
from tdt_core.twin import Patient

BODY, DRIFT = "phantom_body.csv", "phantom_drift.csv"
KINETICS = {"PSMA-617": "phantom_kinetics_psma.csv", "DOTATATE": "phantom_kinetics_dotatate.csv"}
PAIRED = {
    "kidney": "kidney",
    "parotid": "parotid_glands",
    "submandibular": "submandibular_glands",
    "lacrimal": "lacrimal_glands",
}
SINGLE_TISSUES = ("spleen", "prostate_bed", "bowel")


def tissue_class(instance: str) -> str:
    """The kinetic class of a region: `parotid_left` -> `parotid_glands`, `lesion/L1` -> `lesions`."""
    if instance.startswith("lesion/"):
        return "lesions"
    return PAIRED.get(instance.rsplit("_", 1)[0], instance)


def ckd_epi_creatinine(egfr: float, age_y: float, sex: str) -> float:
    """Creatinine (mg/dL) at which CKD-EPI 2021 gives this eGFR (mL/min/1.73 m2): the formula is monotone, so bisect."""
    low, high = 0.05, 30.0
    for _ in range(80):
        mid = math.sqrt(low * high)
        low, high = (mid, high) if ckd_epi_egfr(mid, age_y, sex) > egfr else (low, mid)
    return math.sqrt(low * high)


def ckd_epi_egfr(creatinine_mg_dl: float, age_y: float, sex: str) -> float:
    """eGFR by CKD-EPI 2021 from creatinine (Inker, NEJM 2021;385:1737)."""
    k, a, factor = (0.7, -0.241, 1.012) if sex == "female" else (0.9, -0.302, 1.0)
    ratio = creatinine_mg_dl / k
    return 142.0 * min(ratio, 1.0) ** a * max(ratio, 1.0) ** -1.2 * 0.9938**age_y * factor


@dataclass(frozen=True)
class Body:
    """Covariates and sizes. `volumes_ml` holds every organ and lesion of cycle 1 by region name."""

    patient: Patient
    egfr: float
    bsa_m2: float
    plasma_l: float
    blood_l: float
    marrow_total_ml: float
    medulla_fraction: float
    volumes_ml: Mapping[str, float]


def draw_body(seed: int, sex: str = "male", n_lesions: int | None = None, variant: str = "standard") -> Body:
    """Draw a patient's body. `n_lesions` None draws three to six."""
    rng = stream(seed, "body")
    v = draw(BODY, rng)
    height = float(np.clip(v[f"{sex}.height"], 150, 195))
    bmi = float(np.clip(v[f"{sex}.bmi"], 19, 36))
    weight = bmi * (height / 100) ** 2
    age = float(np.clip(v[f"{sex}.age"], 40, 88))
    haematocrit = float(np.clip(v[f"{sex}.haematocrit"], 0.27, 0.48))
    bsa = math.sqrt(height * weight / 3600)
    volumes: dict[str, float] = {}
    for organ in PAIRED:
        sides = within(BODY, f"{organ}.volume", rng, [f"{organ}_left", f"{organ}_right"])
        volumes |= {side: v[f"{organ}.volume"] * f for side, f in sides.items()}
    volumes |= {o: v[f"{o}.volume"] for o in ("liver", "spleen", "prostate_bed", "bladder", "bowel")}
    if variant == "one_kidney":
        gone = "kidney_right" if rng.random() < 0.5 else "kidney_left"
        kept = "kidney_left" if gone == "kidney_right" else "kidney_right"
        del volumes[gone]
        volumes[kept] *= 1.3  # a single kidney grows: compensatory hypertrophy, assumed
    if sex == "female":
        del volumes["prostate_bed"]
    if variant == "no_spleen":
        del volumes["spleen"]
    count = int(rng.integers(3, 7)) if n_lesions is None else n_lesions
    median, sd = rows(BODY)["lesions.volume"].parameter.value, rows(BODY)["lesions.volume"].parameter.sd
    drawn = np.clip(median * np.exp(sd * rng.standard_normal(count)), 2.0, 60.0)
    volumes |= {f"lesion/L{i + 1}": float(x) for i, x in enumerate(drawn)}
    plasma = v["plasma.per_bsa"] * (1 - haematocrit) * bsa
    return Body(
        patient=Patient(
            f"PHANTOM-{seed:04d}", "female" if sex == "female" else "male", round(age, 1), round(height, 1), round(weight, 1),
            round(haematocrit, 3),
        ),
        egfr=float(np.clip(v[f"{sex}.egfr"], 48, 120)),
        bsa_m2=bsa,
        plasma_l=plasma,
        blood_l=plasma / (1 - haematocrit),
        marrow_total_ml=v["marrow.total_volume"],
        medulla_fraction=float(np.clip(v["kidney.medulla_fraction"], 0.2, 0.36)),
        volumes_ml=volumes,
    )  # fmt: skip


@dataclass(frozen=True)
class Physiology:
    """What the kinetics of one cycle rests on. `values` are patient-wide, `instance` factors belong to sides and lesions."""

    cycle: int
    ligand: str
    values: Mapping[str, float]
    instance: Mapping[tuple[str, str], float]
    volumes_ml: Mapping[str, float]
    egfr: float
    response: Mapping[str, float]

    def at(self, name: str, instance: str) -> float:
        """Value of a class parameter for one side or lesion."""
        return self.values[name] * self.instance.get((name, instance), 1.0)


def draw_physiology(seed: int, ligand: str, body: Body) -> Physiology:
    """Parameters of cycle 1 (and of the pre-therapy PET)."""
    table = KINETICS[ligand]
    rng = stream(seed, "kinetics")
    values = draw(table, rng)
    names = {
        "kidney": [n for n in body.volumes_ml if n.startswith("kidney_")],
        "lesions": [n for n in body.volumes_ml if n.startswith("lesion/")],
    }
    for organ in ("parotid", "submandibular", "lacrimal"):
        names[f"{organ}_glands"] = [n for n in body.volumes_ml if n.startswith(f"{organ}_")]
    factors: dict[tuple[str, str], float] = {}
    for name, row in rows(table).items():
        instances = names.get(name.split(".")[0], [])
        if row.sd_within > 0:
            factors |= {(name, i): f for i, f in within(table, name, rng, instances).items()}
    response = draw(DRIFT, stream(seed, "lesions"))
    return Physiology(1, ligand, values, factors, dict(body.volumes_ml), body.egfr, response)


def next_cycle(seed: int, now: Physiology, dose_gy: Mapping[str, float], interval_h: float, body: Body) -> Physiology:
    """One step of drift after a cycle that gave these self doses (Gy by region).

    Organ parameters walk at random (log space, `walk_sd`); receptor density of lesions falls by the factor of the table;
    a lesion's volume follows V <- V 2^(dt/Td) exp(-alpha_eff D), not below the floor; eGFR falls with kidney dose and by
    its own walk.
    """
    k = now.cycle + 1
    rng = stream(seed, "walk", k)
    step = walk(KINETICS[now.ligand], rng)
    values = {name: value * step[name] for name, value in now.values.items()}
    factors, volumes = dict(now.instance), dict(now.volumes_ml)
    r = now.response
    fall = r[f"lesions.receptor_factor_{min(k, 6)}"]
    for name in sorted(n for n in volumes if n.startswith("lesion/")):
        key = ("lesions.receptor_density", name)
        factors[key] = factors.get(key, 1.0) * fall * float(np.exp(0.10 * rng.standard_normal()))
        grown = 2.0 ** (interval_h / r["lesions.doubling_time"])
        killed = math.exp(-r["lesions.effective_alpha"] * dose_gy.get(name, 0.0))
        floor = min(r["lesions.volume_floor"] * body.volumes_ml[name], volumes[name])
        volumes[name] = max(volumes[name] * grown * killed, floor)
    kidneys = [dose_gy[n] for n in volumes if n.startswith("kidney_") and n in dose_gy]
    loss = r["kidney.egfr_loss_per_gy"] * float(np.mean(kidneys)) if kidneys else 0.0
    own = float(np.exp(rows(BODY)[f"{body.patient.sex}.egfr"].walk_sd * rng.standard_normal()))
    egfr = max((now.egfr - loss) * own, 15.0)
    return replace(now, cycle=k, values=values, instance=factors, volumes_ml=volumes, egfr=egfr)


def system(state: Physiology, body: Body) -> SystemParameters:
    """The ODE parameters of one cycle. Filtration = filtered fraction x eGFR x BSA / 1.73, shared by kidney volume."""
    kidneys = tuple(sorted(n for n in state.volumes_ml if n.startswith("kidney_")))
    classes = ("parotid_glands", "submandibular_glands", "lacrimal_glands", "lesions", *SINGLE_TISSUES)
    tissues = tuple(n for n in sorted(state.volumes_ml) if tissue_class(n) in classes)
    kidney_l = np.array([state.volumes_ml[n] / 1000 for n in kidneys])
    tissue_l = np.array([state.volumes_ml[n] / 1000 for n in tissues])

    def per_tissue(quantity: str) -> np.ndarray:
        return np.array([state.at(f"{tissue_class(n)}.{quantity}", n) for n in tissues])

    def per_kidney(quantity: str) -> np.ndarray:
        return np.array([state.at(f"kidney.{quantity}", n) for n in kidneys])

    return SystemParameters(
        values=state.values,
        plasma_l=body.plasma_l,
        filtration_l_h=state.values["plasma.filtered_fraction"] * state.egfr * body.bsa_m2 / 1.73 * 0.06,
        kidneys=kidneys,
        kidney_share=kidney_l / kidney_l.sum(),
        kidney_receptors=per_kidney("receptor_density") * kidney_l,
        lumen_l=state.values["kidney.lumen_fraction"] * kidney_l,
        reabsorption=per_kidney("reabsorption"),
        reabsorbed_release=per_kidney("reabsorbed_release"),
        kidney_release=per_kidney("release"),
        tissues=tissues,
        transport_l_h=per_tissue("transport") * tissue_l,
        interstitial_l=per_tissue("interstitial_fraction") * tissue_l,
        receptors=per_tissue("receptor_density") * tissue_l,
        unspecific=per_tissue("unspecific"),
        release=per_tissue("release"),
    )
