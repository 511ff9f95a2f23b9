"""The score over directions, as docs/math.md derives it; the paper is ZOO-Prune, arXiv 2509.24837.

Shapes: x [..., N, d], w1 [H, d], b1 [H], w2 [D, H], directions [m, d].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..methods import ScoreOptions
from .layers import ACTIVATION, derivative, project, upcast

_BEND = 50  # beyond this |a| every activation is 0 or the identity, to float64


def paper_sensitivity(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    directions: Tensor,
    *,
    step: float = ScoreOptions.step,
    activation: str = ScoreOptions.activation,
) -> Tensor:
    """S_i = mean_j ||f(x_i + h u_j) - f(x_i - h u_j)|| / 2h, as the paper writes it (eq. 3-4)."""
    x, directions = upcast(x, directions)
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
    step: float = ScoreOptions.step,
    activation: str = ScoreOptions.activation,
) -> Tensor:
    """The same score with the difference taken before the second layer ("Exact rewriting").

    ``step = 0`` is the limit: the activation's derivative times the projected direction.
    """
    linear = activation == "identity"  # every token has the same score, whatever it holds
    rows = x.new_zeros(1, x.shape[-1]) if linear else x
    rows, w1, b1, w2, directions = upcast(rows, w1, b1, w2, directions)
    a = F.linear(rows, w1, b1)  # [..., N, H]
    v = F.linear(directions, w1)  # [m, H]
    total = a.new_zeros(a.shape[:-1])
    for v_j in v:
        change = _activation_change(a.double(), v_j.double(), step, activation).to(a.dtype)
        total += F.linear(change, w2).norm(dim=-1)
    scores = total / directions.shape[0]
    return scores.expand(x.shape[:-1]).clone() if linear else scores


def _activation_change(a: Tensor, v: Tensor, step: float, activation: str) -> Tensor:
    """[phi(a + h v) - phi(a - h v)] / 2h, [..., N, H], in float64.

    The difference cancels where |h v| is small; there it is the derivative, to 1e-10, as it is
    wherever a is far from where phi bends.
    """
    slope = derivative(activation, a)
    if step == 0:
        return slope * v
    delta = step * v
    if activation == "relu":  # exact for any step
        side = torch.where(delta == 0, a.sign(), a / delta.abs()).clamp(-1, 1)
        return v * (1 + side + (a - a)) / 2
    phi = ACTIVATION[activation]
    difference = (phi(a + delta) - phi(a - delta)) / (2 * step)
    straight = a.abs() - delta.abs() > _BEND
    return torch.where((delta.abs() < 1e-5) | straight, slope * v, difference)
