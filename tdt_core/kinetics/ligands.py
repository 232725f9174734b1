"""Which ligand family's parameters a product's ligand uses."""

from __future__ import annotations

from tdt_core.errors import ModelError

FAMILIES = {
    "PSMA-617": "PSMA-617",
    "PSMA-I&T": "PSMA-617",
    "PSMA-11": "PSMA-617",
    "DCFPyL": "PSMA-617",
    "DOTATATE": "DOTATATE",
    "DOTATOC": "DOTATATE",
}
"""Ligand -> family. A ligand other than the family's own borrows its parameters: an assumption that outputs show."""


def family(ligand: str) -> str:
    """Family of a ligand. Raises ModelError for one that has no parameters."""
    try:
        return FAMILIES[ligand]
    except KeyError:
        raise ModelError(
            f"no kinetic parameters for ligand {ligand!r}",
            expected=f"one of {sorted(FAMILIES)}",
            remedy="name the ligand in the administration record as listed, or add its parameters",
            kind="model.ligand",
        ) from None
