"""`tdt identify`: what a state's own data determine of doses and parameters, told as plain JSON. Nothing is written.

Every number is told with its label: learned where all data up to now have removed at least half (`LEARNED_ABOVE` of
`flows.summary`) of the population's variance, of doses that of ln dose, else assumed. Doses and chosen parameters are profiled
(`tdt_core.assimilation.profile`); rises are those of 2J.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator

from flows.ladder import asked_for
from flows.priors import prior_of
from flows.report.style import contents
from flows.report.svg import INK, MUTED, PAPER, Frame, document, rule, text
from flows.summary import LEARNED_ABOVE
from storage.twins import TwinStore
from tdt_core.assimilation import population_prior, state_model
from tdt_core.assimilation.problem import Problem
from tdt_core.assimilation.profile import REACH, WIDE, Profile, Scalar, log_quantity, parameter, profiles
from tdt_core.errors import UsageError
from tdt_core.kinetics import KineticModel, source_activity
from tdt_core.planning.forecast import dose_matrix
from tdt_core.planning.outlook import ledger_names, with_organs
from tdt_core.twin import Administration, TwinState

FloatArray = npt.NDArray[np.float64]

QUANTITIES = ("kidneys", "lesions")
"""Profiled where nothing is asked for; `lesions` is the mean over the mass of all of them, which no ledger holds."""
POPULATION = 22  # stream of random numbers, see tdt_core.planning.forecast
SHOWN_RISE = 6.0
RISE_90 = 2.706
"""Rise of 2J at the ends of a 90 % interval: the chi-square quantile of one degree of freedom."""
HEAD = 44.0
"""Height of the lines above the panels, px."""
COLOURS = {"posterior": "#1f6f8b", "likelihood": "#b5562b"}


def identified(
    store: TwinStore, state_id: str, quantities: Sequence[str] = (), parameters: Sequence[str] = ()
) -> dict[str, Any]:
    """The tables of `tdt identify` for a state.

    Parameters
    ----------
    quantities : regions or organs of the dose ledger, or `lesions`, whose absorbed dose is profiled; none: QUANTITIES, as far
        as the patient has them. parameters : names of the fit's parameters and nuisances to profile.

    Raises
    ------
    UsageError : an unknown name. EstimationError : a state without a datum.
    """
    state = store.load(state_id)
    rung = state_model(state)
    lesions = ("lesions",) if any(r.organ == "lesions" for r in rung.regions) else ()
    names = (*ledger_names(rung.regions), *lesions)
    wanted = list(quantities) or [q for q in QUANTITIES if q in names]
    for asked, known in ((wanted, names), (parameters, state.posterior.names)):
        for name in asked:
            if name not in known:
                raise UsageError(f"nothing named {name!r}", expected=f"one of {', '.join(known)}", kind="usage.identify")
    given, _ = asked_for(state)
    doses = {q: _dose(state, rung, given, q) for q in wanted}

    def scalars(problem: Problem) -> tuple[Scalar, ...]:
        told = [log_quantity(problem, q, dose) for q, dose in doses.items()]
        return (*told, *(parameter(problem, name) for name in parameters))

    found = profiles(prior_of(store, state, rung), state.evidence, rung, state.posterior, scalars)
    n = len(rung.parameters)
    population = population_prior(rung)
    rng = np.random.default_rng([int(state.identity.get("root_seed", 0)), state.cycle, POPULATION])
    born = population.draws(len(state.posterior.draws), rng)
    share = {q: _removed(dose(state.posterior.draws[:, :n]), dose(born)) for q, dose in doses.items()}
    learned = 1.0 - np.diag(state.posterior.covariance)[:n] / np.diag(population.covariance)
    by_parameter = dict(zip(rung.parameters, learned.tolist(), strict=True))
    return {
        "state": state.id,
        "pid": state.pid,
        "cycle": state.cycle,
        "model": rung.name,
        "product": given.product,
        "activity_mbq": given.net_activity_mbq,
        "profiles": [_told(p, p.name in doses, (share | by_parameter).get(p.name)) for p in found],
        "parameters": [
            {"name": name, "variance_removed": value, "label": _label(value)} for name, value in by_parameter.items()
        ],
        "rise_of": "2J",
        "rise_90": RISE_90,
        "learned_from": LEARNED_ABOVE,
        "wide": WIDE,
        "reach_sd": REACH,
    }


def _dose(state: TwinState, rung: KineticModel, given: Administration, quantity: str) -> Callable[[FloatArray], FloatArray]:
    """(m, n) -> (m,) absorbed dose of the cycle, Gy, by the state's own dose factors."""
    names, matrix = ledger_names(rung.regions), dose_matrix(state)
    mass = np.array([r.mass_g if r.organ == "lesions" else 0.0 for r in rung.regions])
    weights = (
        np.eye(len(names))[names.index(quantity)]
        if quantity in names
        else np.pad(mass / mass.sum(), (0, len(names) - mass.size))
    )

    def dose(theta: FloatArray) -> FloatArray:
        by_region = (source_activity(rung, theta, given) @ matrix.T).T
        return np.asarray(weights @ with_organs(rung.regions, by_region))

    return dose


def _removed(now: FloatArray, before: FloatArray) -> float:
    return 1.0 - float(np.log(now).var() / np.log(before).var())


def _label(variance_removed: float) -> str:
    return "learned" if variance_removed >= LEARNED_ABOVE else "assumed"


