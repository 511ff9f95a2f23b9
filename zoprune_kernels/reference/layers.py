"""The projector's layers: activations, their derivatives, and the projector itself.

Shapes: x [..., N, d], w1 [H, d], b1 [H], w2 [D, H], b2 [D].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

_TANH_SCALE, _TANH_CUBIC = math.sqrt(2 / math.pi), 0.044715
_BENDS = 200  # no derivative changes beyond this |a|, whose powers may overflow

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


_DERIVATIVE: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": _gelu_derivative,
    "gelu_tanh": _gelu_tanh_derivative,
    "quick_gelu": lambda a: _silu_derivative(a, 1.702),
    "silu": _silu_derivative,
    "relu": lambda a: torch.where(a.isnan(), a, (a > 0).to(a.dtype)),
    "identity": torch.ones_like,
}


def derivative(activation: str, a: Tensor) -> Tensor:
    """phi'(a); NaN where a is not finite: such a token has no score."""
    return _DERIVATIVE[activation](a.clamp(-_BENDS, _BENDS)) + (a - a)


def project(
    x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, activation: str
) -> Tensor:
    """The projector f(x) = W2 phi(W1 x + b1) + b2, [..., N, D] in float32 or float64."""
    x, w1, b1, w2, b2 = upcast(x, w1, b1, w2, b2)
    return F.linear(ACTIVATION[activation](F.linear(x, w1, b1)), w2, b2)


def upcast(*tensors: Tensor | None) -> list:
    """float64 stays, all other types become float32."""
    return [
        None if t is None else t.to(torch.promote_types(t.dtype, torch.float32)) for t in tensors
    ]
