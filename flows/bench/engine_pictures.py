"""Pictures of `tdt bench engines`: isodose lines of Monte Carlo, the engines' ratio to it, and histograms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from flows.bench.engines import ENGINES, REFERENCE, Case
from flows.report.style import colour_of, name_of
from flows.report.svg import tick_label
from flows.report.volumes import isodose_levels, level_colours

Array = npt.NDArray[Any]
SHOWN_SD = 0.1
"""Largest relative statistical SD of a voxel of Monte Carlo for which a ratio is drawn."""
SPREAD = 0.2
"""Ends of the scale of ratios, 1 +- this."""
STYLES = {"local": ":", "kernel": "--", "multimedium": "-.", "mc": "-"}


def draw(folder: Path, case: Case, doses: Mapping[str, Array], sd_gy: Array, nuclide: str) -> list[Path]:
    """Write `dose-<nuclide>.png` and `dvh-<nuclide>.png`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, figure in (("dose", _planes(case, doses, sd_gy, nuclide)), ("dvh", _histograms(case, doses, nuclide))):
        path = folder / f"{name}-{nuclide}.png"
        figure.savefig(path, dpi=80, pil_kwargs={"optimize": True}, metadata={"Software": None})
        _fewer_colours(path)
        made.append(path)
    return made


def _fewer_colours(path: Path) -> None:
    """A palette of 256 colours: half the size, and nothing that is read from the picture changes."""
    from PIL import Image

    with Image.open(path) as image:
        image.convert("RGB").quantize(256).save(path, optimize=True)


def _upright(plane: Array, case: Case, rows: int, columns: int) -> tuple[Array, tuple[float, float, float, float]]:
    """A plane with head or front on top and the patient's right on the left, and its extent in mm.

    `rows` and `columns` are the array axes of the plane; directions come from the affine (LPS).
    """
    step = case.affine[:3, :3]
    up = {0: 2, 1: 1}[rows]  # world axis along the rows: height for z, front to back for y
    towards_top = step[up, rows] > 0 if up == 2 else step[up, rows] < 0
    plane = plane[::-1] if towards_top else plane
    plane = plane[:, ::-1] if step[0, columns] < 0 else plane
    height, width = plane.shape[0] * case.spacing_mm[rows], plane.shape[1] * case.spacing_mm[columns]
    return plane, (0.0, width, height, 0.0)


def _planes(case: Case, doses: Mapping[str, Array], sd_gy: Array, nuclide: str) -> Figure:
    """Axial and coronal plane: CT with isodose lines of Monte Carlo, then each engine over Monte Carlo."""
    reference = doses[REFERENCE]
    focus = _focus(case)
    levels = isodose_levels(0.7 * float(reference.max()), 0.005 * float(reference.max()))
    figure = Figure(figsize=(13.5, 6.6), facecolor="white", layout="constrained")
    axes = figure.subplots(2, 1 + len(ENGINES), height_ratios=(0.65, 0.94))
    shown = None
    for line, (axis, rows, columns) in enumerate(((0, 1, 2), (1, 0, 2))):
        hu, extent = _upright(np.take(case.hu, focus[axis], axis), case, rows, columns)
        dose, _ = _upright(np.take(reference, focus[axis], axis), case, rows, columns)
        sd, _ = _upright(np.take(sd_gy, focus[axis], axis), case, rows, columns)
        for column, ax in enumerate(axes[line]):
            ax.imshow(hu, cmap="gray", vmin=-900 if line else -400, vmax=500, extent=extent, interpolation="bilinear")
            ax.set_xticks([])
            ax.set_yticks([])
            if column == 0:
                ax.contour(
                    dose, levels=levels, colors=level_colours(len(levels)), linewidths=1.1, extent=extent, origin="upper"
                )
                ax.set_title(f"mc, isodose lines\n{', '.join(tick_label(v) for v in levels)} Gy", fontsize=9)
                ax.set_ylabel("axial" if axis == 0 else "coronal")
                continue
            engine = ENGINES[column - 1]
            own, _ = _upright(np.take(doses[engine], focus[axis], axis), case, rows, columns)
            ratio = np.where((dose > 0) & (sd <= SHOWN_SD * dose), own / np.maximum(dose, 1e-12), np.nan)
            shown = ax.imshow(
                ratio, cmap="RdBu_r", vmin=1 - SPREAD, vmax=1 + SPREAD, extent=extent, interpolation="nearest", alpha=0.9
            )
            ax.set_title(f"{engine} over mc", fontsize=9)
    if shown is not None:
        bar = figure.colorbar(shown, ax=axes[:, -1], shrink=0.7, extend="both")
        bar.set_label("dose over that of mc")
    figure.suptitle(
        f"{nuclide}: dose engines on a real anatomy, where mc knows a voxel to 10 %. Patient's right on the left. "
        "Activity assigned. Research use only.",
        fontsize=10,
    )
    return figure


def _focus(case: Case) -> tuple[int, int, int]:
    """Voxel through whose planes is looked: the middle of the kidneys, else of all activity."""
    kidneys = [m for n, m in case.targets.items() if n.startswith("kidney")]
    mask = np.any(kidneys, axis=0) if kidneys else case.tia_mbq_h > 0
    z, y, x = (round(float(v.mean())) for v in np.nonzero(mask))
    return z, y, x


def _histograms(case: Case, doses: Mapping[str, Array], nuclide: str) -> Figure:
    """Cumulative histograms of regions with activity, every engine."""
    names = [n for n, m in case.targets.items() if case.tia_mbq_h[m].sum() > 0]
    columns = 4
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(13, 2.7 * rows), facecolor="white", layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    for name, ax in zip(names, axes, strict=False):
        for engine, style in STYLES.items():
            values = np.sort(doses[engine][case.targets[name]])
            ax.plot(
                values, 100 * (1 - np.arange(values.size) / values.size), style, color=colour_of(name), label=engine, lw=1.3
            )
        ax.set_title(name_of(name), fontsize=9)
        ax.set_xlim(0, None)
        ax.tick_params(labelsize=7)
        ax.grid(alpha=0.25)
    axes[0].legend(fontsize=7)
    figure.supxlabel(f"absorbed dose, Gy ({nuclide}, activity assigned)", fontsize=9)
    figure.supylabel("% of volume", fontsize=9)
    return figure
