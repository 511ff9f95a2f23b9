"""Scoring: directions, sensitivity, fold_metric and expected_sensitivity."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from .. import contracts, philox, reference

LINEAR_PROJECTOR_WARNING = (
    "zoprune: the projector is linear (activation='identity'): every token has the same "
    "sensitivity; selecting by diversity only"
)


def directions(
    num: int,
    dim: int,
    *,
    distribution: str = "sphere",
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Random directions of unit scale along which the projector is probed (paper, section 3.2).

    The same seed gives the same directions on every device (Philox-4x32-10 on seed, row, column).

    Args:
        num: number of directions m.
        dim: dimension d of a token.
        distribution: ``sphere`` (normalised Gaussian, the paper's), ``gaussian`` (N(0, I/d)),
            ``rademacher`` (+-1/sqrt(d)) or ``orthogonal`` (random orthonormal rows).
        seed: 64-bit seed.
        dtype: float32 (default), float16 or bfloat16.
        device: the CPU by default.

    Returns:
        [num, dim].
    """
    contracts.directions(num, dim, distribution, dtype)
    device = torch.device("cpu") if device is None else device
    return philox.directions(num, dim, distribution, seed, device).to(dtype or torch.float32)


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
    """Zeroth-order sensitivity of the projector f(x) = w2 phi(w1 x + b1), per token.

    ``mean_j ||f(x + h u_j) - f(x - h u_j)|| / 2h`` over the directions u_j (paper, equation 3),
    evaluated without the cancellation of the literal form (docs/math.md, "Exact rewriting").

    Args:
        x: tokens [N, d] or [B, N, d]; float32, float16 or bfloat16.
        w1: first layer [H, d], x's dtype.
        b1: its bias [H], or None.
        w2: second layer [D, H], x's dtype. Its bias cancels.
        directions: [m, d].
        step: h, in units of x; 0 takes the limit h -> 0.
        activation: ``gelu``, ``gelu_tanh``, ``quick_gelu``, ``silu``, ``relu`` or ``identity``.

    Returns:
        float32 scores [N] or [B, N].
    """
    contracts.sensitivity(x, w1, b1, w2, directions, step, activation)
    warn_if_linear(activation)
    return per_image(
        lambda image: reference.sensitivity(
            image, w1, b1, w2, directions, step=step, activation=activation
        ),
        x,
    )


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
    """
    contracts.fold_metric(w1, w2, directions)
    return reference.fold_metric(w1, w2, directions).to(contracts.metric_dtype(w1.dtype))


def expected_sensitivity(
    x: Tensor, w1: Tensor, b1: Tensor | None, metric: Tensor, *, activation: str = "gelu"
) -> Tensor:
    """Root-mean-square sensitivity over all directions, exactly: ``sqrt(g^T M g)``, g = phi'(a).

    As cheap as a single direction, with no sampling noise and no seed.

    Args:
        x: tokens [N, d] or [B, N, d]; float32, float16 or bfloat16.
        w1: first layer [H, d], x's dtype.
        b1: its bias [H], or None.
        metric: [H, H] from :func:`fold_metric`. Must be symmetric: only half of it is read.
        activation: as in :func:`sensitivity`.

    Returns:
        float32 scores [N] or [B, N].
    """
    contracts.expected_sensitivity(x, w1, b1, metric, activation)
    warn_if_linear(activation)
    return per_image(
        lambda image: reference.expected_sensitivity(image, w1, b1, metric, activation=activation),
        x,
    )


def warn_if_linear(activation: str) -> None:
    global _linear_warned
    if activation == "identity" and not _linear_warned:
        _linear_warned = True
        warnings.warn(LINEAR_PROJECTOR_WARNING, stacklevel=2)


_linear_warned = False


def per_image(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if x.dim() == 2:
        return function(x)
    return torch.stack([function(image) for image in x])
