"""The drawn anatomy: a trunk with head, vertex to upper thigh, from analytic shapes in the proportions of an adult.

Coordinates are LPS mm with x = 0 in the midline, y = 0 in the middle of the trunk and z = 0 at the lower edge. Lengths are for
a body of 176 cm and are scaled by height (z) and girth (x, y). Positions are this project's, read off standard atlases by eye:
assumed. Organ volumes come from `phantom_body.csv`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tdt_core.phantom.anatomy import CODE, Anatomy, LesionShape, UInt8, split_kidney
from tdt_core.phantom.draws import stream
from tdt_core.phantom.physiology import Body
from tdt_core.phantom.shapes import Box, Ellipsoid, Grid, level, lowest, voxels

FIELD_MM = 460.0
LENGTH_MM = 895.0
# z, half width, half depth of the trunk and neck
OUTLINE = np.array(
    [
        (0, 172, 98), (60, 182, 108), (110, 184, 112), (215, 160, 103), (300, 152, 102), (400, 162, 112), (500, 172, 114),
        (580, 178, 98), (625, 140, 76), (650, 82, 64), (672, 64, 62), (700, 62, 66), (730, 58, 66),
    ]
)  # fmt: skip

SITES: tuple[tuple[str, str, tuple[float, float, float]], ...] = (
    ("left iliac bone", "lesion_bone", (92, 30, 172)),
    ("right iliac bone", "lesion_bone", (-96, 26, 160)),
    ("sacrum", "lesion_bone", (14, 66, 138)),
    ("thoracic vertebra 8", "lesion_bone", (0, 46, 470)),
    ("right rib 6", "lesion_bone", (-142, 10, 430)),
    ("left proximal femur", "lesion_bone", (92, 8, 48)),
    ("sternum", "lesion_bone", (4, -84, 520)),
    ("left iliac node", "lesion_soft", (52, -14, 138)),
    ("right iliac node", "lesion_soft", (-54, -8, 130)),
    ("retroperitoneal node", "lesion_soft", (26, 4, 262)),
    ("mediastinal node", "lesion_soft", (-14, 6, 540)),
    ("left supraclavicular node", "lesion_soft", (52, 4, 622)),
)


@dataclass(eq=False)
class _Canvas:
    """Grid, map under work, and scale factors."""

    grid: Grid
    labels: UInt8
    rng: np.random.Generator
    girth: float
    tall: float

    def at(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        return x * self.girth, y * self.girth, z * self.tall

    def size(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        return x * self.girth, y * self.girth, z * self.tall

    def free(self, box: Box, codes: Sequence[str]) -> npt.NDArray[np.bool_]:
        table = np.zeros(256, bool)
        table[[CODE[c] for c in codes]] = True
        return np.asarray(table[self.labels[box]])

    def organ(self, name: str, shape: Ellipsoid, volume_ml: float, over: Sequence[str], reach: float = 1.7) -> None:
        """Paint an organ of exact volume over the named structures, near its ellipsoid."""
        box, values = level(self.grid, shape, self.rng, reach)
        chosen = lowest(values, self.free(box, over), voxels(volume_ml, self.grid), name)
        self.labels[box][chosen] = CODE[name]

    def inside(self, name: str, shape: Ellipsoid, over: Sequence[str]) -> None:
        """Paint everything inside an ellipsoid over the named structures."""
        box, values = level(self.grid, shape, self.rng, 1.25)
        self.labels[box][(values < 1) & self.free(box, over)] = CODE[name]


def make_grid(matrix: int, half_width_mm: float, half_depth_mm: float, length_mm: float) -> Grid:
    """Scan grid of `matrix` voxels across 460 mm and its half-voxel grid, cropped to the body with a margin of two voxels."""
    s = FIELD_MM / matrix
    nz = math.ceil(length_mm / s)
    keep_x = min(matrix // 2, math.ceil(half_width_mm / s) + 2)
    keep_y = min(matrix // 2, math.ceil(half_depth_mm / s) + 2)
    offset = (0, 2 * (matrix // 2 - keep_y), 2 * (matrix // 2 - keep_x))
    corner = (-FIELD_MM / 2, -FIELD_MM / 2, 0.0)
    return Grid((2 * nz, 4 * keep_y, 4 * keep_x), s / 2, offset, (nz, matrix, matrix), corner)


def draw_anatomy(seed: int, matrix: int, body: Body) -> Anatomy:
    """The patient's anatomy on half voxels of the scan grid."""
    p = body.patient
    tall = float(np.clip(p.height_cm / 176.0, 0.88, 1.06))
    girth = float(np.clip(math.sqrt((p.weight_kg / p.height_cm) / (80 / 176)), 0.88, 1.14))
    grid = make_grid(matrix, 190 * girth, 120 * girth, LENGTH_MM * tall)
    canvas = _Canvas(grid, np.zeros(grid.shape, np.uint8), stream(seed, "anatomy"), girth, tall)
    _outline(canvas)
    _skeleton(canvas)
    _thorax(canvas)
    _abdomen(canvas, body)
    _head_and_pelvis(canvas, body)
    return Anatomy(grid, canvas.labels, _lesions(canvas, body, stream(seed, "lesions", 0)), None, "drawn from analytic shapes")


