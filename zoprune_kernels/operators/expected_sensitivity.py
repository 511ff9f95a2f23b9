"""The closed form of the score: expected_sensitivity."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import Call, Output
from ..methods import ScoreOptions
from ..pipeline import Reference, score
from ._register import operator


def _checks(call: Call) -> Output:
    check = call.check
    check.tokens(call.x)
    check.linear(call.x, call.w1, call.b1, None, None)
    check.metric(call.metric, call.x, call.w1)
    ScoreOptions.of(call.arguments).check(check.fail)
    return Output(list(call.x.shape[:-1]), torch.float32, call.x.device)


@operator(_checks)
def expected_sensitivity(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    metric: Tensor,
    *,
    activation: str = ScoreOptions.activation,
) -> Tensor:
    """Root-mean-square sensitivity over all directions, exactly: ``sqrt(g^T M g)``, g = phi'(a).

    As cheap as a single direction, with no sampling noise and no seed (docs/math.md, "Closed
    form").

    Args:
        x: tokens [N, d] or [B, N, d]; float32, float16 or bfloat16.
        w1: first layer [H, d], x's dtype.
        b1: its bias [H], or None.
        metric: [H, H] from :func:`fold_metric`. Must be symmetric: only half of it is read.
        activation: as in :func:`sensitivity`.

    Returns:
        float32 scores [N] or [B, N].

    Example:
        >>> x, w1, w2 = torch.randn(576, 64), torch.randn(128, 64), torch.randn(96, 128)
        >>> metric = zoprune_kernels.fold_metric(w1, w2)
        >>> zoprune_kernels.expected_sensitivity(x, w1, None, metric).shape
        torch.Size([576])
    """
    call = Call("expected_sensitivity", locals())
    return score(call, Reference(call))
