"""Reports: one self-contained HTML page per twin state."""

from flows.report.render import BANNER, render_report

__all__ = ["BANNER", "render_report"]
