"""What an anatomy is to the generator: a map of structures on half voxels, with lesions laid over it.

Structures are what activity is assigned to (kidney cortex, medulla, bowel, blood pool, ...), regions are what a clinic
segments (`kidney_left` = cortex + medulla). Drawn and real anatomies end in the same type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tdt_core.parameters import packaged_csv
from tdt_core.phantom.shapes import Box, Grid, lowest, voxels

UInt8 = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Structure:
    """A structure's code, its region ("" when nobody segments it) and its tissue."""

    code: int
    name: str
    region: str
    tissue: str


def _structures() -> tuple[Structure, ...]:
    table: list[tuple[str, str, str]] = [
        ("air", "", "air"),
        ("adipose", "", "adipose"),
        ("muscle", "", "muscle"),
        ("lungs", "lungs", "lung"),
        ("bone", "", "bone"),
        ("marrow", "", "marrow"),
        ("lumbar_marrow", "red_marrow", "marrow"),
        ("liver", "liver", "liver"),
        ("spleen", "spleen", "spleen"),
        ("kidney_left_cortex", "kidney_left", "kidney"),
        ("kidney_left_medulla", "kidney_left", "kidney"),
        ("kidney_right_cortex", "kidney_right", "kidney"),
        ("kidney_right_medulla", "kidney_right", "kidney"),
        ("bladder", "bladder", "urine"),
        *((f"{g}_{s}", f"{g}_{s}", "gland") for g in ("parotid", "submandibular", "lacrimal") for s in ("left", "right")),
        ("prostate_bed", "prostate_bed", "prostate"),
        ("bowel", "", "bowel"),
        ("heart", "", "blood"),
        ("brain", "", "brain"),
    ]
    return tuple(Structure(i, n, r, t) for i, (n, r, t) in enumerate(table))


STRUCTURES = _structures()
CODE: Mapping[str, int] = {s.name: s.code for s in STRUCTURES}
FIRST_LESION = len(STRUCTURES)


@dataclass(frozen=True)
class Tissue:
    """A row of `phantom_tissues.csv`."""

    hu: float
    density_g_cm3: float
    blood_share: float
    fast_share: float
    slow_share: float
    texture_sd: float


@cache
def tissues() -> Mapping[str, Tissue]:
    """Tissues by name."""
    keys = ("hu", "density_g_cm3", "blood_share", "fast_share", "slow_share", "texture_sd")
    return {r["name"]: Tissue(**{k: float(r[k]) for k in keys}) for r in packaged_csv("phantom_tissues.csv")}


@dataclass(frozen=True, eq=False)
class LesionShape:
    """A lesion's place: level function on a box of the half-voxel grid, voxels that it may take, and its site in words.

    `level` orders the voxels from the inside out; `core_share` of the volume is necrotic (0 = none).
    """

    name: str
    site: str
    tissue: str
    box: Box
    level: npt.NDArray[np.float32]
    allowed: npt.NDArray[np.bool_]
    core_share: float = 0.0


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Structures on half voxels.

    Attributes
    ----------
    host : uint8 structure codes without lesions.
    lesions : in order; lesion i has code `FIRST_LESION + i`.
    base_hu : int16 CT of a real patient, or None when tissues give it.
    source : in words.
    segmented : regions that a segmentation of this anatomy may hold; None = all.
    """

    grid: Grid
    host: UInt8
    lesions: tuple[LesionShape, ...]
    base_hu: npt.NDArray[np.int16] | None
    source: str
    segmented: frozenset[str] | None = None

    def structures(self) -> tuple[Structure, ...]:
        """All structures with the lesions at the end."""
        more = [Structure(FIRST_LESION + i, x.name, x.name, x.tissue) for i, x in enumerate(self.lesions)]
        return (*STRUCTURES, *more)

    def with_lesions(self, volumes_ml: Mapping[str, float]) -> UInt8:
        """Structure map in which every lesion takes its voxels of lowest level until it has its volume of this cycle."""
        out = self.host.copy()
        for i, lesion in enumerate(self.lesions):
            part = out[lesion.box]
            free = lesion.allowed & (part < FIRST_LESION)
            count = min(voxels(volumes_ml[lesion.name], self.grid), int(free.sum()))
            part[lowest(lesion.level, free, count, lesion.name)] = FIRST_LESION + i
        return out

    def hu(self, labels: UInt8) -> npt.NDArray[np.int16]:
        """CT of the half voxels: the real one where there is one, else the tissues'."""
        if self.base_hu is not None:
            return self.base_hu
        return np.array([tissues()[s.tissue].hu for s in self.structures()], np.int16)[labels]

    def density(self, labels: UInt8) -> npt.NDArray[np.float32]:
        """Density (g/cm3) of the half voxels: by tissue, or from the real CT along the same tissues' line."""
        if self.base_hu is None:
            return np.array([tissues()[s.tissue].density_g_cm3 for s in self.structures()], np.float32)[labels]
        line = sorted({(t.hu, t.density_g_cm3) for t in tissues().values()})
        table = np.interp(np.arange(-1024, 3072), [h for h, _ in line], [d for _, d in line]).astype(np.float32)
        density = table[np.clip(self.base_hu, -1024, 3071) + 1024]
        return np.where(labels == 0, np.float32(0.0012), density)

    def regions(self) -> tuple[str, ...]:
        """Names of the regions that are present, in the order of the structures."""
        present = set(np.unique(self.host).tolist())
        names = [s.region for s in STRUCTURES if s.region and s.code in present]
        if self.segmented is not None:
            names = [n for n in names if n in self.segmented]
        return (*dict.fromkeys(names), *(x.name for x in self.lesions))


def split_kidney(labels: UInt8, mask: npt.NDArray[np.bool_], side: str, medulla_fraction: float, spacing_mm: float) -> None:
    """Write cortex and medulla of one kidney into `labels`: the medulla is the share of voxels farthest from the surface."""
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    wide: Box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)  # type: ignore[assignment]
    part = mask[wide]
    depth = ndimage.distance_transform_edt(part, sampling=spacing_mm).astype(np.float32)
    inner = lowest(-depth, part, max(1, round(medulla_fraction * int(part.sum()))), f"medulla {side}")
    view = labels[wide]
    view[part] = CODE[f"kidney_{side}_cortex"]
    view[inner] = CODE[f"kidney_{side}_medulla"]
