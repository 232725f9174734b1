"""A site: where it keeps things and which policy it has set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.settings import Settings, make_folders
from storage.evidence import EvidenceStore
from storage.home import Home
from storage.populations import PopulationStore
from storage.twins import TwinStore
from tdt_core.errors import SettingsError
from tdt_core.planning import limits, products, read_rows
from tdt_core.planning.outlook import Tissue, tissues
from tdt_core.twin import Limit, Product


@dataclass(frozen=True, eq=False)
class Site:
    """Where a site keeps things and which policy it has set."""

    settings: Settings
    home: Home
    evidence: EvidenceStore
    store: TwinStore
    limits: tuple[Limit, ...]
    products: Mapping[str, Product]
    tissues: Mapping[str, Tissue]
    populations: PopulationStore


def open_site(settings: Settings) -> Site:
    """Open the store and read the site's policy files. Raises StoreError, PlanningError, SettingsError."""
    home = make_folders(settings)
    policy = limits(_rows(settings.limits))
    plans = products(_rows(settings.products))
    return Site(settings, home, EvidenceStore(home), TwinStore(home), policy, plans, tissues(policy), PopulationStore(home))


def _rows(path: Path | None) -> list[dict[str, str]] | None:
    if path is None:
        return None
    try:
        return read_rows(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"the policy file {path} cannot be read: {error}",
            expected="a CSV file in UTF-8",
            remedy="correct `limits` or `products` in the settings",
            kind="settings.file",
        ) from error
