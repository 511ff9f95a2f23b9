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
    linear = activation == "identity"  # every token has the same score, whatever it holds
    rows = x.new_zeros(1, x.shape[-1]) if linear else x
    rows, w1, b1, metric = upcast(rows, w1, b1, metric)
    g = derivative(activation, F.linear(rows, w1, b1))  # [..., N, H]
    scores = ((g @ metric) * g).sum(-1).clamp_min(0).sqrt()
    return scores.expand(x.shape[:-1]).clone() if linear else scores
