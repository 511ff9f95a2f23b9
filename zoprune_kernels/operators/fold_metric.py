"""The metric of the closed form: fold_metric."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..checks import Call, Output
from ._register import operator


def _checks(call: Call) -> Output:
    check, w1 = call.check, call.w1
    check.shape("w1", w1, ["H", "d"], "a linear layer's weight")
    check.float_dtype("w1", w1)
    check.device("w1", w1, w1, "w1")
    check.shape("w2", call.w2, ["D", w1.shape[0]], "H is w1's first dimension")
    check.dtype("w2", call.w2, w1.dtype, " (that of w1)")
    check.device("w2", call.w2, w1, "w1")
    if call.directions is not None:
        expected = ["m", w1.shape[1]]
        check.shape("directions", call.directions, expected, "d is w1's last dimension")
        check.float_dtype("directions", call.directions)
        check.device("directions", call.directions, w1, "w1")
    return Output([w1.shape[0], w1.shape[0]], metric_dtype(w1.dtype), w1.device)


def metric_dtype(weights: torch.dtype) -> torch.dtype:
    """The folded metric is kept in the weights' precision; its entries underflow in float16."""
    return torch.bfloat16 if weights == torch.float16 else weights


@operator(_checks)
def fold_metric(w1: Tensor, w2: Tensor, directions: Tensor | None = None) -> Tensor:
    """Fold a projector's weights into the metric of the closed form, once per model.

    ``M = (w2^T w2) * (w1 C w1^T)`` with C = I/d, the covariance of every unit-scale distribution,
    or C = U^T U / m for a given set of directions (docs/math.md, "Closed form").

    Args:
        w1: first layer [H, d]; float32, float16 or bfloat16.
        w2: second layer [D, H], the same dtype.
        directions: [m, d], or None for the expectation over all directions.

    Returns:
        Symmetric [H, H]; float32 for float32 weights, else bfloat16 (float16 would underflow).

    Example:
        >>> w1, w2 = torch.randn(128, 64), torch.randn(96, 128)
        >>> metric = zoprune_kernels.fold_metric(w1, w2)
        >>> metric.shape, bool((metric == metric.T).all())
        (torch.Size([128, 128]), True)
    """
    return reference.fold_metric(w1, w2, directions).to(metric_dtype(w1.dtype))
