"""What to give next: limits and products as data, chance-constrained proposal, abstention."""

from tdt_core.planning.diagnostics import objections
from tdt_core.planning.policy_data import limits, product_for, products, read_rows
from tdt_core.planning.proposal import OrganOutlook, largest_harmless_activity, propose

__all__ = [
    "OrganOutlook",
    "largest_harmless_activity",
    "limits",
    "objections",
    "product_for",
    "products",
    "propose",
    "read_rows",
]
