"""The middle rungs of the ladder as variants of the whole-body models: organs that behave alike merged into one.

    lumped    organs without receptors become one, `rest_of_body`; those with receptors and the bone marrow stay
    reduced   further, left and right become one organ, the salivary glands one, liver with spleen, gut and prostate one; the
              marrow joins the rest

A merged organ's quantities are rules over its members, whose own rules stay: every quantity of the whole body keeps its name
and acts. Volumes, vascular and interstitial spaces, serum flows, permeabilities and receptors add up; rates of internalisation
and release are means weighted by receptors. An organ that exchanges nothing (the brain) adds its vessels only.

What is lost is the difference between members: one concentration in vessels and one in interstitium for all, and so also how
organs without receptors divide the flow that they have together. Members with the same F/v, PS/v, PS/i (and with receptors
R0/i and rates) have one concentration by themselves, and the merged model is then exact. The lungs and both pools stay, because
they carry the whole circulation and are where blood is sampled. Members that all have no receptors left (R0 0) are refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from tdt_core.errors import ModelError
from tdt_core.kinetics.pbrpk import PBRPK, SINK, TEMPLATES, VARIANTS, VENOUS, Array, Organ
from tdt_core.kinetics.rules import Quantities, Rule
from tdt_core.parameters import Status

REST, KIDNEYS, VISCERA = "rest_of_body", "both_kidneys", "viscera"
SALIVARY, LACRIMAL = "all_salivary_glands", "both_lacrimal_glands"
"""Organs that stand for several. No table has quantities of these names, so that all of the members' keep their meaning."""

KEPT = ("red_marrow",)
"""Organs at risk that `lumped` leaves although they have no receptors."""

NO_VISCERA = ("salivary_glands",)
"""Organs of the template receptor that belong elsewhere."""

_BLOOD = ("volume", "vascular_volume", "flow")
_TUBULES = ("filtered_flow", "excreted_flow", "reabsorbed_flow", "intracellular_volume")
_TRAPPING = ("trapped_flow", "passed_flow")
_RATES = ("lambda_int", "lambda_rel")
AVERAGED = (*_RATES, "lambda_trapped")
"""Quantities of which a merged organ has the mean over its members: only that acts on anything."""
_ADDED: tuple[Status, str] = ("literature", "conservation: sum over the organs that it stands for")
_MEAN: tuple[Status, str] = ("assumed", "lumping: mean over the organs that it stands for, weighted by what it acts on")


def merged(model: PBRPK, into: str, members: Collection[str], template: str) -> PBRPK:
    """The model with several organs as one, in the place of the first of them; fewer than two stay as they are.

    Parameters
    ----------
    into : name of the new organ. template : its template; members without receptors may go into one with receptors.

    Raises
    ------
    ModelError `model.organ` for an unknown member, a tumour, lungs or a pool, an organ that is merged already, one that drains
    into, or is drained into from, an organ outside; `model.receptor` for members with different receptors.
    """
    organs = tuple(o for o in model.organs if o.name in members)
    _check(model, into, organs, members)
    if len(organs) < 2:
        return model
    receptors = sorted({o.receptor for o in organs if o.binds})
    if len(receptors) > 1:
        raise ModelError(
            f"{into} merges organs with the receptors {', '.join(receptors)}", expected="one", kind="model.receptor"
        )
    one = Organ(into, template, VENOUS, "".join(receptors), _rules(model, into, organs, template), organs)
    first = model.organs.index(organs[0])
    after = tuple(o for o in model.organs[first:] if o not in organs)
    return replace(model, organs=(*model.organs[:first], one, *after))


def _check(model: PBRPK, into: str, organs: Sequence[Organ], members: Collection[str]) -> None:
    refused = {
        "which the model does not have": sorted(set(members) - {o.name for o in model.organs}),
        "which cannot be merged": [o.name for o in organs if o.template in ("tumour", "lungs", "pool")],
        "which is merged already": [o.name for o in organs if o.members],
        "but not what drains into it": [o.drains_to for o in model.organs if o.drains_to in members and o.name not in members],
        "but not what it drains into": [o.name for o in organs if o.drains_to not in (VENOUS, *members)],
    }
    for why, names in refused.items():
        if names:
            raise ModelError(
                f"{into} is to merge {names[0]}, {why}",
                expected="whole chains of normal organs with their own states",
                remedy="merge organs with those that they drain into, and start from the whole body",
                kind="model.organ",
            )


