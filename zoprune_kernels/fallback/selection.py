"""Selection: select and select_varlen."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import contracts, reference
from ..checks import Checker
from ..rules import SelectRule


def select(
    scores: Tensor,
    keys: Tensor | None,
    k: int,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    method: str = "sads",
    max_similarity: float = 1.0,
    sort: bool = True,
    tradeoff: float = 0.5,
    first: str = "score",
    num_seed: int = 0,
    centre: bool = False,
    picks_per_step: int = 1,
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
        sort: ascending positions; False returns pick order, any prefix of which is the selection
            for a smaller k.
        tradeoff: in [0, 1], of method mmr.
        first: how to pick where nothing is selected yet: "score" takes the highest, "isolated" the
            token whose nearest neighbour is farthest (DivPrune).
        num_seed: this many picks go by w alone, before those by gain (ZSPAPrune).
        centre: compare keys minus their mean over the valid tokens (Cen-Prune).
        picks_per_step: approximate where > 1: gains change only after this many picks (IDPruner).

    Returns:
        int64 indices [..., k].
    """
    rule = SelectRule(method, max_similarity, tradeoff, first, num_seed, centre, picks_per_step)
    contracts.select(scores, keys, k, must_keep, valid, rule)
    contracts.check_values("select", k, must_keep, valid, scores.device)
    return reference.select(scores, keys, k, must_keep, valid, sort=sort, **vars(rule))


def select_varlen(
    scores: Tensor,
    keys: Tensor | None,
    cu_tokens: Tensor,
    cu_keep: Tensor,
    total_keep: int,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    method: str = "sads",
    max_similarity: float = 1.0,
    sort: bool = True,
    tradeoff: float = 0.5,
    first: str = "score",
    num_seed: int = 0,
    centre: bool = False,
    picks_per_step: int = 1,
) -> Tensor:
    """:func:`select` for images of different sizes, packed one after the other.

    Args:
        scores: [T]; float32, float16 or bfloat16.
        keys: [T, D], or None where unused.
        cu_tokens: int32 [B + 1], image b holds tokens cu_tokens[b] to cu_tokens[b + 1].
        cu_keep: int32 [B + 1], image b keeps cu_keep[b + 1] - cu_keep[b] tokens, possibly none.
        total_keep: cu_keep[B], given by the caller so that the output's shape is known.
        must_keep: bool [T].
        valid: bool [T].
        method, max_similarity, sort and the others: as in :func:`select`.

    Returns:
        int64 positions [total_keep] in the packed array, image after image.
    """
    rule = SelectRule(method, max_similarity, tradeoff, first, num_seed, centre, picks_per_step)
    contracts.select_varlen(scores, keys, cu_tokens, cu_keep, total_keep, must_keep, valid, rule)
    images = segments("select_varlen", scores, cu_tokens, cu_keep, total_keep)
    check_segment_masks("select_varlen", images, must_keep, valid)
    return select_segments(images, scores, keys, must_keep, valid, rule, sort, seed=0)


# -- packed images --------------------------------------------------------------------------------


def segments(
    op: str, packed: Tensor, cu_tokens: Tensor, cu_keep: Tensor, total_keep: int
) -> list[tuple[int, int, int]]:
    """(start, end, keep) of each image. Reads the offsets, so it synchronises on a GPU."""
    offsets, kept = cu_tokens.tolist(), cu_keep.tolist()
    Checker(op).segment_values(offsets, kept, packed.shape[0], total_keep)
    return [(offsets[i], offsets[i + 1], kept[i + 1] - kept[i]) for i in range(len(offsets) - 1)]


def check_segment_masks(
    op: str,
    images: list[tuple[int, int, int]],
    must_keep: Tensor | None,
    valid: Tensor | None,
) -> None:
    for image, (start, end, keep) in enumerate(images):
        rows = [None if mask is None else mask[None, start:end] for mask in (must_keep, valid)]
        if rows[0] is not None or rows[1] is not None:
            Checker(op).mask_values(rows[0], rows[1], [keep], image)


def select_segments(
    images: list[tuple[int, int, int]],
    scores: Tensor,
    keys: Tensor | None,
    must_keep: Tensor | None,
    valid: Tensor | None,
    rule: SelectRule,
    sort: bool,
    seed: int,
) -> Tensor:
    """Positions [total_keep] in the packed array, image after image."""

    def select_image(
        keep: int,
        scores: Tensor,
        keys: Tensor | None,
        must_keep: Tensor | None,
        valid: Tensor | None,
    ) -> Tensor:
        return reference.select(
            scores, keys, keep, must_keep, valid, sort=sort, seed=seed, **vars(rule)
        )

    return by_segment(images, select_image, scores, keys, must_keep, valid)


def by_segment(
    images: list[tuple[int, int, int]], select: Callable[..., Tensor], *packed: Tensor | None
) -> Tensor:
    """Positions [total_keep] in the packed array: ``select(keep, *tensors)`` of each image."""
    picks = [
        start + select(keep, *(None if t is None else t[start:end] for t in packed))
        for start, end, keep in images
        if keep
    ]
    return torch.cat(picks)
