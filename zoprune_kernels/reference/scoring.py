"""Scoring, as docs/math.md derives it; the paper is ZOO-Prune, arXiv 2509.24837.

Shapes: x [..., N, d], w1 [H, d], b1 [H], w2 [D, H], b2 [D], directions [m, d], metric [H, H].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

# -- activations ----------------------------------------------------------------------------------

_TANH_SCALE, _TANH_CUBIC = math.sqrt(2 / math.pi), 0.044715

ACTIVATION: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda a: F.gelu(a, approximate="tanh"),
    "quick_gelu": lambda a: a * torch.sigmoid(1.702 * a),
    "silu": F.silu,
    "relu": F.relu,
    "identity": lambda a: a,
}


def _gelu_derivative(a: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-a / math.sqrt(2)) + a * torch.exp(-a * a / 2) / math.sqrt(2 * math.pi)


def _gelu_tanh_derivative(a: Tensor) -> Tensor:
    t = torch.tanh(_TANH_SCALE * (a + _TANH_CUBIC * a**3))
    inner = _TANH_SCALE * (1 + 3 * _TANH_CUBIC * a * a)
    return 0.5 * (1 + t) + 0.5 * a * (1 - t * t) * inner


def _silu_derivative(a: Tensor, scale: float = 1.0) -> Tensor:
    s = torch.sigmoid(scale * a)
    return s * (1 + scale * a * (1 - s))


DERIVATIVE: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": _gelu_derivative,
    "gelu_tanh": _gelu_tanh_derivative,
    "quick_gelu": lambda a: _silu_derivative(a, 1.702),
    "silu": _silu_derivative,
    "relu": lambda a: torch.where(a.isnan(), a, (a > 0).to(a.dtype)),
    "identity": torch.ones_like,
}

# -- scoring --------------------------------------------------------------------------------------


def project(
    x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, activation: str
) -> Tensor:
    """The projector f(x) = W2 phi(W1 x + b1) + b2, [..., N, D] in float32 or float64."""
    x, w1, b1, w2, b2 = _upcast(x, w1, b1, w2, b2)
    return F.linear(ACTIVATION[activation](F.linear(x, w1, b1)), w2, b2)


def paper_sensitivity(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    directions: Tensor,
    *,
    step: float = 0.01,
    activation: str = "gelu",
) -> Tensor:
    """S_i = mean_j ||f(x_i + h u_j) - f(x_i - h u_j)|| / 2h, as the paper writes it (eq. 3-4)."""
    x, directions = _upcast(x, directions)
    total = x.new_zeros(x.shape[:-1])  # [..., N]
    for u in directions:
        plus = project(x + step * u, w1, b1, w2, None, activation)
        minus = project(x - step * u, w1, b1, w2, None, activation)
        total += (plus - minus).norm(dim=-1) / (2 * step)
    return total / directions.shape[0]


def sensitivity(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    directions: Tensor,
    *,
    step: float = 0.01,
    activation: str = "gelu",
) -> Tensor:
    """The same score with the difference taken before the second layer ("Exact rewriting").

    ``step = 0`` is the limit: the activation's derivative times the projected direction.
    """
    if activation == "identity":  # every token has the same score: compute it once
        one = x[..., :1, :].reshape(-1, x.shape[-1])[:1]
        return (
            _directional(one, w1, b1, w2, directions, step, activation).expand(x.shape[:-1]).clone()
        )
    return _directional(x, w1, b1, w2, directions, step, activation)


def _directional(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    directions: Tensor,
    step: float,
    activation: str,
) -> Tensor:
    x, w1, b1, w2, directions = _upcast(x, w1, b1, w2, directions)
    a = F.linear(x, w1, b1)  # [..., N, H]
    v = F.linear(directions, w1)  # [m, H]
    total = a.new_zeros(a.shape[:-1])
    for v_j in v:
        change = _activation_change(a.double(), v_j.double(), step, activation).to(a.dtype)
        total += F.linear(change, w2).norm(dim=-1)
    return total / directions.shape[0]


def _activation_change(a: Tensor, v: Tensor, step: float, activation: str) -> Tensor:
    """[phi(a + h v) - phi(a - h v)] / 2h, [..., N, H]; float64 keeps it from cancelling."""
    if step == 0:
        return DERIVATIVE[activation](a) * v
    phi = ACTIVATION[activation]
    return (phi(a + step * v) - phi(a - step * v)) / (2 * step)


def fold_metric(w1: Tensor, w2: Tensor, directions: Tensor | None = None) -> Tensor:
    """M = (W2^T W2) * (W1 C W1^T), [H, H], with C = I / d or U^T U / m ("Closed form")."""
    w1, w2, directions = _upcast(w1, w2, directions)
    if directions is None:
        projected = w1 / math.sqrt(w1.shape[1])  # [H, d]
    else:
        projected = F.linear(w1, directions) / math.sqrt(directions.shape[0])  # [H, m]
    return (w2.T @ w2) * (projected @ projected.T)


def expected_sensitivity(
    x: Tensor, w1: Tensor, b1: Tensor | None, metric: Tensor, *, activation: str = "gelu"
) -> Tensor:
    """S_i = sqrt(g^T M g), g = phi'(W1 x_i + b1): the root mean square over all directions."""
    if activation == "identity":
        one = x[..., :1, :].reshape(-1, x.shape[-1])[:1]
        return _quadratic_form(one, w1, b1, metric, activation).expand(x.shape[:-1]).clone()
    return _quadratic_form(x, w1, b1, metric, activation)


def _quadratic_form(
    x: Tensor, w1: Tensor, b1: Tensor | None, metric: Tensor, activation: str
) -> Tensor:
    x, w1, b1, metric = _upcast(x, w1, b1, metric)
    g = DERIVATIVE[activation](F.linear(x, w1, b1))  # [..., N, H]
    return ((g @ metric) * g).sum(-1).clamp_min(0).sqrt()


def _upcast(*tensors: Tensor | None) -> list:
    """float64 stays, all other types become float32."""
    return [
        None if t is None else t.to(torch.promote_types(t.dtype, torch.float32)) for t in tensors
    ]
