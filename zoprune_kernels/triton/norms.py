"""From partial squared norms to scores, summed in a fixed order: the same bits every time."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from . import numerics
from .launch import divide_up, launch, power_of_two

_TOKENS = 4  # tokens of a program: the parts of neighbours are contiguous


@triton.jit(do_not_specialize=["tokens", "num"])
def _mean_norm_kernel(
    partials,
    scale,
    scores,
    tokens,
    num,
    parts,
    TOKENS: tl.constexpr,
    NUM: tl.constexpr,
    PARTS: tl.constexpr,
    CHAINED: tl.constexpr,
):
    numerics.begin(CHAINED, False)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    total = tl.zeros((TOKENS, NUM), tl.float32)
    for start in range(0, num, NUM):
        direction = start + tl.arange(0, NUM)
        row = (direction.to(tl.int64)[None, :] * tokens + token[:, None]) * parts  # [TOKENS, NUM]
        inside = (token < tokens)[:, None] & (direction < num)[None, :]
        squares = tl.zeros((TOKENS, NUM, PARTS), tl.float32)
        for begin in range(0, parts, PARTS):
            part = begin + tl.arange(0, PARTS)[None, None, :]
            at = partials + row[:, :, None] + part
            squares += tl.load(at, mask=inside[:, :, None] & (part < parts), other=0.0)
        square = tl.sum(squares, 2)
        norm = tl.sqrt(tl.where(square < 0, 0.0, square))  # rounding; nan stays nan
        if scale is not None:
            norm *= tl.load(scale + direction, mask=direction < num, other=0.0)[None, :]
        total += norm
    tl.store(scores + token, tl.sum(total, 1) / num, mask=token < tokens)


def mean_norms(partials: Tensor, scale: Tensor | None) -> Tensor:
    """Scores [T] = mean over j of scale_j sqrt(sum of partials [m, T, parts] over the parts)."""
    num, tokens, parts = partials.shape
    scores = partials.new_empty(tokens)
    launch(
        _mean_norm_kernel,
        divide_up(tokens, _TOKENS),
        partials,
        scale,
        scores,
        tokens,
        num,
        parts,
        _TOKENS,
        min(64, power_of_two(num)),
        min(16, power_of_two(parts)),
        follows=True,
        num_warps=4,
    )
    return scores