def _rules(model: PBRPK, into: str, organs: Sequence[Organ], template: str) -> tuple[Rule, ...]:
    """Rules of a merged organ; those of its template that members have in its stead are withdrawn."""
    names, binding = [o.name for o in organs], [o.name for o in organs if o.binds]
    open_ = _exchanging(model, organs)
    parts = TEMPLATES[template].parts
    added = {q: _sum(q, names) for q in _BLOOD} | {"interstitial_volume": _sum("interstitial_volume", open_)}
    means = {}
    if "intracellular" in parts:
        added |= {q: _sum(q, names) for q in _TUBULES}
        if f"{names[0]}.trapped_flow" in model.table:
            added |= {q: _sum(q, names) for q in _TRAPPING}
            means["lambda_trapped"] = _mean("lambda_trapped", "volume", names)
    else:
        added["PS"] = _sum("PS", open_)
    if "bound" in parts:
        added["R0"] = _sum("R0", binding)
        means |= {q: _mean(q, "R0", binding) for q in _RATES}
    sets = {f"[{s}]" for s in TEMPLATES[template].sets}
    like = {r.quantity: r for r in sorted(model.rules, key=lambda r: r.scope in sets) if not r.when}
    rules = [
        Rule(f"{into}.{quantity}", text, like[quantity].unit, status, source, like[quantity].bound)
        for texts, (status, source) in ((added, _ADDED), (means, _MEAN))
        for quantity, text in texts.items()
    ]
    own = {(r.quantity, r.when) for r in rules}
    stale = [r for r in model.rules if r.scope in sets and (r.quantity, r.when) not in own]
    return (*rules, *(replace(r, name=f"{into}.{r.quantity}", rule="", also=()) for r in stale))


def _exchanging(model: PBRPK, organs: Sequence[Organ]) -> list[str]:
    """Those whose interstitium ligand can reach, or all where it can reach none."""
    values = model.quantities()
    found = [o.name for o in organs if "intracellular" in o.parts or float(np.real(values[f"{o.name}.PS"])) > 0]
    return found or [o.name for o in organs]


def _sum(quantity: str, organs: Iterable[str]) -> str:
    return " + ".join(f"{o}.{quantity}" for o in organs)


def _mean(quantity: str, weight: str, organs: Sequence[str]) -> str:
    return f"({' + '.join(f'{o}.{weight}*{o}.{quantity}' for o in organs)})/({_sum(weight, organs)})"


# --- the rungs -------------------------------------------------------------------------------------------------------


def whole(model: PBRPK) -> PBRPK:
    """The model with every merged organ replaced by its members again."""
    name = model.name.removesuffix("_lumped").removesuffix("_reduced")
    return replace(model, name=name, organs=tuple(m for o in model.organs for m in o.members or (o,)))


def lumped(model: PBRPK, keep: Collection[str] = KEPT) -> PBRPK:
    """Organs without receptors as one, `rest_of_body`; those in `keep` stay, and so do lungs, pools and tumours.

    Raises ModelError `model.organ` for an unknown organ in `keep`.
    """
    model = whole(model)
    _check_kept(model, keep)
    silent = [o.name for o in model.organs if o.template in ("exchange", "rest") and o.name not in keep]
    return replace(merged(model, REST, silent, "rest"), name=f"{model.name}_lumped")


def reduced(model: PBRPK, keep: Collection[str] = ()) -> PBRPK:
    """Blood, kidneys, salivary and lacrimal glands, tumours, viscera and rest, one organ each.

    Tumours and lesions stay apart. Organs in `keep` stay as they are.

    Raises ModelError `model.organ` for an unknown organ in `keep`, or one of a chain that would be merged around it.
    """
    name = f"{whole(model).name}_reduced"
    model = lumped(model, keep)
    free = {o.name: o.template for o in model.organs if o.name not in (*keep, *NO_VISCERA)}
    glands = [o for o, template in free.items() if template == "gland"]
    for into, template, members in (
        (KIDNEYS, "kidney", [o for o, template in free.items() if template == "paired_kidney"]),
        (SALIVARY, "receptor", [o for o in glands if not o.startswith("lacrimal_")]),
        (LACRIMAL, "receptor", [o for o in glands if o.startswith("lacrimal_")]),
        (VISCERA, "receptor", [o for o, template in free.items() if template == "receptor"]),
    ):
        model = merged(model, into, members, template)
    return replace(model, name=name)


def _check_kept(model: PBRPK, keep: Collection[str]) -> None:
    unknown = sorted(set(keep) - {o.name for o in model.organs} - {o.name for o in model.left_out} - set(KEPT))
    if unknown:
        raise ModelError(
            f"{', '.join(unknown)} is to be kept, which the model does not have",
            expected=f"some of {', '.join(o.name for o in model.organs)}",
            kind="model.organ",
        )


# --- back to the organs ----------------------------------------------------------------------------------------------


