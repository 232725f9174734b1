"""Limits and products as data with sources; a site's file of the same form replaces the packaged one."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping

from tdt_core.errors import PlanningError
from tdt_core.parameters import packaged_csv
from tdt_core.twin import Limit, Product


def limits(rows: Iterable[Mapping[str, str]] | None = None) -> tuple[Limit, ...]:
    """Limits from CSV rows, by default the packaged ones.

    Raises
    ------
    PlanningError : an organ limited twice, a BED limit without alpha/beta and repair half-time, a value that is not positive.
    """
    found: list[Limit] = []
    for row in packaged_csv("limits.csv") if rows is None else rows:
        try:
            limit = Limit(
                organ=row["organ"],
                quantity=row["quantity"],  # type: ignore[arg-type]
                value_gy=float(row["value_gy"]),
                risk=float(row["risk"]),
                source=row["source"],
                status=row["status"],
                set_by=row["set_by"],
                alpha_beta_gy=float(row["alpha_beta_gy"]) if row["alpha_beta_gy"] else None,
                repair_half_time_h=float(row["repair_half_time_h"]) if row["repair_half_time_h"] else None,
            )
        except (KeyError, ValueError) as e:
            raise PlanningError(
                f"a row of the limits cannot be read: {e}", remedy="use the columns of the packaged limits.csv"
            ) from e
        if limit.quantity not in ("AD", "BED"):
            raise PlanningError(f"limit of {limit.organ} is in {limit.quantity!r}", expected="AD or BED")
        if limit.quantity == "BED" and (limit.alpha_beta_gy is None or limit.repair_half_time_h is None):
            raise PlanningError(f"BED limit of {limit.organ} lacks alpha/beta or repair half-time", expected="both")
        if not (limit.value_gy > 0 and 0 < limit.risk < 1):
            raise PlanningError(f"limit of {limit.organ}: {limit.value_gy} Gy at risk {limit.risk}", expected="> 0, 0 to 1")
        if any(other.organ == limit.organ for other in found):
            raise PlanningError(f"organ {limit.organ} is limited twice", expected="one limit per organ, in AD or in BED")
        found.append(limit)
    return tuple(found)


def products(rows: Iterable[Mapping[str, str]] | None = None) -> dict[str, Product]:
    """Products by name from CSV rows, by default the packaged ones.

    Raises
    ------
    PlanningError : a column that is missing or no number, an activity range that is empty or not positive.
    """
    table = {}
    for row in packaged_csv("products.csv") if rows is None else rows:
        try:
            product = _product(row)
        except (KeyError, ValueError) as e:
            raise PlanningError(
                f"a row of the products cannot be read: {e}", remedy="use the columns of the packaged products.csv"
            ) from e
        low, high = product.activity_range_mbq
        if not 0 < low <= high:
            raise PlanningError(f"product {product.name} allows {low} to {high} MBq", expected="0 < minimum <= maximum")
        table[product.name] = product
    return table


def _product(row: Mapping[str, str]) -> Product:
    return Product(
        name=row["name"],
        ligand=row["ligand"],
        nuclide=row["nuclide"],
        planned_cycles=int(row["planned_cycles"]),
        activity_range_mbq=(float(row["activity_min_mbq"]), float(row["activity_max_mbq"])),
        standard_activity_mbq=float(row["standard_activity_mbq"]),
        interval_h=float(row["interval_h"]),
        source=row["source"],
        status=row["status"],
        standard_amount_nmol=float(row["amount_nmol"]) if row.get("amount_nmol") else None,
    )


def product_for(ligand: str, nuclide: str, table: Mapping[str, Product] | None = None) -> Product:
    """The product of a ligand and nuclide. Raises PlanningError when there is none."""
    table = products() if table is None else table
    for product in table.values():
        if (product.ligand, product.nuclide) == (ligand, nuclide):
            return product
    raise PlanningError(
        f"no product with {nuclide} and {ligand}",
        expected=f"one of {sorted(table)}",
        remedy="add its plan to the products file that the settings name",
        kind="planning.product",
    )


def read_rows(text: str) -> list[dict[str, str]]:
    """CSV text with `#` comment lines as rows."""
    return list(csv.DictReader(line for line in text.splitlines() if line.strip() and not line.startswith("#")))
