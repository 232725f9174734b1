"""Region names, their SNOMED CT codes and sides: one table, one direction of truth.

Laterality is a modifier, not another code; a lesion is known by its tracking id. An unknown name or code is an error, never a
guess. The table is `tdt_core/data/region_codes.csv`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, cast

from tdt_core.errors import InputError
from tdt_core.parameters import packaged_csv
from tdt_core.twin import Region

Laterality = Literal["left", "right", "none"]

LATERALITY_CODES: dict[str, Laterality] = {"7771000": "left", "24028007": "right"}
"""SNOMED modifier -> side."""
LESION_CODES = frozenset({"52988006", "108369006", "128462008", "14799000"})
"""Lesion, neoplasm, metastasis, metastatic neoplasm: all are tracked lesions here."""


@dataclass(frozen=True)
class RegionCode:
    """One row of the table."""

    name: str
    organ: str
    code: str
    laterality: Laterality
    aliases: tuple[str, ...]


@cache
def region_codes() -> dict[str, RegionCode]:
    """The table by name, in order."""
    return {
        r["name"]: RegionCode(
            r["name"],
            r["organ"],
            r["code"],
            cast(Laterality, r["laterality"]),
            tuple(a.strip() for a in r["aliases"].split("|") if a.strip()),
        )
        for r in packaged_csv("region_codes.csv")
    }


@cache
def _aliases() -> dict[str, str]:
    table: dict[str, str] = {}
    for row in region_codes().values():
        for spelling in (row.name, *row.aliases):
            table[_plain(spelling)] = row.name
    return table


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def side(laterality: str | None) -> Laterality:
    """`left`, `right` or `none` from a word, a letter or a SNOMED modifier. Raises InputError on anything else."""
    text = (laterality or "").strip()
    if text in LATERALITY_CODES:
        return LATERALITY_CODES[text]
    known: dict[str, Laterality] = {"": "none", "none": "none", "u": "none", "left": "left", "l": "left", "right": "right"}
    known["r"] = "right"
    if text.lower() not in known:
        raise InputError(
            f"laterality {text!r}",
            expected="left (7771000), right (24028007) or none",
            remedy="correct the laterality modifier of the segment",
            kind="input.laterality",
        )
    return known[text.lower()]


def lesion_region(tracking_id: str) -> Region:
    """The region of one tracked lesion. Raises InputError when the id is empty or holds characters a name cannot hold."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", tracking_id):
        raise InputError(
            "a lesion's tracking id that is empty or holds other characters than letters, digits, dot, dash and underscore",
            expected="1 to 64 such characters, the same in every cycle",
            remedy="give each lesion segment a tracking id",
            kind="input.region",
        )
    return Region(f"lesion/{tracking_id}", "lesions", region_codes()["lesion"].code, "none", tracking_id)


def region_for(code: str, laterality: str | None = None, tracking_id: str | None = None) -> Region:
    """The region that a SNOMED code with its side means.

    Parameters
    ----------
    code : SNOMED CT code value.
    laterality : `left`, `right`, `none`, or the modifier's code.
    tracking_id : required for lesion codes, ignored for organs.

    Raises
    ------
    InputError
        Unknown code (`input.region`), a paired organ without its side or an unpaired one with a side (`input.laterality`).
    """
    if code in LESION_CODES:
        return lesion_region(tracking_id or "")
    where = side(laterality)
    rows = [r for r in region_codes().values() if r.code and r.code == code]
    if not rows:
        raise InputError(
            f"no region has the code {code!r}",
            expected=f"one of {sorted({r.code for r in region_codes().values() if r.code})}",
            remedy="name the segment by a code of the region table, or leave it out of the segmentation",
            kind="input.region",
        )
    for row in rows:
        if row.laterality == where:
            return Region(row.name, row.organ, row.code, row.laterality)
    raise InputError(
        f"code {code} ({rows[0].organ}) with laterality {where!r}",
        expected=" or ".join(sorted({r.laterality for r in rows})),
        remedy="set the laterality modifier of the segment",
        kind="input.laterality",
    )


def alias(name: str) -> str:
    """The product's own name of a region called `name` (`Kidney_L` -> `kidney_left`); `lesion/<id>` is kept.

    Raises InputError (`input.region`) when the table does not know the name.
    """
    if name.startswith("lesion/"):
        return lesion_region(name.removeprefix("lesion/")).name
    known = _aliases().get(_plain(name))
    if known is None or known == "lesion":
        raise InputError(
            f"region name {name[:40]!r} is unknown" if known is None else "a lesion without a tracking id",
            expected=f"one of {[n for n in region_codes() if n != 'lesion']} or lesion/<tracking id>",
            remedy="rename the region, or add the spelling to region_codes.csv",
            kind="input.region",
        )
    return known


def region_named(name: str) -> Region:
    """The region of a name or alias, with code and side. Raises InputError when it is unknown."""
    own = alias(name)
    if own.startswith("lesion/"):
        return lesion_region(own.removeprefix("lesion/"))
    row = region_codes()[own]
    return Region(row.name, row.organ, row.code, row.laterality)


def with_volume(region: Region, volume_ml: float, mass_g: float, volume_rel_sd: float) -> Region:
    """The same region with its size."""
    return replace(region, volume_ml=volume_ml, mass_g=mass_g, volume_rel_sd=volume_rel_sd)