def _outline(c: _Canvas) -> None:
    """Body with a fat layer: elliptic trunk, head and jaw."""
    z, y, x = c.grid.axes()
    a = np.interp(z / c.tall, OUTLINE[:, 0], OUTLINE[:, 1]) * c.girth
    b = np.interp(z / c.tall, OUTLINE[:, 0], OUTLINE[:, 2]) * c.girth
    trunk = (np.abs(x[None, None, :]) / a[:, None, None]) ** 2.4 + (np.abs(y[None, :, None]) / b[:, None, None]) ** 2.4
    inside = (trunk < 1) & (z < 740 * c.tall)[:, None, None]
    for center, axes in (((0, 0, 785), (78, 97, 106)), ((0, -14, 722), (74, 88, 66))):
        (xc, yc, zc), (xa, ya, za) = c.at(*center), c.size(*axes)
        inside |= ((x[None, None] - xc) / xa) ** 2 + ((y[None, :, None] - yc) / ya) ** 2 + (
            (z[:, None, None] - zc) / za
        ) ** 2 < 1
    c.labels[inside] = CODE["muscle"]
    # skin and fat: what an erosion takes, thicker on the trunk than on head and neck; in-plane depth from the outline
    depth = 4 + (c.girth - 0.8) * 45
    thick = max(1, round(depth / c.grid.spacing_mm))
    thin = max(1, round(3.0 / c.grid.spacing_mm))
    plane = ndimage.generate_binary_structure(3, 1) & np.array([False, True, False])[:, None, None]
    neck = int(np.searchsorted(z, 640 * c.tall))
    for part, steps in ((slice(0, neck), thick), (slice(neck, None), thin)):
        core = ndimage.binary_erosion(inside[part], plane, iterations=steps)
        c.labels[part][inside[part] & ~core] = CODE["adipose"]


