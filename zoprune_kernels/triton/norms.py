"""From partial squared norms to scores, summed in a fixed order: the same bits every time."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _mean_norm_kernel(
    partials,
    scale,
    scores,
    tokens,
    num,
    parts,
    NUM_BLOCK: tl.constexpr,
    PARTS_BLOCK: tl.constexpr,
):
    token = tl.program_id(0)
    total = tl.zeros((NUM_BLOCK,), tl.float32)
    for start in range(0, num, NUM_BLOCK):
        direction = start + tl.arange(0, NUM_BLOCK)
        row = (direction.to(tl.int64) * tokens + token) * parts
        squares = tl.zeros((NUM_BLOCK, PARTS_BLOCK), tl.float32)
        for begin in range(0, parts, PARTS_BLOCK):
            part = begin + tl.arange(0, PARTS_BLOCK)
            inside = (direction < num)[:, None] & (part < parts)[None, :]
            at = partials + row[:, None] + part[None, :]
            squares += tl.load(at, mask=inside, other=0.0)
        square = tl.sum(squares, 1)
        norm = tl.sqrt(tl.where(square < 0, 0.0, square))  # rounding; nan stays nan
        if scale is not None:
            norm *= tl.load(scale + direction, mask=direction < num, other=0.0)
        total += norm
    tl.store(scores + token, tl.sum(total) / num)


def mean_norms(partials: Tensor, scale: Tensor | None) -> Tensor:
    """Scores [T] = mean over j of scale_j sqrt(sum of partials [m, T, parts] over the parts)."""
    num, tokens, parts = partials.shape
    scores = partials.new_empty(tokens)
    _mean_norm_kernel[(tokens,)](
        partials,
        scale,
        scores,
        tokens,
        num,
        parts,
        min(64, triton.next_power_of_2(num)),
        min(64, triton.next_power_of_2(parts)),
        num_warps=1,
    )
    return scores
