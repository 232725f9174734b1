"""The list of all models of differential equations: what can be simulated, differentiated and exported.

Tests of interchange run over this list, so a new rung or form joins them by its entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from tdt_core.kinetics.compartmental import REST, PlasmaTissueModel
from tdt_core.kinetics.pbrpk import PBRPK, TABLES, VARIANTS, pbrpk
from tdt_core.kinetics.simulation import OdeModel
from tdt_core.kinetics.structure import Daughters
from tdt_core.parameters import packaged_csv
from tdt_core.twin import Region

FORMS: Mapping[str, Callable[[PBRPK], PBRPK]] = {
    "recycled": lambda body: body.with_options(release="recycled"),
    "free fraction": lambda body: body.with_options(plasma_binding="free_fraction"),
    "albumin": lambda body: body.with_options(plasma_binding="albumin"),
    "turnover": lambda body: body.with_options(turnover="explicit"),
}
"""Forms that a whole-body model has besides its own."""

Vials = tuple[tuple[str, str], ...]
"""Ligand and nuclide of each."""

VIALS: Mapping[str, Mapping[str, Vials]] = {
    "psma": {
        "two ligands, daughters": (("PSMA-617", "Lu-177"), ("PSMA-I&T", "Ac-225")),
        "daughters": (("PSMA-617", "Ac-225"), ("PSMA-617", "Pb-212")),
        "two ligands": (("PSMA-11", "Ga-68"), ("PSMA-617", "Lu-177")),
    },
    "sstr": {"two ligands, daughters": (("DOTATOC", "Ga-68"), ("DOTATATE", "Pb-212"))},
}
"""Forms that a schedule brings, in which species are counted apart, by the whole body whose ligands they are."""


def ode_models() -> dict[str, Callable[[], OdeModel]]:
    """Name -> what makes the model: whole-body models and their variants, those with tables of their own also by
    `name, option`, then other systems."""
    out: dict[str, Callable[[], OdeModel]] = {name: partial(pbrpk, name) for name in (*TABLES, *VARIANTS)}
    out |= {f"{name}, {option}": partial(_changed, name, option) for name in TABLES for option in FORMS}
    out["compartmental"] = partial(_compartmental, "psma", "PSMA-617")
    out["compartmental, DOTATATE"] = partial(_compartmental, "sstr", "DOTATATE")
    return out


def forms_by_schedule() -> dict[str, tuple[Callable[[], OdeModel], Vials]]:
    """`name, form` -> what makes the model, and its vials: the first model in each form and, in the fullest form, with each
    option; every other one in the fullest form."""
    first, *others = (*TABLES, *VARIANTS)
    forms = {name: VIALS["sstr" if name.startswith("sstr") else "psma"] for name in (first, *others)}
    packaged = {name.rpartition("_")[2] for name in others}  # psma_albumin has that option
    made = [(first, "", form) for form in forms[first]]
    made += [(first, option, next(iter(forms[first]))) for option in FORMS if option not in packaged]
    made += [(name, "", next(iter(forms[name]))) for name in others]
    return {
        ", ".join(filter(None, (name, option, form))): (
            partial(_followed, name, option, "followed" if "daughters" in form else "none"),
            forms[name][form],
        )
        for name, option, form in made
    }


def _followed(name: str, option: str, daughters: Daughters) -> PBRPK:
    body = pbrpk(name)
    return (FORMS[option](body) if option else body).with_options(daughters=daughters)


def _changed(name: str, option: str) -> PBRPK:
    return FORMS[option](pbrpk(name))


def _compartmental(body: str, ligand: str) -> PlasmaTissueModel:
    return PlasmaTissueModel(ligand, body_regions(pbrpk(body)))


def body_regions(body: PBRPK) -> tuple[Region, ...]:
    """Regions that a segmentation of a whole-body model's person would have, its tumours as lesions."""
    rows = {r["name"]: r for r in packaged_csv("region_codes.csv")}
    volumes = body.quantities()
    out = []
    for organ in body.organs:
        row = rows.get("lesion" if organ.template == "tumour" else organ.name)
        if row is None:
            continue
        lesion = organ.template == "tumour"
        name = f"lesion/{organ.name.removeprefix('lesion/')}" if lesion else organ.name
        volume_ml = 1000.0 * float(volumes[f"{organ.name}.volume"])
        out.append(Region(name, row["organ"], row["code"], row["laterality"], volume_ml=volume_ml))  # type: ignore[arg-type]
    return (*(r for r in out if r.name != REST), Region(REST, REST, ""))
