"""A normalising flow in PyTorch: affine couplings (Dinh et al. 2017, Real NVP) and a triangular map behind them.

    v = couplings(u),   w = shift + T v,   u ~ N(0, I)

Pure functions of a dictionary of tensors. At the start the couplings' last layers are zero and T = I: the flow is the identity.
Importing this module needs PyTorch, which is an optional extra; only `network.py` imports it, when a fit asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

FloatArray = npt.NDArray[np.float64]
Parameters = Mapping[str, torch.Tensor]
Gradient = Callable[[FloatArray], tuple[FloatArray, npt.NDArray[np.bool_]]]
"""(m, p) places -> (m, p) gradient of J there, (m,) which places have one."""

STEEPEST = 1.0
"""Largest |ln factor| of a coupling: a layer stretches by at most e."""
CAUTION = 0.2
"""Adam's epsilon: gradients below it take plain gradient steps, so noise about the optimum is not blown up to full steps."""


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread, for the same sums in the same order; its setting before is put back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def identity(size: int, layers: int, width: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Parameters of the identity on `size` dimensions; each coupling is a perceptron with `width` hidden units."""
    found: dict[str, npt.NDArray] = {"shift": np.zeros(size), "triangle": np.zeros((size, size))}
    order = np.arange(size)
    for k in range(layers):
        # every second coupling moves the half that the one before it has conditioned on
        order = rng.permutation(size) if k % 2 == 0 else np.roll(order, -(size // 2))
        given, moved = size // 2, size - size // 2
        found |= {
            f"{k}.order": order,
            f"{k}.in": rng.standard_normal((given, width)) / np.sqrt(max(given, 1)),
            f"{k}.bias": np.zeros(width),
            f"{k}.out": np.zeros((width, 2 * moved)),
            f"{k}.offset": np.zeros(2 * moved),
        }
    return {name: torch.from_numpy(np.array(value)) for name, value in found.items()}


def push(flow: Parameters, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(m, p) u -> (m, p) w, (m,) ln |dw/du|."""
    v, volume = u, torch.zeros(len(u), dtype=u.dtype)
    for k in range(_layers(flow)):
        given, moved = _halves(flow, k, v)
        stretch, move = _coupling(flow, k, given)
        v = _together(flow, k, given, moved * torch.exp(stretch) + move)
        volume = volume + stretch.sum(dim=1)
    return flow["shift"] + v @ _triangle(flow).T, volume + torch.diagonal(flow["triangle"]).sum()


def pull(flow: Parameters, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse of `push`: (m, p) w -> (m, p) u, (m,) ln |dw/du|."""
    v = torch.linalg.solve_triangular(_triangle(flow), (w - flow["shift"]).T, upper=False).T
    volume = torch.diagonal(flow["triangle"]).sum().expand(len(w))
    for k in reversed(range(_layers(flow))):
        given, moved = _halves(flow, k, v)
        stretch, move = _coupling(flow, k, given)
        v = _together(flow, k, given, (moved - move) * torch.exp(-stretch))
        volume = volume + stretch.sum(dim=1)
    return v, volume


def log_density(flow: Parameters, w: torch.Tensor) -> torch.Tensor:
    """(m, p) -> (m,) ln density of the flow, nats."""
    u, volume = pull(flow, w)
    return -0.5 * u.square().sum(dim=1) - 0.5 * u.shape[1] * float(np.log(2.0 * np.pi)) - volume


def draw(flow: Parameters, u: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(m, p) standard normal -> (m, p) draws of the flow, (m,) their ln density."""
    with torch.no_grad():
        w, volume = push(flow, torch.from_numpy(u))
    constant = 0.5 * u.shape[1] * np.log(2.0 * np.pi)
    return w.numpy(), -0.5 * np.square(u).sum(axis=1) - constant - volume.numpy()


def train(
    flow: dict[str, torch.Tensor], gradient: Gradient, rng: np.random.Generator, steps: int, batch: int, rate: float
) -> dict[str, torch.Tensor]:
    """The flow after `steps` of Adam down the divergence KL(flow || exp(-J)), `batch` draws each, in pairs u and -u.

    The gradient is that along the path of the draws (Roeder et al. 2017): grad J + grad ln q at the place, with the flow's
    parameters held in q. Its noise vanishes where the flow is the posterior. A draw without a gradient of J counts for nothing,
    and no draw pulls with more than ten times the norm that a draw of a standard normal has.
    """
    flow = {name: value.clone().requires_grad_() if value.is_floating_point() else value for name, value in flow.items()}
    optimiser = torch.optim.Adam([v for v in flow.values() if v.requires_grad], lr=rate, eps=CAUTION)
    size = len(flow["shift"])
    for step in range(steps):
        half = rng.standard_normal((batch // 2, size))
        w, _ = push(flow, torch.from_numpy(np.concatenate([half, -half])))
        slope, there = gradient(w.detach().numpy())
        if not there.any():
            continue
        place = w.detach().requires_grad_()
        held = {name: value.detach() for name, value in flow.items()}
        (score,) = torch.autograd.grad(log_density(held, place).sum(), place)
        total = slope + score.numpy()
        norm = np.linalg.norm(total, axis=1, keepdims=True)
        total *= np.minimum(1.0, 10.0 * np.sqrt(size) / np.maximum(norm, 1e-300))
        for group in optimiser.param_groups:
            group["lr"] = 0.5 * rate * (1.0 + np.cos(np.pi * step / steps))
        optimiser.zero_grad()
        w.backward(torch.from_numpy(np.where(there[:, None], total, 0.0) / there.sum()))
        optimiser.step()
    return {name: value.detach() for name, value in flow.items()}


def _layers(flow: Parameters) -> int:
    return sum(name.endswith(".order") for name in flow)


def _triangle(flow: Parameters) -> torch.Tensor:
    """Lower triangular T with a positive diagonal."""
    raw = flow["triangle"]
    return torch.tril(raw, diagonal=-1) + torch.diag(torch.exp(torch.diagonal(raw)))


def _halves(flow: Parameters, k: int, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    ordered = v[:, flow[f"{k}.order"]]
    return ordered[:, : v.shape[1] // 2], ordered[:, v.shape[1] // 2 :]


def _together(flow: Parameters, k: int, given: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
    return torch.cat([given, moved], dim=1)[:, torch.argsort(flow[f"{k}.order"])]


def _coupling(flow: Parameters, k: int, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(m, given) -> ln factor and offset (m, moved) of the other half."""
    hidden = torch.tanh(given @ flow[f"{k}.in"] + flow[f"{k}.bias"])
    both = hidden @ flow[f"{k}.out"] + flow[f"{k}.offset"]
    moved = both.shape[1] // 2
    return STEEPEST * torch.tanh(both[:, :moved] / STEEPEST), both[:, moved:]
