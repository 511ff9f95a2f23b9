"""The closed form g^T M g, and the projector's second layer beside it in the same launch.

Few projector tiles leave processors idle; the quadratic form is cut into many small units, each
with its own partial sum, and they fill the gap. A unit is a program: the hardware starts programs
in order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import numerics
from .launch import Tile, Window, divide_up, launch, window

# M is cut into squares of this edge; a unit multiplies one column tile of one square.
_SQUARE = 512


@triton.jit
def _project_tile(
    program,
    phi,
    w2,
    bias,
    z,
    tokens,
    outputs,
    hidden,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One tile of z = phi W2^T + b2."""
    row_tiles = tl.cdiv(tokens, BLOCK_M)
    row0 = (program % row_tiles) * BLOCK_M
    column0 = (program // row_tiles) * BLOCK_N
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, hidden, BLOCK_K):
        total = numerics.dot(
            numerics.tile(phi, row0, k, BLOCK_M, BLOCK_K),
            numerics.tile(w2, column0, k, BLOCK_N, BLOCK_K).T,
            total,
            PRECISION,
        )
    row = row0 + tl.arange(0, BLOCK_M)
    column = column0 + tl.arange(0, BLOCK_N)
    if bias is not None:
        total += tl.load(bias + column, mask=column < outputs, other=0.0).to(tl.float32)[None, :]
    at = row.to(tl.int64)[:, None] * outputs + column[None, :]
    inside = (row < tokens)[:, None] & (column < outputs)[None, :]
    tl.store(z + at, total.to(z.dtype.element_ty), mask=inside)


@triton.jit
def _quadratic_unit(
    program,
    slope,
    slope_wide,
    metric,
    partials,
    units,
    tokens,
    hidden,
    PRECISION: tl.constexpr,
    SQUARE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The part of g^T M g from one column tile of the square (upper, lower) of M, upper <= lower.

    M is symmetric: a square above the diagonal counts twice, for itself and its mirror image.
    """
    row_tiles = tl.cdiv(tokens, BLOCK_M)
    row0 = (program % row_tiles) * BLOCK_M
    unit = program // row_tiles
    square = unit // (SQUARE // BLOCK_N)
    # Squares are numbered along the rows of a triangle: lower (lower + 1) / 2 + upper.
    lower = ((tl.sqrt(8.0 * square + 1.0) - 1.0) * 0.5).to(tl.int32)
    lower -= (lower * (lower + 1) // 2 > square).to(tl.int32)
    lower += ((lower + 1) * (lower + 2) // 2 <= square).to(tl.int32)
    upper = square - lower * (lower + 1) // 2
    column0 = upper * SQUARE + unit % (SQUARE // BLOCK_N) * BLOCK_N
    start = lower * SQUARE
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(start, tl.minimum(start + SQUARE, hidden), BLOCK_K):
        total = numerics.dot(
            numerics.tile(slope, row0, k, BLOCK_M, BLOCK_K),
            numerics.tile(metric, column0, k, BLOCK_N, BLOCK_K).T,
            total,
            PRECISION,
        )
    row = row0 + tl.arange(0, BLOCK_M)
    g = numerics.tile(slope_wide, row0, column0, BLOCK_M, BLOCK_N).to(tl.float32)
    part = tl.sum(total * g, 1) * tl.where(upper == lower, 1.0, 2.0)
    tl.store(partials + row.to(tl.int64) * units + unit, part, mask=row < tokens)


@triton.jit(do_not_specialize=["projector_tiles", "units", "tokens"])
def _project_and_quadratic_kernel(
    phi,  # window on [T, H]
    w2,  # window on [D, H]
    bias,
    z,
    slope,  # window on [T, H]
    slope_wide,  # the same with wide windows
    metric,  # window on [H, H]
    partials,
    projector_tiles,
    units,
    tokens,
    outputs,
    hidden,
    PROJECT_PRECISION: tl.constexpr,
    QUADRATIC_PRECISION: tl.constexpr,
    SQUARE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    CHAINED: tl.constexpr,
):
    numerics.begin(CHAINED, partials is not None)
    program = tl.program_id(0)
    if z is not None:
        if program < projector_tiles:  # the long programs come first
            _project_tile(
                program,
                phi,
                w2,
                bias,
                z,
                tokens,
                outputs,
                hidden,
                PROJECT_PRECISION,
                BLOCK_M,
                BLOCK_N,
                BLOCK_K,
            )
            return
    if partials is not None:
        _quadratic_unit(
            program - projector_tiles,
            slope,
            slope_wide,
            metric,
            partials,
            units,
            tokens,
            hidden,
            QUADRATIC_PRECISION,
            SQUARE,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
        )


def project_and_quadratic(
    phi: Tensor | None,
    w2: Tensor | None,
    b2: Tensor | None,
    slope: Tensor | None,
    metric: Tensor | None,
    tile: Tile,
) -> tuple[Tensor | None, Tensor | None]:
    """(z, partials) in one launch: z = phi W2^T + b2 [T, D] where phi is given, and parts of
    g^T M g, float32 [1, T, units], where the slope g is given (its dtype is the metric's)."""
    some = phi if phi is not None else slope
    assert some is not None
    tokens, hidden = some.shape
    row_tiles = divide_up(tokens, tile.m)
    z = partials = None
    outputs = projector_tiles = units = 0
    if phi is not None:
        assert w2 is not None
        outputs = w2.shape[0]
        z = phi.new_empty((tokens, outputs))
        projector_tiles = row_tiles * divide_up(outputs, tile.n)
    if slope is not None:
        edge = divide_up(hidden, _SQUARE)
        units = edge * (edge + 1) // 2 * (_SQUARE // tile.n)
        partials = slope.new_empty((1, tokens, units), dtype=torch.float32)

    def view(matrix: Tensor | None, rows: int, columns: int = tile.k) -> Window | None:
        return None if matrix is None else window(matrix, rows, columns, tile.tma)

    launch(
        _project_and_quadratic_kernel,
        projector_tiles + row_tiles * units,
        view(phi, tile.m),
        view(w2, tile.n),
        b2,
        z,
        view(slope, tile.m),
        view(slope, tile.m, tile.n),
        view(metric, tile.n),
        partials,
        projector_tiles,
        units,
        tokens,
        outputs,
        hidden,
        numerics.dot_precision(some.dtype if phi is None else phi.dtype),
        numerics.dot_precision(some.dtype if slope is None else slope.dtype),
        _SQUARE,
        tile.m,
        tile.n,
        tile.k,
        follows=True,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return z, partials
