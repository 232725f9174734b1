"""Administrations as an SBML document needs them: amounts of each label, minutes after the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tdt_core.errors import ModelError
from tdt_core.kinetics.schedules import MIN_PER_H, administered, amount_nmol
from tdt_core.nuclides import nuclide as nuclide_of
from tdt_core.twin import Administration


@dataclass(frozen=True)
class Dose:
    """One administration: minutes after the first, nmol of each label, nuclide of each radioactive one, label of the cold."""

    start_min: float
    duration_min: float
    amounts: Mapping[str, float]
    nuclides: Mapping[str, str]
    cold: str


def nuclides_of(
    labels: tuple[str, ...], named: str | None, given: Sequence[Administration], integrals: bool
) -> Mapping[str, str]:
    """Nuclide of each radioactive label; of the only label where its integrals need one."""
    used = administered(given)
    radioactive = labels[:-1] if len(labels) > 1 else labels if integrals else ()
    if not labels or len(set(labels)) < len(labels) or any("/" in label for label in labels):
        raise ModelError(f"labels {labels}", expected="different names without a slash", kind="model.label")
    if len(radioactive) > 1:
        out = {label: label for label in radioactive}
    elif not radioactive:
        return {}
    else:
        if named is None and len(used) != 1:
            raise ModelError(
                f"the label {radioactive[0]} has no nuclide" if not used else f"nuclides {', '.join(used)} for one label",
                expected="one nuclide",
                remedy="pass nuclide, or name one label after each nuclide and the last one cold",
                kind="model.sbml",
            )
        out = {radioactive[0]: named or used[0]}
    strangers = [n for n in used if n not in out.values()]
    if strangers and len(labels) > 1:
        raise ModelError(
            f"the schedule gives {', '.join(strangers)}, which no label counts",
            expected=f"nuclides of the labels: {', '.join(out.values())}",
            remedy="name one label after each nuclide and the last one cold",
            kind="model.sbml",
        )
    return out


def dose_of(a: Administration, hot: Mapping[tuple[str, str], str], cold: Mapping[str, str], origin_h: float) -> Dose:
    """What one administration brings to each label.

    Parameters
    ----------
    hot : (ligand, nuclide) -> radioactive label, none where only the total is counted. cold : ligand -> label of the rest. The
        ligand "" is any.

    Raises
    ------
    ModelError `model.amount` for more radioactive ligand than ligand.
    """
    ligand = "" if "" in cold else a.ligand
    total, rest = amount_nmol(a), cold[ligand]
    start_min, duration_min = (a.time_h - origin_h) * MIN_PER_H, a.duration_h * MIN_PER_H
    if not hot or not a.nuclide:
        return Dose(start_min, duration_min, {rest: total}, {}, rest)
    label = hot[ligand, a.nuclide]
    radioactive = a.net_activity_mbq / nuclide_of(a.nuclide).mbq_per_nmol
    if radioactive > total * (1 + 1e-9):
        raise ModelError(
            f"{a.net_activity_mbq:g} MBq of {a.nuclide} at {a.time_h:g} h are {radioactive:g} nmol, of {total:g} nmol ligand",
            expected="no more radioactive ligand than ligand",
            remedy="correct the activity or the ligand amount",
            kind="model.amount",
        )
    amounts = {label: radioactive, rest: max(total - radioactive, 0.0)}
    return Dose(start_min, duration_min, amounts, {label: a.nuclide}, rest)
