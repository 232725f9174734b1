"""The next activity: the largest inside the product's range whose joint risk of exceeding any limit's allowance is accepted.

Each limit's remaining allowance is spread evenly over the planned remaining cycles. Per draw the largest harmless activity is
in closed form, so the risk curve is the empirical distribution of that activity:

    AD:   a = allowance / d
    BED:  a d + G (a d)^2 / (alpha/beta) = allowance   ->   a = [sqrt(1 + 4 G allowance / ab) - 1] ab / (2 G d)

with d the organ's absorbed dose per MBq in the next cycle (posterior, drift included), G its Lea-Catcheside factor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.draws import summarised
from tdt_core.errors import PlanningError
from tdt_core.radiobiology import bed
from tdt_core.twin import Limit, Product, Proposal

FloatArray = npt.NDArray[np.float64]

CURVE_POINTS = 61
ROUND_MBQ = 10.0


@dataclass(frozen=True, eq=False)
class OrganOutlook:
    """What the next cycle would do to an organ and what past cycles did, per draw (n,), draws paired.

    gy_per_mbq : absorbed dose per MBq. lea_catcheside : G of its dose rate. cumulative_gy : in the limit's quantity.
    """

    gy_per_mbq: FloatArray
    lea_catcheside: FloatArray
    cumulative_gy: FloatArray


def largest_harmless_activity(limit: Limit, outlook: OrganOutlook, remaining_cycles: int) -> FloatArray:
    """(n,) MBq that uses up the limit's allowance of one cycle, per draw; 0 where nothing remains."""
    allowance = np.maximum(limit.value_gy - outlook.cumulative_gy, 0.0) / remaining_cycles
    dose = np.maximum(outlook.gy_per_mbq, 1e-300)
    if limit.quantity == "AD":
        return np.asarray(allowance / dose)
    assert limit.alpha_beta_gy is not None
    x = 4.0 * outlook.lea_catcheside * allowance / limit.alpha_beta_gy
    # 2 allowance / (1 + sqrt(1 + x)) is the root without cancellation for small x
    return np.asarray(2.0 * allowance / (1.0 + np.sqrt(1.0 + x)) / dose)


def with_cycle(limit: Limit, outlook: OrganOutlook, activity_mbq: float) -> FloatArray:
    """(n,) Gy in the limit's quantity after a next cycle of that activity, draw by draw with what was given before."""
    dose = activity_mbq * outlook.gy_per_mbq
    if limit.quantity == "AD":
        return np.asarray(outlook.cumulative_gy + dose)
    assert limit.alpha_beta_gy is not None
    return np.asarray(outlook.cumulative_gy + bed(dose, outlook.lea_catcheside, limit.alpha_beta_gy))


