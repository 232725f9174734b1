"""Dose slices: one plane at a time with isodose lines, a slider through the body, dose and its sd under the pointer."""

from __future__ import annotations

from typing import Any

import numpy as np
import panel
import xarray as xr
from bokeh.models import ColumnDataSource, HoverTool, Range1d
from bokeh.models.annotations import Label
from bokeh.plotting import figure

from flows.report import volumes
from flows.report.pictures import colour_bar, legend
from tdt_core.twin import TwinState

pn: Any = panel  # its widgets carry no types
bokeh_figure: Any = figure

HEIGHT_PX = 700


class SliceViewer:
    """The dose volumes of one state, plane by plane.

    `panel` is what goes on the page. Every picture names its unit, the state and the time of its data.
    """

    def __init__(self, state: TwinState, dose: xr.Dataset, css: str) -> None:
        self.view = volumes.view_of(dose)
        self.state = state
        self.levels = volumes.levels_for(self.view, state.summary) or [1.0]
        self.sd_top = volumes.uncertainty_top(self.view, self.levels[0])
        region = volumes.organ_in_focus(self.view, state.summary) or volumes.lesion_in_focus(self.view, state.summary)
        centre = volumes.focus_of(self.view, [region] if region else [])
        self.focus = list(centre or tuple(n // 2 for n in self.view.dose.shape))
        self.plane = pn.widgets.RadioButtonGroup(label="Plane", options=["coronal", "axial", "sagittal"], value="coronal")
        self.quantity = pn.widgets.RadioButtonGroup(
            label="Quantity", options=["absorbed dose", "relative SD"], value="absorbed dose"
        )
        self.slider = pn.widgets.IntSlider(label="Slice", start=1, end=2, value=1, sizing_mode="stretch_width")
        self.outlines = pn.widgets.Checkbox(label="region outlines", value=True)
        self.caption = pn.pane.HTML("", stylesheets=[css], sizing_mode="stretch_width")
        self.legend = pn.pane.HTML("", stylesheets=[css], sizing_mode="stretch_width")
        self.image = ColumnDataSource({"image": [], "x": [], "y": [], "dw": [], "dh": []})
        self.values = ColumnDataSource({"dose": [], "sd": [], "x": [], "y": [], "dw": [], "dh": []})
        self.lines = ColumnDataSource({"xs": [], "ys": [], "colour": [], "width": [], "dash": []})
        self.figure = self._figure()
        self.plot = pn.pane.Bokeh(self.figure)
        self.panel = pn.Column(
            pn.Row(self.plane, self.quantity, self.outlines),
            self.slider,
            pn.Row(self.plot, pn.Column(self.legend, self.caption, width=260), sizing_mode="stretch_width"),
            sizing_mode="stretch_width",
        )
        self.plane.param.watch(lambda _: self._turn(), "value")
        self.slider.param.watch(lambda _: self._draw(), "value_throttled")
        self.quantity.param.watch(lambda _: self._draw(), "value")
        self.outlines.param.watch(lambda _: self._draw(), "value")
        self._turn()

    def _figure(self) -> Any:
        plot = bokeh_figure(
            height=HEIGHT_PX, width=HEIGHT_PX, match_aspect=True,
            x_range=Range1d(start=0, end=1), y_range=Range1d(start=0, end=1),
            tools="pan,wheel_zoom,reset", active_scroll=None, toolbar_location="right", background_fill_color="#000000",
            output_backend="canvas",
        )  # fmt: skip
        plot.toolbar.logo = None
        plot.axis.visible = False
        plot.grid.visible = False
        plot.image_rgba("image", "x", "y", "dw", "dh", source=self.image)
        values = plot.image("dose", "x", "y", "dw", "dh", source=self.values, global_alpha=0.0)
        tips = [("absorbed dose", "@dose{0.00} Gy"), ("standard deviation", "@sd{0.00} Gy")]
        plot.add_tools(HoverTool(renderers=[values], tooltips=tips))
        plot.multi_line("xs", "ys", source=self.lines, line_color="colour", line_width="width", line_dash="dash")
        common: dict[str, Any] = {"text_color": "#f4f7f9", "text_font_style": "bold", "x_units": "screen", "y_units": "screen"}
        self.letters = [Label(x=0, y=0, text="", text_align="center", text_baseline="middle", **common) for _ in range(4)]
        for label in self.letters:
            plot.add_layout(label)
        return plot

    def _turn(self) -> None:
        """Another plane: other extent, other letters, slider to the plane's own position."""
        name = self.plane.value
        axis = volumes.AXES[name]
        self.slider.end = self.view.dose.shape[axis]
        self.slider.value = self.focus[axis] + 1
        rows, columns = volumes.plane_of(self.view.dose, name, 0).shape
        dy, dx = volumes.plane_spacing(self.view, name)
        high, wide = rows * dy, columns * dx
        scale = HEIGHT_PX / max(high, wide)
        width, height = round(wide * scale) + 40, round(high * scale) + 10
        self.figure.width, self.figure.height = width, height
        self.figure.x_range.update(start=0, end=wide)
        self.figure.y_range.update(start=0, end=high)
        places = [(14, height / 2), (width - 58, height / 2), (width / 2 - 20, height - 26), (width / 2 - 20, 12)]
        for label, letter, (x, y) in zip(self.letters, volumes.LETTERS[name], places, strict=True):
            label.update(text=letter, x=x, y=y)
        self._draw()

    def _draw(self) -> None:
        name = self.plane.value
        axis = volumes.AXES[name]
        index = self.focus[axis] = int(self.slider.value) - 1
        relative = self.quantity.value == "relative SD"
        if relative:
            rgb = volumes.uncertainty_picture(self.view, name, index, self.levels[0], self.sd_top)
        else:
            rgb = volumes.dose_picture(self.view, name, index, self.levels)
        dose, sd = (volumes.plane_of(v, name, index) for v in (self.view.dose, self.view.sd))
        dy, dx = volumes.plane_spacing(self.view, name)
        place = {"x": [0], "y": [0], "dw": [dose.shape[1] * dx], "dh": [dose.shape[0] * dy]}
        self.image.data = {"image": [_rgba(rgb)], **place}
        self.values.data = {"dose": [dose[::-1].astype(np.float32)], "sd": [sd[::-1].astype(np.float32)], **place}
        self.lines.data = self._lines(name, index, dose, relative)
        if relative:
            self.legend.object = str(colour_bar(self.sd_top, "Relative standard deviation of voxel dose"))
        else:
            self.legend.object = str(legend(self.levels, "Absorbed dose of this cycle, isodose lines"))
        unit = "% of the voxel mean" if relative else "Gy"
        self.caption.object = (
            f'<p class="note">Unit: {unit}. State <span class="mono">{self.state.id[:12]}'
            f"</span>, cycle {self.state.cycle}, began on day {self.state.valid_time_h / 24:.0f}. Slice {index + 1} of "
            f"{self.view.dose.shape[axis]}. Patient's right is on the left. Research use only.</p>"
        )

    def _lines(self, name: str, index: int, dose: volumes.Array, relative: bool) -> dict[str, list[Any]]:
        spacing = volumes.plane_spacing(self.view, name)
        height = dose.shape[0] * spacing[0]
        data: dict[str, list[Any]] = {"xs": [], "ys": [], "colour": [], "width": [], "dash": []}

        def add(image: volumes.Array, level: float, colour: str, width: float, dash: list[int]) -> None:
            for line in volumes.contours(image, level, spacing):
                data["xs"].append(line[:, 0])
                data["ys"].append(height - line[:, 1])
                data["colour"].append(colour)
                data["width"].append(width)
                data["dash"].append(dash)

        if self.outlines.value:
            labels = volumes.plane_of(self.view.label, name, index)
            for n in np.unique(labels[labels > 0]):
                add((labels == n).astype(float), 0.5, "#6fd3ff", 1.0, [4, 3])
        if not relative:
            for level, colour in zip(self.levels, volumes.level_colours(len(self.levels)), strict=True):
                add(dose, level, colour, 1.6, [])
        return data


def _rgba(rgb: volumes.Array) -> np.ndarray[Any, Any]:
    """Colours as bokeh takes them: (rows, columns) of packed 8-bit RGBA, first row at the bottom."""
    rows, columns, _ = rgb.shape
    packed = np.empty((rows, columns), dtype=np.uint32)
    bytes_of = packed.view(np.uint8).reshape(rows, columns, 4)
    bytes_of[..., :3] = np.clip(255 * rgb[::-1], 0, 255)
    bytes_of[..., 3] = 255
    return packed
