"""Selection by sensitivity, diversity or both: select and select_varlen."""

from __future__ import annotations

from torch import Tensor

from .. import reference
from ..checks import Call, Output
from ..methods import METHODS, SelectOptions
from ._register import operator, varlen

_METHODS = [name for name, method in METHODS.items() if method.operator == "select"]


def _checks(call: Call) -> Output:
    check = call.check
    each = check.scores(call.scores, packed=call.packed)
    if call.keys is not None:
        each.keys(call.keys)
    each.masks(call.must_keep, call.valid)
    check.one_of("method", call.method, _METHODS)
    options = SelectOptions.of(call.arguments)
    options.check(check.fail)
    if options.needs_keys and call.keys is None:
        check.fail("keys", f"a tensor (method '{call.method}' compares tokens)", "None")
    return call.kept(call.scores, "scores")


@operator(_checks, values=Call.check_mask_values, hand_over=True)
def select(
    scores: Tensor,
    keys: Tensor | None,
    k: int,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    method: str = SelectOptions.method,
    max_similarity: float = SelectOptions.max_similarity,
    sort: bool = True,
    tradeoff: float = SelectOptions.tradeoff,
    first: str = SelectOptions.first,
    picks_by_score: int = SelectOptions.picks_by_score,
    centre: bool = SelectOptions.centre,
    picks_per_step: int = SelectOptions.picks_per_step,
) -> Tensor:
    """Pick k tokens of each image greedily; exact, ties to the lowest index.

    With w the scores normalised to [0, 1] and r the largest cosine to the tokens already picked,
    the next pick has the highest gain (docs/selection.md):

    ========  ===========  =========================================================
    method    gain         note
    ========  ===========  =========================================================
    sads      w (1 - r)    sensitivity-aware diversity selection, the paper's
    maxmin    1 - r        starts at the highest score
    topk      the score    with ``max_similarity``: similarity-constrained top-k
    mmr       see right    t w - (1 - t) r with t the ``tradeoff``
    random    --           a fixed pseudo-random order (seed 0)
    ========  ===========  =========================================================

    Args:
        scores: [N] or [B, N]; float32, float16 or bfloat16. NaN ranks below everything.
        keys: [..., N, D] vectors whose cosine is the similarity; None only where unused.
        k: number of tokens to keep, 1 <= k <= N.
        must_keep: bool, shaped like scores: always returned, counted in k, already selected.
        valid: bool, shaped like scores: False marks padding, never picked.
        method: see the table.
        max_similarity: in [-1, 1]; below 1, a token whose cosine with a selected one exceeds it
            is picked only when no other is left.
        sort: ascending indices; False returns pick order, any prefix of which is the selection
            for a smaller k.
        tradeoff: in [0, 1], of method mmr.
        first: how to pick where nothing is selected yet: "score" takes the highest, "isolated" the
            token whose nearest neighbour is farthest (DivPrune).
        picks_by_score: this many picks go by w alone, before those by gain (ZSPAPrune). The schema
            of ``torch.ops.zoprune`` calls it num_seed, which works here as well; it has nothing to
            do with the seed of random numbers.
        centre: compare keys minus their mean over the valid tokens (Cen-Prune).
        picks_per_step: approximate where > 1: gains change only after this many picks (IDPruner).

    Returns:
        int64 indices [..., k].

    Example:
        >>> scores = torch.tensor([0.9, 0.8, 0.1, 0.5])
        >>> keys = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.7, 0.7]])
        >>> zoprune_kernels.select(scores, keys, 2)
        tensor([0, 3])
        >>> zoprune_kernels.select(scores, None, 2, method="topk")
        tensor([0, 1])
    """
    options = vars(SelectOptions.of(locals()))
    return reference.select(scores, keys, k, must_keep, valid, sort=sort, **options)


select_varlen = varlen(
    select,
    """
    Example:
        >>> scores = torch.tensor([0.9, 0.8, 0.1, 0.5, 0.3])  # of images of 2 and of 3 tokens
        >>> cu_tokens, cu_keep = torch.tensor([[0, 2, 5], [0, 1, 3]], dtype=torch.int32)
        >>> zoprune_kernels.select_varlen(scores, None, cu_tokens, cu_keep, 3, method="topk")
        tensor([0, 3, 4])
    """,
)