def propose(
    state: str,
    cycle: int,
    outlooks: Mapping[str, OrganOutlook],
    limits: Sequence[Limit],
    product: Product,
    remaining_cycles: int,
    objections: Sequence[str] = (),
    missing: Mapping[str, str] | None = None,
) -> Proposal:
    """Chance-constrained proposal for cycle `cycle`, or an abstention with its reasons.

    Parameters
    ----------
    outlooks : by organ; a limit whose organ is missing makes the twin abstain.
    remaining_cycles : planned cycles not yet given, the next one included; 0 makes the twin abstain.
    objections : failed diagnostics, in words; any makes the twin abstain, the curve is still computed.
    missing : by organ, why it has no outlook, where that is known.
    """
    if not limits:
        raise PlanningError("no limits are set", remedy="name a limits file in the settings, or use the packaged one")
    reasons = list(objections)
    why = missing or {}
    reasons += [
        why.get(x.organ, f"no dose estimate for {x.organ}, which has a limit") for x in limits if x.organ not in outlooks
    ]
    if remaining_cycles < 1:
        reasons.append(f"all {product.planned_cycles} planned cycles of {product.name} have been given")
    known = [x for x in limits if x.organ in outlooks]
    spread_over = max(remaining_cycles, 1)
    largest = {x.organ: largest_harmless_activity(x, outlooks[x.organ], spread_over) for x in known}
    rows = tuple(_limit_row(x, outlooks[x.organ], spread_over, product) for x in known)
    curve = _curve(largest, product)
    low, high = product.activity_range_mbq
    accepted = min(x.risk for x in limits)
    if reasons or not largest:
        return Proposal(state, cycle, None, "", None, tuple(reasons), rows, curve, product.name, remaining_cycles)
    joint = np.sort(np.min(list(largest.values()), axis=0))
    unrounded = float(joint[int(np.floor(accepted * joint.size))])
    if unrounded < low:
        risk = float((joint < low).mean())
        reasons.append(
            f"even the smallest allowed activity ({low:.0f} MBq) exceeds a limit's allowance with probability {risk:.0%} "
            f"(accepted {accepted:.0%})"
        )
        return Proposal(state, cycle, None, "", None, tuple(reasons), rows, curve, product.name, remaining_cycles)
    activity = float(np.floor(min(unrounded, high) / ROUND_MBQ) * ROUND_MBQ)
    activity = max(activity, low)
    # what of the risk is whose, where it reaches what is accepted
    of_limit = {organ: float((a <= unrounded).mean()) for organ, a in largest.items()}
    first = sorted(of_limit, key=lambda o: (-of_limit[o], float(np.quantile(largest[o], accepted))))
    binding = "allowed range" if unrounded >= high else first[0]
    risk = float((joint < activity).mean())
    rows = tuple(
        row | {"after_gy": summarised(with_cycle(x, outlooks[x.organ], activity))} for x, row in zip(known, rows, strict=True)
    )
    if binding == "allowed range":
        reasons.append(f"the largest allowed activity ({high:.0f} MBq) keeps every limit with risk {risk:.1%}")
    else:
        shares = ", ".join(f"{organ} {of_limit[organ]:.1%}" for organ in first)
        reasons.append(
            f"above {activity:.0f} MBq the risk to exceed a limit's allowance is more than {accepted:.0%} ({shares})"
        )
    reasons.append(f"the remaining allowance is spread evenly over {remaining_cycles} planned cycles")
    return Proposal(state, cycle, activity, binding, risk, tuple(reasons), rows, curve, product.name, remaining_cycles)


def _limit_row(limit: Limit, outlook: OrganOutlook, remaining_cycles: int, product: Product) -> dict[str, Any]:
    allowance = np.maximum(limit.value_gy - outlook.cumulative_gy, 0.0) / remaining_cycles
    return {
        "organ": limit.organ,
        "quantity": limit.quantity,
        "limit_gy": limit.value_gy,
        "risk": limit.risk,
        "source": limit.source,
        "status": limit.status,
        "set_by": limit.set_by,
        "cumulative_q50_gy": float(np.median(outlook.cumulative_gy)),
        "cumulative_q95_gy": float(np.quantile(outlook.cumulative_gy, 0.95)),
        "allowance_q50_gy": float(np.median(allowance)),
        "gy_per_gbq_q50": float(np.median(outlook.gy_per_mbq) * 1e3),
        "standard_activity_mbq": product.standard_activity_mbq,
    }


def _curve(largest: Mapping[str, FloatArray], product: Product) -> dict[str, Any]:
    low, high = product.activity_range_mbq
    activities = np.linspace(0.5 * low, 1.25 * high, CURVE_POINTS)
    per_limit = {organ: [(float((a < x).mean())) for x in activities] for organ, a in largest.items()}
    joint = np.min(list(largest.values()), axis=0) if largest else np.zeros(1)
    return {
        "activity_mbq": activities.tolist(),
        "any": [float((joint < x).mean()) for x in activities] if largest else [],
        "per_limit": per_limit,
        "range_mbq": [low, high],
    }
