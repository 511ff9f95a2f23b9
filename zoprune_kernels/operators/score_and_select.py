"""Scoring and selection in one call: score_and_select and score_and_select_varlen."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import Call, Output, PerToken
from ..methods import ScoreOptions, Selection, SelectOptions, SuppressOptions
from ..pipeline import Reference, prune
from ._register import operator, varlen


def checks(call: Call) -> tuple[Output, Output]:
    check, x = call.check, call.x
    check.tokens(x, packed=call.packed)
    check.linear(x, call.w1, call.b1, call.w2, call.b2)
    if call.directions is not None:
        check.directions(call.directions, x)
    if call.metric is not None:
        check.metric(call.metric, x, call.w1)
    if call.directions is not None and call.metric is not None:
        check.fail("metric", "None when directions are given", "a tensor")
    each = PerToken(check, x, "x", x.shape[:-1])
    if call.keys is not None:
        each.keys(call.keys)
    each.masks(call.must_keep, call.valid)
    ScoreOptions.of(call.arguments).check(check.fail)
    selection = Selection(call.arguments)
    selection.check(check.fail)
    each.positions(call.positions)
    each.weights(call.weights)
    selection.check_tensors(check.fail)
    scores = Output(list(x.shape[:-1]), torch.float32, x.device)
    return call.kept(x, "x", tokens=scores.shape), scores


@operator(checks, values=Call.check_mask_values, returns=("indices", "scores"))
def score_and_select(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    k: int,
    directions: Tensor | None = None,
    metric: Tensor | None = None,
    keys: Tensor | None = None,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    positions: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    num_directions: int = ScoreOptions.num_directions,
    step: float = ScoreOptions.step,
    distribution: str = ScoreOptions.distribution,
    seed: int = ScoreOptions.seed,
    activation: str = ScoreOptions.activation,
    method: str = SelectOptions.method,
    max_similarity: float = SelectOptions.max_similarity,
    sort: bool = True,
    tradeoff: float = SelectOptions.tradeoff,
    first: str = SelectOptions.first,
    picks_by_score: int = SelectOptions.picks_by_score,
    centre: bool = SelectOptions.centre,
    picks_per_step: int = SelectOptions.picks_per_step,
    rule: str = SuppressOptions.rule,
    sigma_space: float = SuppressOptions.sigma_space,
    sigma_similarity: float = SuppressOptions.sigma_similarity,
    radius: float = SuppressOptions.radius,
    strength: float = SuppressOptions.strength,
    threshold: float = SuppressOptions.threshold,
) -> tuple[Tensor, Tensor]:
    """Score every token and keep k of each image, in one call.

    With ``metric`` the scores are :func:`expected_sensitivity`, else :func:`sensitivity` over the
    given directions or over ``num_directions`` drawn from (distribution, seed). The keys default to
    the projector's outputs.

    ``method`` may also be "dpp", with the scores as quality, "suppress", with ``positions``,
    ``rule`` and the options after it, or "coverage", with ``weights``: as in :func:`select_dpp`,
    :func:`select_suppress` and :func:`select_coverage`, exact and with the same picks.

    Args:
        x: tokens [N, d] or [B, N, d]; float32, float16 or bfloat16.
        w1, b1, w2, b2: the projector's layers [H, d], [H], [D, H] and [D], in x's dtype; biases may
            be None.
        k: number of tokens to keep of each image, 1 <= k <= N.
        directions: [m, d] to score along; not with ``metric``.
        metric: [H, H] from :func:`fold_metric`.
        num_directions, distribution: of the directions drawn where neither is given.
        seed: of the random numbers: of these directions and of method "random".
        others: as in :func:`sensitivity`, :func:`select` and the operator of the method.

    Returns:
        (int64 indices [..., k], float32 scores [..., N]).

    Example:
        >>> x, w1, w2 = torch.randn(2, 576, 64), torch.randn(128, 64), torch.randn(96, 128)
        >>> metric = zoprune_kernels.fold_metric(w1, w2)
        >>> indices, scores = zoprune_kernels.score_and_select(
        ...     x, w1, None, w2, None, 64, metric=metric
        ... )
        >>> indices.shape, scores.shape
        (torch.Size([2, 64]), torch.Size([2, 576]))
    """
    call = Call("score_and_select", locals())
    return prune(call, Reference(call))


score_and_select_varlen = varlen(
    score_and_select,
    """
    Returns:
        (int64 indices [total_keep] into the packed array, float32 scores [T]).

    Example:
        >>> x, w1, w2 = torch.randn(9, 64), torch.randn(128, 64), torch.randn(96, 128)
        >>> cu_tokens, cu_keep = torch.tensor([[0, 4, 9], [0, 2, 4]], dtype=torch.int32)
        >>> indices, scores = zoprune_kernels.score_and_select_varlen(
        ...     x, w1, None, w2, None, cu_tokens, cu_keep, 4
        ... )
        >>> indices.shape, scores.shape
        (torch.Size([4]), torch.Size([9]))
    """,
    run=lambda call: prune(call, Reference(call)),
)
