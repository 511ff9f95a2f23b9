"""The first layer, a = x W1^T + b1, and what is wanted of a while it is in registers."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import numerics
from .launch import Tile, divide_up, launch, padded, window


@triton.jit(do_not_specialize=["tokens"])
def _linear_kernel(
    x,  # window on [T, d]
    w1,  # window on [H, d]
    bias,
    projected,
    slope,
    cubic,
    preactivation,
    tokens,
    hidden,
    stride,  # elements between the rows of every output; columns hidden..stride-1 are padding
    depth,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    CHAINED: tl.constexpr,
):
    numerics.begin(CHAINED, True)
    row_tiles = tl.cdiv(tokens, BLOCK_M)
    row0 = (tl.program_id(0) % row_tiles) * BLOCK_M
    column0 = (tl.program_id(0) // row_tiles) * BLOCK_N
    a = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, depth, BLOCK_K):
        a = numerics.dot(
            numerics.tile(x, row0, k, BLOCK_M, BLOCK_K),
            numerics.tile(w1, column0, k, BLOCK_N, BLOCK_K).T,
            a,
            PRECISION,
        )
    column = column0 + tl.arange(0, BLOCK_N)
    if bias is not None:
        a += tl.load(bias + column, mask=column < hidden, other=0.0).to(tl.float32)[None, :]

    row = row0 + tl.arange(0, BLOCK_M)
    at = row.to(tl.int64)[:, None] * stride + column[None, :]
    inside = (row < tokens)[:, None] & (column < stride)[None, :]
    if projected is not None:
        phi = numerics.activation(a, ACTIVATION)
        tl.store(projected + at, phi.to(projected.dtype.element_ty), mask=inside)
    if slope is not None:
        g = numerics.derivative(a, ACTIVATION)
        tl.store(slope + at, g.to(slope.dtype.element_ty), mask=inside)
    if cubic is not None:
        c = numerics.cubic_coefficient(a, ACTIVATION)
        tl.store(cubic + at, c.to(cubic.dtype.element_ty), mask=inside)
    if preactivation is not None:
        tl.store(preactivation + at, a, mask=inside)


class FirstLayer(NamedTuple):
    """phi(a), phi'(a), phi'''(a) / 6 and a, each [T, H] with padded rows, or None.

    phi and the cubic coefficient have x's dtype, phi' the one asked for, a is float32.
    """

    projected: Tensor | None
    slope: Tensor | None
    cubic: Tensor | None
    preactivation: Tensor | None


def linear(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    activation: str,
    tile: Tile,
    *,
    projected: bool = False,
    slope: torch.dtype | None = None,
    cubic: bool = False,
    preactivation: bool = False,
) -> FirstLayer:
    """What is asked for of the first layer; ``slope`` is the dtype wanted of phi'."""
    tokens, depth = x.shape
    hidden = w1.shape[0]

    def output(wanted: bool, dtype: torch.dtype | None) -> Tensor | None:
        return padded(x, tokens, hidden, dtype) if wanted else None

    outputs = FirstLayer(
        output(projected, x.dtype),
        output(slope is not None, slope),
        output(cubic, x.dtype),
        output(preactivation, torch.float32),
    )
    stride = next(out for out in outputs if out is not None).stride(0)
    launch(
        _linear_kernel,
        divide_up(tokens, tile.m) * divide_up(hidden, tile.n),
        window(x, tile.m, tile.k, tile.tma),
        window(w1, tile.n, tile.k, tile.tma),
        b1,
        *outputs,
        tokens,
        hidden,
        stride,
        depth,
        activation,
        numerics.dot_precision(x.dtype),
        tile.m,
        tile.n,
        tile.k,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return outputs