def _skeleton(c: _Canvas) -> None:
    """Spine with marrow, ribs, sternum, pelvis, femora, skull and jaw."""
    z, y, x = c.grid.axes()
    zz, g = z / c.tall, c.girth
    shell = max(2.2, 0.9 * c.grid.spacing_mm)
    spine_y = np.interp(zz, [100, 160, 260, 400, 480, 600, 690], [62, 58, 34, 44, 50, 34, 22]) * g
    pitch, low, high = 36.0, 168.0, 690.0
    phase = ((zz - low) % pitch) / pitch
    half_x = np.interp(zz, [160, 260, 400, 560, 690], [26, 25, 19, 15, 12]) * g
    half_y = half_x * 0.78
    r = np.sqrt(
        (x[None, None] / half_x[:, None, None]) ** 2
        + ((y[None, :, None] - spine_y[:, None, None]) / half_y[:, None, None]) ** 2
    )
    column = (zz > low) & (zz < high)
    body_part = column & (phase > 0.14)
    bone = (r < 1) & body_part[:, None, None]
    marrow = (r < (1 - shell / half_y)[:, None, None]) & (column & (phase > 0.20) & (phase < 0.94))[:, None, None]
    arch = (np.abs(x)[None, None] < 9 * g) & (np.abs(y[None, :, None] - (spine_y + half_y + 16 * g)[:, None, None]) < 12 * g)
    bone |= arch & (column & (phase > 0.35) & (phase < 0.75))[:, None, None]
    tissue = c.labels == CODE["muscle"]
    c.labels[bone & tissue] = CODE["bone"]
    lumbar = (zz > low) & (zz < low + 5 * pitch)
    c.labels[marrow & tissue & lumbar[:, None, None]] = CODE["lumbar_marrow"]
    c.labels[marrow & tissue & ~lumbar[:, None, None]] = CODE["marrow"]
    _ribs(c, tissue)
    for side in (1, -1):
        for center, axes, tilt in (
            ((90, 34, 165), (15, 44, 52), 22),
            ((88, 2, 62), (27, 27, 27), 0),
            ((104, 4, 22), (17, 17, 46), 0),
        ):
            e = Ellipsoid(c.at(side * center[0], *center[1:]), c.size(*axes), tilt_y=side * tilt, warp=0.03)
            c.inside("bone", e, ("muscle", "adipose"))
            inner = tuple(max(a - shell * 1.6, a * 0.45) for a in e.axes)
            c.inside("marrow", Ellipsoid(e.center, inner, e.tilt_y, warp=0.0), ("bone",))  # type: ignore[arg-type]
    sacrum = Ellipsoid(c.at(0, 66, 132), c.size(46, 20, 44), warp=0.03)
    c.inside("bone", sacrum, ("muscle",))
    c.inside("marrow", Ellipsoid(sacrum.center, c.size(40, 14, 38), warp=0.0), ("bone",))
    c.inside("bone", Ellipsoid(c.at(0, -2, 797), c.size(72, 90, 88), warp=0.0), ("muscle", "adipose"))
    c.inside("brain", Ellipsoid(c.at(0, -2, 799), c.size(62, 78, 72), warp=0.0), ("bone",))
    jaw, hollow = (
        Ellipsoid(c.at(0, -24, 700), c.size(52, 62, 22), warp=0.0),
        Ellipsoid(c.at(0, -10, 702), c.size(44, 64, 30), warp=0.0),
    )
    c.inside("bone", jaw, ("muscle",))
    c.inside("muscle", hollow, ("bone",))


def _ribs(c: _Canvas, tissue: npt.NDArray[np.bool_]) -> None:
    """Ribs as slanted rings in the wall of the thorax, and the sternum."""
    z, y, x = c.grid.axes()
    zz = z / c.tall
    a = (np.interp(zz, [370, 480, 590, 615], [142, 150, 118, 60]) * c.girth)[:, None, None]
    b = (np.interp(zz, [370, 480, 590, 615], [92, 94, 70, 40]) * c.girth)[:, None, None]
    r = np.sqrt((x[None, None] / a) ** 2 + (y[None, :, None] / b) ** 2)
    wall = np.abs(r - 1) < 0.5 * max(8.0, 1.8 * c.grid.spacing_mm) / a
    slant = (zz[:, None, None] + 0.25 * y[None, :, None] / c.girth) % 26.0
    cage = ((zz > 370) & (zz < 612))[:, None, None]
    ribs = wall & cage & (slant < 11.0) & tissue
    breast = (
        (np.abs(x)[None, None] < 18 * c.girth)
        & (np.abs(y[None, :, None] + b) < 7 * c.girth)
        & ((zz > 450) & (zz < 585))[:, None, None]
    )
    c.labels[(ribs | (breast & tissue)) & (c.labels == CODE["muscle"])] = CODE["bone"]


def _thorax(c: _Canvas) -> None:
    """Lungs and the heart with its blood."""
    over = ("muscle",)
    for side in (1, -1):
        c.inside("lungs", Ellipsoid(c.at(side * 78, 4, 492), c.size(60, 80, 122), tilt_y=-side * 4, warp=0.03), over)
    c.organ("heart", Ellipsoid(c.at(26, -26, 455), c.size(42, 42, 50), tilt_y=30), 480.0 * c.girth, ("muscle", "lungs"))


