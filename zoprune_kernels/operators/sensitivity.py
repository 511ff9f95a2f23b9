"""The score over directions: sensitivity."""

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
    check.linear(call.x, call.w1, call.b1, call.w2, None)
    check.directions(call.directions, call.x)
    ScoreOptions.of(call.arguments).check(check.fail)
    return Output(list(call.x.shape[:-1]), torch.float32, call.x.device)


@operator(_checks)
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
    """Zeroth-order sensitivity of the projector f(x) = w2 phi(w1 x + b1), per token.

    ``mean_j ||f(x + h u_j) - f(x - h u_j)|| / 2h`` over the directions u_j (paper, equation 3),
    evaluated without the cancellation of the literal form (docs/math.md, "Exact rewriting").

    Args:
        x: tokens [N, d] or [B, N, d]; float32, float16 or bfloat16.
        w1: first layer [H, d], x's dtype.
        b1: its bias [H], or None.
        w2: second layer [D, H], x's dtype. Its bias cancels.
        directions: [m, d].
        step: h, in units of x, 0 or in [1e-18, 1e18]; 0 takes the limit h -> 0.
        activation: ``gelu``, ``gelu_tanh``, ``quick_gelu``, ``silu``, ``relu`` or ``identity``.

    Returns:
        float32 scores [N] or [B, N].

    Example:
        >>> x, w1, w2 = torch.randn(576, 64), torch.randn(128, 64), torch.randn(96, 128)
        >>> u = zoprune_kernels.directions(16, 64)
        >>> zoprune_kernels.sensitivity(x, w1, None, w2, u).shape
        torch.Size([576])
    """
    call = Call("sensitivity", locals())
    return score(call, Reference(call))