def _told(p: Profile, dose: bool, variance_removed: float | None) -> dict[str, Any]:
    """A profile as plain data; of doses in Gy, of parameters in the fit's own space."""

    def out(value: float | None) -> float | None:
        return None if value is None else float(np.exp(value)) if dose else float(value)

    return {
        "name": p.name,
        "unit": "Gy" if dose else "",
        "basis": p.basis,
        "best": out(p.best),
        "low": out(p.low),
        "high": out(p.high),
        "laplace": [out(x) for x in p.laplace],
        "values": [out(x) for x in p.values.tolist()],
        "rise": (2.0 * p.rise).tolist(),
        "identified": verdict(p.low, p.high),
        "variance_removed": variance_removed,
        "label": None if variance_removed is None else _label(variance_removed),
        "moved": p.moved,
    }


def verdict(low: float | None, high: float | None) -> str:
    """Which sides of an interval have an end."""
    sides = {(True, True): "both sides", (True, False): "below only", (False, True): "above only", (False, False): "no side"}
    return sides[low is not None, high is not None]


def interval(row: Mapping[str, Any], key: str = "") -> str:
    """An interval in words, open where it has no end."""
    low, high = row["laplace"] if key == "laplace" else (row["low"], row["high"])
    return f"{'open' if low is None else f'{low:.3g}'} to {'open' if high is None else f'{high:.3g}'}"


def picture(told: Mapping[str, Any]) -> str:
    """SVG with a panel for each profiled name: the rise of 2J over posterior, likelihood and the Laplace parabola (dashed), and
    the height of the 90 % interval (dotted); dots are the points that were computed. Above: whose, which state, what for."""
    names = list(dict.fromkeys(p["name"] for p in told["profiles"]))
    panels = [
        text(
            2, 14, f"Patient {told['pid']}, cycle {told['cycle']}, state {told['state'][:12]}", size=11, fill=INK, weight="600"
        ),
        text(2, 30, f"{told['activity_mbq']:.0f} MBq of {told['product']}. Research use only.", size=10.5, fill=INK),
    ]
    height = 210.0
    for k, name in enumerate(names):
        rows = [p for p in told["profiles"] if p["name"] == name]
        kept = [x for p in rows for x, r in zip(p["values"], p["rise"], strict=True) if r <= SHOWN_RISE] or rows[0]["values"]
        low, high = min(kept), max(kept)
        frame = Frame((low, high if high > low else low + 1.0), (0.0, SHOWN_RISE), width=460, height=height)
        of = f"absorbed dose of {contents(name)}, {unit}" if (unit := rows[0]["unit"]) else f"{name}, in the fit's own space"
        parts = frame.axes(of, "rise of 2J")
        y = frame.y(RISE_90)
        parts.append(rule(*_edges(frame, y), MUTED, 1, "2 3"))
        # in the middle of the posterior's valley, which its own line does not cross at that height
        parts.append(
            text(frame.x(rows[0]["best"]), y - 3, f"90 % ({RISE_90:.1f})", fill=MUTED, size=9, anchor="middle", halo=PAPER)
        )
        for n, row in enumerate(rows):
            colour = COLOURS[row["basis"]]
            parts.append(frame.line(*_between(row), colour))
            shown = [(x, r) for x, r in zip(row["values"], row["rise"], strict=True) if r <= SHOWN_RISE]
            parts += [frame.point(x, r, 0.0, colour, tip=f"{x:.4g} {row['unit']}: 2J rises by {r:.2f}") for x, r in shown]
            parts.append(text(frame.x_edges[1] - 165 + 65 * n, 14, row["basis"], fill=colour, anchor="end"))
        parts.append(frame.line(*_parabola(rows[0], low, high), INK, 1.0, "4 3"))
        parts.append(text(frame.x_edges[1], 14, "Laplace (dashed)", fill=INK, anchor="end"))
        panels.append(f'<g transform="translate(0 {HEAD + k * height:.0f})">{"".join(parts)}</g>')
    words = f"Profiles of state {told['state'][:12]}, research use only"
    return str(document(460, HEAD + height * len(names), panels, words))


def _edges(frame: Frame, y: float) -> tuple[float, float, float, float]:
    left, right = frame.x_edges
    return left, y, right, y


def _between(row: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """A profile between its points: its signed root is nearly straight, so that is interpolated and squared."""
    values, first = np.unique(row["values"], return_index=True)
    rise = np.array(row["rise"])[first]
    if values.size < 2:
        return values.tolist(), rise.tolist()
    root = PchipInterpolator(values, np.sign(values - values[np.argmin(rise)]) * np.sqrt(rise))
    xs = np.unique(np.concatenate([np.linspace(values[0], values[-1], 80), values]))
    between = np.square(root(xs))
    best = int(np.argmin(between))
    over = np.flatnonzero(between > SHOWN_RISE)  # beyond the frame, maybe not for good: what comes after is not drawn
    begin = max(over[over < best], default=-1) + 1
    end = min(over[over > best], default=len(xs))
    return xs[begin:end].tolist(), between[begin:end].tolist()


def _parabola(row: Mapping[str, Any], low: float, high: float) -> tuple[list[float], list[float]]:
    """The rise of the Gaussian of the curvature; of doses it is Gaussian in ln."""
    scale: Callable[..., Any] = np.log if row["unit"] else np.asarray
    xs = np.linspace(low, high, 60)
    ends = scale(np.array(row["laplace"]))
    rise = RISE_90 * ((scale(xs) - scale(row["best"])) / (0.5 * (ends[1] - ends[0]))) ** 2
    shown = rise <= SHOWN_RISE
    return xs[shown].tolist(), rise[shown].tolist()
