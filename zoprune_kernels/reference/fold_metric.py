"""The metric of the closed form, as docs/math.md derives it."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from .layers import upcast


def fold_metric(w1: Tensor, w2: Tensor, directions: Tensor | None = None) -> Tensor:
    """M = (W2^T W2) * (W1 C W1^T), [H, H], with C = I / d or U^T U / m ("Closed form")."""
    w1, w2, directions = upcast(w1, w2, directions)
    if directions is None:
        projected = w1 / math.sqrt(w1.shape[1])  # [H, d]
    else:
        projected = F.linear(w1, directions) / math.sqrt(directions.shape[0])  # [H, m]
    return (w2.T @ w2) * (projected @ projected.T)
