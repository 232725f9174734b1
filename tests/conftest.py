"""What all tests share."""

from __future__ import annotations

import pytest

import flows  # noqa: F401  telemetry of the libraries is switched off before any of them is imported


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share one set of servers run on one xdist worker, so that the servers start once."""
    for item in items:
        if item.get_closest_marker("services"):
            item.add_marker(pytest.mark.xdist_group("services"))
