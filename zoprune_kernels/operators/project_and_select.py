"""Scoring, selection and projection in one call: project_and_select and its packed twin."""

from __future__ import annotations

from torch import Tensor

from ..checks import Call, Output
from ..pipeline import Reference, prune_and_project
from ._register import varlen, with_arguments_of
from .score_and_select import checks, score_and_select


def _checks(call: Call) -> tuple[Output, Output, Output]:
    indices, scores = checks(call)
    tokens = Output([*indices.shape, call.w2.shape[0]], call.x.dtype, call.x.device)
    return tokens, indices, scores


@with_arguments_of(score_and_select, _checks, returns=("tokens", "indices", "scores"))
def project_and_select(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`score_and_select`, with the projector's outputs for the kept tokens.

    Args:
        all: as in :func:`score_and_select`.

    Returns:
        (tokens [..., k, D] in x's dtype, int64 indices [..., k], float32 scores [..., N]).

    Example:
        >>> x, w1, w2 = torch.randn(2, 576, 64), torch.randn(128, 64), torch.randn(96, 128)
        >>> metric = zoprune_kernels.fold_metric(w1, w2)
        >>> tokens, _, _ = zoprune_kernels.project_and_select(
        ...     x, w1, None, w2, None, 64, metric=metric
        ... )
        >>> tokens.shape
        torch.Size([2, 64, 96])
    """
    return prune_and_project(call, Reference(call))


project_and_select_varlen = varlen(
    project_and_select,
    """
    Returns:
        (tokens [total_keep, D] in x's dtype, int64 indices [total_keep] into the packed array,
        float32 scores [T]).

    Example:
        >>> x, w1, w2 = torch.randn(9, 64), torch.randn(128, 64), torch.randn(96, 128)
        >>> cu_tokens, cu_keep = torch.tensor([[0, 4, 9], [0, 2, 4]], dtype=torch.int32)
        >>> tokens, _, _ = zoprune_kernels.project_and_select_varlen(
        ...     x, w1, None, w2, None, cu_tokens, cu_keep, 4
        ... )
        >>> tokens.shape
        torch.Size([4, 96])
    """,
    run=lambda call: prune_and_project(call, Reference(call)),
)
