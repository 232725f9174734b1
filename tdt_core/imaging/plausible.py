"""What a series of scans cannot show: activity that rises although none was given between them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from tdt_core.imaging.volume import Scan
from tdt_core.nuclides import nuclide
from tdt_core.parameters import packaged_table
from tdt_core.twin import RegionActivity


def rising_activity(scans: Sequence[Scan], activities: Sequence[RegionActivity]) -> list[str]:
    """Findings for scans of a cycle, in order of time, that hold more activity than decay leaves of the scan before.

    Decay alone bounds the whole field of view from above; `activity.largest_rise` is left for noise and for another field of
    view. Exchanged scan times and wrong calibrations show here.
    """
    allowed = 1.0 + packaged_table("imaging_parameters.csv").value("activity.largest_rise")
    held = {s.id: sum(a.activity_mbq for a in activities if a.scan == s.id) for s in scans}
    out = []
    for one, other in pairwise(scans):
        if not one.nuclide or one.nuclide != other.nuclide or held[one.id] <= 0:
            continue
        left = held[one.id] * 2.0 ** (-(other.time_h - one.time_h) / nuclide(one.nuclide).half_life_h)
        if held[other.id] > allowed * left:
            out.append(
                f"the scan {other.time_h:.1f} h after the first therapy holds {held[other.id]:.0f} MBq, "
                f"the one {one.time_h:.1f} h after the first therapy {held[one.id]:.0f} MBq, "
                f"of which decay leaves at most {left:.0f}: "
                "check scan times, calibration and fields of view"
            )
    return out
