"""Lesions over a chain: which a cycle shows, since when they are known, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tdt_core.imaging.volume import LabelVolume
from tdt_core.twin import Lesion, Region

UNKNOWN_SITE = "unspecified"
_NO_SITE = ("lesions", "body", "rest")


def history(labels: LabelVolume, cycle: int, earlier: Sequence[Lesion] = ()) -> tuple[Lesion, ...]:
    """The lesions of a cycle and, as vanished, those of `earlier` that it does not show; in order of tracking id.

    earlier : lesions of the state before, () for the first one of a chain. A lesion keeps its first cycle, and its site where
        this cycle does not tell it.
    """
    shown = {r.tracking_id: (label, r) for label, r in enumerate(labels.regions, start=1) if r.tracking_id is not None}
    before = {x.tracking_id: x for x in earlier}
    found = []
    for name in sorted({*shown, *before}):
        if name not in shown:
            found.append(replace(before[name], volume_ml=0.0, status="vanished"))
            continue
        label, region = shown[name]
        site = site_of(labels.labels, label, labels.regions)
        if name in before:
            site = before[name].site if site == UNKNOWN_SITE else site
            found.append(Lesion(name, site, region.volume_ml, before[name].first_cycle, "present"))
        else:
            found.append(Lesion(name, site, region.volume_ml, cycle, "new"))
    return tuple(found)


def changes(lesions: Sequence[Lesion], earlier: Sequence[Lesion]) -> list[str]:
    """What became of lesions since the state before, in words, and what the twin makes of it."""
    before = {x.tracking_id: x.status for x in earlier}
    found = []
    for x in lesions:
        if x.status == "new":
            found.append(
                f"lesion {x.tracking_id} is new: its kinetics start from the population, and no earlier dose of it is known"
            )
        elif x.status == "vanished" and before.get(x.tracking_id) != "vanished":
            found.append(
                f"lesion {x.tracking_id} is not among the regions of this cycle: no dose of it is added to what it had"
            )
        elif x.status == "present" and before.get(x.tracking_id) == "vanished":
            found.append(f"lesion {x.tracking_id} is back: its kinetics start from the population again")
    return found


def site_of(labels: npt.NDArray[np.int16], label: int, regions: Sequence[Region]) -> str:
    """Name of the organ region that holds most of a lesion's surroundings, else `unspecified`.

    The surroundings are the voxels that share a face with the lesion and are in no other lesion. A lesion takes its voxels out
    of the organ around it, whatever the format of the segmentation, so the organ is known from what surrounds it.
    """
    box = ndimage.find_objects(labels)[label - 1]
    near = labels[tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)]
    around = near[ndimage.binary_dilation(near == label) & (near != label)]
    counts = np.bincount(around, minlength=len(regions) + 1)
    lesions = [n for n, r in enumerate(regions, start=1) if r.organ == "lesions"]
    counts[lesions] = 0
    most = int(counts.argmax())
    if most == 0 or regions[most - 1].organ in _NO_SITE or 2 * counts[most] <= counts.sum():
        return UNKNOWN_SITE
    return regions[most - 1].name