def _abdomen(c: _Canvas, body: Body) -> None:
    """Spleen, kidneys with cortex and medulla, liver around them, bowel."""
    v = body.volumes_ml
    soft = ("muscle", "lungs")
    if "spleen" in v:
        fit = (v["spleen"] / 160) ** (1 / 3)
        c.organ("spleen", Ellipsoid(c.at(104, 34, 388), c.size(25 * fit, 34 * fit, 45 * fit), tilt_y=12), v["spleen"], soft)
    for side, x, z in (("left", 70, 322), ("right", -70, 304)):
        if f"kidney_{side}" not in v:
            continue
        fit = (v[f"kidney_{side}"] / 155) ** (1 / 3)
        tilt = -14 if side == "left" else 14
        e = Ellipsoid(c.at(x, 48, z), c.size(27 * fit, 25 * fit, 55 * fit), tilt_y=tilt, warp=0.06)
        box, values = level(c.grid, e, c.rng, 1.5)
        mask = np.zeros(c.grid.shape, bool)
        mask[box] = lowest(values, c.free(box, ("muscle", "adipose")), voxels(v[f"kidney_{side}"], c.grid), f"kidney_{side}")
        split_kidney(c.labels, mask, side, body.medulla_fraction, c.grid.spacing_mm)
    fit = (v["liver"] / 1700) ** (1 / 3)
    c.organ(
        "liver", Ellipsoid(c.at(-62, -14, 385), c.size(92 * fit, 72 * fit, 68 * fit), tilt_y=14, warp=0.10), v["liver"], soft
    )
    c.organ("bowel", Ellipsoid(c.at(0, -38, 235), c.size(88, 42, 78), warp=0.15, wave_mm=35), v["bowel"], ("muscle",))


def _head_and_pelvis(c: _Canvas, body: Body) -> None:
    """Glands of the head, bladder and prostate bed."""
    v = body.volumes_ml
    over = ("muscle", "bone", "adipose")
    for side, s in (("left", 1), ("right", -1)):
        c.organ(f"parotid_{side}", Ellipsoid(c.at(s * 55, 8, 712), c.size(12, 17, 26)), v[f"parotid_{side}"], over)
        c.organ(
            f"submandibular_{side}", Ellipsoid(c.at(s * 30, -34, 678), c.size(11, 18, 13)), v[f"submandibular_{side}"], over
        )
        c.organ(
            f"lacrimal_{side}", Ellipsoid(c.at(s * 36, -76, 782), c.size(7, 5, 5), warp=0.03), v[f"lacrimal_{side}"], over, 2.5
        )
    soft = ("muscle", "bowel")
    c.organ("bladder", Ellipsoid(c.at(0, -26, 92), c.size(36, 32, 32)), v["bladder"], soft)
    if "prostate_bed" in v:
        c.organ("prostate_bed", Ellipsoid(c.at(0, -6, 48), c.size(20, 16, 15)), v["prostate_bed"], soft)


def _lesions(c: _Canvas, body: Body, rng: np.random.Generator) -> tuple[LesionShape, ...]:
    """Lesions at sites without replacement; each may grow over soft tissue and bone, never over a segmented organ."""
    names = [n for n in body.volumes_ml if n.startswith("lesion/")]
    order = rng.permutation(len(SITES))[: len(names)]
    out = []
    for name, index in zip(names, order, strict=True):
        site, tissue, place = SITES[int(index)]
        volume = body.volumes_ml[name]
        radius = (3 * volume * 1000 / (4 * np.pi)) ** (1 / 3)
        stretch = np.exp(0.15 * rng.standard_normal(3))
        axes = tuple(float(radius * f) for f in stretch / np.prod(stretch) ** (1 / 3))
        shape = Ellipsoid(c.at(*place), axes, warp=0.10, wave_mm=max(30.0, 1.5 * radius))  # type: ignore[arg-type]
        box, values = level(c.grid, shape, rng, 1.9)
        allowed = c.free(box, ("muscle", "bone", "marrow", "adipose", "bowel"))
        core = 0.25 if volume > 20 and rng.random() < 0.4 else 0.0
        out.append(LesionShape(name, site, tissue, box, values, allowed, core))
    return tuple(out)
