"""The list of all models of differential equations: what can be simulated, differentiated and exported.

Tests of interchange run over this list, so a new rung or form joins them by its entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from tdt_core.kinetics.compartmental import REST, PlasmaTissueModel
from tdt_core.kinetics.pbrpk import PBRPK, TABLES, VARIANTS, pbrpk
from tdt_core.kinetics.simulation import OdeModel
from tdt_core.parameters import packaged_csv
from tdt_core.twin import Region

FORMS: Mapping[str, Callable[[PBRPK], PBRPK]] = {
    "recycled": lambda body: body.with_options(release="recycled"),
    "free fraction": lambda body: body.with_options(plasma_binding="free_fraction"),
    "albumin": lambda body: body.with_options(plasma_binding="albumin"),
    "turnover": lambda body: body.with_options(turnover="explicit"),
}
"""Forms that a whole-body model has besides its own."""


def ode_models() -> dict[str, Callable[[], OdeModel]]:
    """Name -> what makes the model: whole-body models and their variants, those with tables of their own also by
    `name, option`, then other systems."""
    out: dict[str, Callable[[], OdeModel]] = {name: partial(pbrpk, name) for name in (*TABLES, *VARIANTS)}
    out |= {f"{name}, {option}": partial(_changed, name, option) for name in TABLES for option in FORMS}
    out["compartmental"] = partial(_compartmental, "psma", "PSMA-617")
    out["compartmental, DOTATATE"] = partial(_compartmental, "sstr", "DOTATATE")
    return out


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
