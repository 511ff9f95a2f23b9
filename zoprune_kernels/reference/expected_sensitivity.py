"""The closed form of the score, as docs/math.md derives it.

Shapes: x [..., N, d], w1 [H, d], b1 [H], metric [H, H].
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ..methods import ScoreOptions
from .layers import derivative, upcast


def expected_sensitivity(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    metric: Tensor,
    *,
    activation: str = ScoreOptions.activation,
) -> Tensor:
    """S_i = sqrt(g^T M g), g = phi'(W1 x_i + b1): the root mean square over all directions."""
    if activation == "identity":
        one = x.new_zeros(1, x.shape[-1])  # whatever a token holds
        return _quadratic_form(one, w1, b1, metric, activation).expand(x.shape[:-1]).clone()
    return _quadratic_form(x, w1, b1, metric, activation)


def _quadratic_form(
    x: Tensor, w1: Tensor, b1: Tensor | None, metric: Tensor, activation: str
) -> Tensor:
    x, w1, b1, metric = upcast(x, w1, b1, metric)
    g = derivative(activation, F.linear(x, w1, b1))  # [..., N, H]
    return ((g @ metric) * g).sum(-1).clamp_min(0).sqrt()