def shares(model: PBRPK, parameters: Mapping[str, Any] | None = None) -> xr.DataArray:
    """What each organ of the whole body holds of each region's ligand: (organ, region), or (member, organ, region).

    Columns sum to 1: ligand is neither made nor lost. In a merged organ, what is free in vessels and interstitium goes by the
    members' spaces, what is bound or inside cells by their receptors. Free is what the venous concentration makes of it,
    hence the entries in the column of the venous pool, which sum to 0 over the members. This holds minutes after a bolus and
    later; before, an organ can come out below 0. Kidneys share by receptors alone. Where densities and fractions are equal, as
    left and right, all of this is by volume.
    """
    values = model.quantities(parameters)
    coords = {"organ": list(organs_of(model)), "region": list(model.regions)}
    out = shares_of(model, values)
    if any(np.ndim(v) for v in values.values()):
        return xr.DataArray(out, dims=("member", "organ", "region"), coords=coords)
    return xr.DataArray(out[0], dims=("organ", "region"), coords=coords)


def organs_of(model: PBRPK) -> tuple[str, ...]:
    """Organs of the whole body, merged ones apart again, then the sink."""
    return (*(m.name for o in model.organs for m in o.members or (o,)), SINK)


def shares_of(model: PBRPK, values: Quantities) -> npt.NDArray[Any]:
    """(m or 1, organs, regions): `shares` of a model whose quantities are known; complex where these are."""
    regions, organs = model.regions, organs_of(model)
    size = max((v.size for v in values.values()), default=1)
    out = np.zeros((size, len(organs), len(regions)), dtype=np.result_type(*values.values()))  # complex steps pass through
    for j, region in enumerate(regions):
        if region in organs:
            out[:, organs.index(region), j] = 1.0
    venous = regions.index(VENOUS)
    for organ in (o for o in model.organs if o.members):
        rows = [organs.index(m.name) for m in organ.members]
        space = np.stack([np.broadcast_to(s, size) for s in _spaces(model, organ, values)], axis=1)  # (m, members), L
        total = space.sum(axis=1, keepdims=True)
        if not organ.binds:
            out[:, rows, regions.index(organ.name)] = space / total
            continue
        sites = np.stack([np.broadcast_to(values[f"{m.name}.R0"] if m.binds else 0.0, size) for m in organ.members], axis=1)
        bound = sites / sites.sum(axis=1, keepdims=True)
        out[:, rows, regions.index(organ.name)] = bound
        if "intracellular" not in organ.parts:
            out[:, rows, venous] += (space - bound * total) / np.reshape(values[f"{VENOUS}.volume"], (-1, 1))
    return out


def _spaces(model: PBRPK, organ: Organ, values: Mapping[str, Array]) -> list[Array]:
    """L of venous serum that hold what is free in each member."""
    ratio: Array = np.ones(())  # concentration in interstitium over that in vessels, where nothing flows between them
    if model.plasma_binding == "free_fraction":
        ratio = values["blood.free_fraction"] / values["blood.interstitial_free_fraction"]
    elif model.plasma_binding == "albumin":
        ratio = 1.0 / (1.0 + values["blood.albumin_concentration"] / values["ligand.K_D_albumin"])
    summed = next(r.rule for r in organ.rules if r.quantity == "interstitial_volume").split(" + ")
    tissue = [f"{m.name}.interstitial_volume" for m in organ.members]
    return [
        values[f"{m.name}.vascular_volume"] + (ratio * values[i] if i in summed else 0.0)
        for m, i in zip(organ.members, tissue, strict=True)
    ]


def by_organ(model: PBRPK, data: xr.Dataset, parameters: Mapping[str, Any] | None = None) -> xr.Dataset:
    """What `simulate` or `simulate_batch` found for the model with these parameters, over the regions of the whole body.

    Amounts and activities are summed over parts; see `shares`.
    """
    table = shares(model, parameters)
    out = data.drop_dims("region")
    for name, found in data.items():
        if "region" in found.dims:
            summed = found.sum("part") if "part" in found.dims else found
            spread = xr.dot(table, summed, dim="region").rename(organ="region")
            out[name] = spread.transpose(*summed.dims).assign_attrs(found.attrs)
    return out


def _with_albumin(model: PBRPK) -> PBRPK:
    return replace(model.with_options(plasma_binding="albumin"), name=f"{model.name}_albumin")


VARIANTS |= {
    "psma_lumped": ("psma", lumped),
    "psma_reduced": ("psma", reduced),
    "psma_albumin": ("psma", _with_albumin),
}

__all__ = [
    "KIDNEYS",
    "LACRIMAL",
    "REST",
    "SALIVARY",
    "VISCERA",
    "by_organ",
    "lumped",
    "merged",
    "reduced",
    "shares",
    "whole",
]
