"""What the dose step hands to the organ level."""

from __future__ import annotations

from flows.steps import is_peptide


def test_ligands_of_psma_and_sstr_count_as_peptides_and_unknown_ones_do_not() -> None:
    assert is_peptide("PSMA-617")
    assert is_peptide("DOTATATE")
    assert not is_peptide("an antibody")
