"""The operator's dashboard (Panel): `serve_dashboard`."""

from __future__ import annotations

from typing import Any


def serve_dashboard(settings_or_home: Any, port: int = 0, show: bool = False) -> None:
    """Serve the dashboard; see `flows.dashboard.app.serve_dashboard`. Panel is imported only now: it takes seconds."""
    from flows.dashboard.app import serve_dashboard as serve

    serve(settings_or_home, port, show)


__all__ = ["serve_dashboard"]
