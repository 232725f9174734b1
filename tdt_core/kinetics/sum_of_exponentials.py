"""The rung `sum_of_exponentials`: the tri-exponential of `exponential.py` under population priors.

Form: tri-exponential with zero start (Hardiansyah 2024, f4-type); rates are shared with the population through the prior, so
that a single time point can be fitted (population sum of exponentials).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tdt_core.kinetics.exponential import Exponentials
from tdt_core.kinetics.ladder import Covariates, register
from tdt_core.twin import Region


@dataclass(frozen=True)
class SumOfExponentials(Exponentials):
    """Three phases, five parameters per region, medians and spreads of the population."""

    wide: bool = False
    name: str = "sum_of_exponentials"


def _build(ligand: str, regions: Sequence[Region], covariates: Covariates) -> SumOfExponentials:
    return SumOfExponentials(ligand, tuple(regions))


register("sum_of_exponentials", _build)
