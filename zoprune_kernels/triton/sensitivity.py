"""The directional score: rows t = (phi(a + h v) - phi(a - h v)) / 2h, times W2^T.

Row (j, i) of the product is W2 t for direction j and token i; only its squared norm is kept, one
partial sum per column tile: nothing of size m T H or m T D is ever written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import numerics
from .launch import Tile, divide_up, launch, padded, power_of_two, window
from .linear import FirstLayer
from .tiles import Tiles

# How a direction's rows are made, by h max|v_j| (docs/kernels.md, "Finite steps").
DERIVATIVE, CUBIC, DIFFERENCE = 0, 1, 2
_CUBIC_LIMIT = 1 / 16
# Directions of one tile: its rows are tile.m / 4 tokens along 4 directions each.
_TOGETHER = 4


class Projected(NamedTuple):
    """The directions in the hidden layer, V = U W1^T, each divided by a power of two.

    v float32 [m, H], rows padded; scale [m], what v was divided by; reach [m] = step * scale;
    form int32 [m], one of the above.
    """

    v: Tensor
    scale: Tensor
    reach: Tensor
    form: Tensor


@triton.jit(do_not_specialize=["num"])
def _project_directions_kernel(
    directions,  # window on [m, d]
    w1,  # window on [H, d]
    v,
    num,
    stride,
    depth,
    PRECISION: tl.constexpr,
    SPLIT: tl.constexpr,  # directions = high + low in the weights' half precision, both multiplied
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    CHAINED: tl.constexpr,
):
    numerics.begin(CHAINED, True)
    row_tiles = tl.cdiv(num, BLOCK_M)
    row0 = (tl.program_id(0) % row_tiles) * BLOCK_M
    column0 = (tl.program_id(0) // row_tiles) * BLOCK_N
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, depth, BLOCK_K):
        u = numerics.tile(directions, row0, k, BLOCK_M, BLOCK_K).to(tl.float32)
        w = numerics.tile(w1, column0, k, BLOCK_N, BLOCK_K).T
        if SPLIT:
            high = u.to(w.dtype)
            low = (u - high.to(tl.float32)).to(w.dtype)
            total = numerics.dot(high, w, total, PRECISION)
            total = numerics.dot(low, w, total, PRECISION)
        else:
            total = numerics.dot(u, w, total, PRECISION)
    row = row0 + tl.arange(0, BLOCK_M)
    column = column0 + tl.arange(0, BLOCK_N)
    inside = (row < num)[:, None] & (column < stride)[None, :]
    at = row.to(tl.int64)[:, None] * stride + column[None, :]
    tl.store(v + at, total, mask=inside)


@triton.jit
def _scale_directions_kernel(
    v,
    scale,
    reach,
    form,
    stride,
    step,
    derivative_limit,
    cubic_limit,
    BLOCK: tl.constexpr,
    CHAINED: tl.constexpr,
):
    """Scale row j to max|v_j| in [1, 2), exactly, so that float16 holds t; and choose its form."""
    numerics.begin(CHAINED, True)
    row = tl.program_id(0)
    v += row.to(tl.int64) * stride
    column = tl.arange(0, BLOCK)
    largest = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, stride, BLOCK):
        value = tl.load(v + start + column, mask=start + column < stride, other=0.0)
        largest = tl.maximum(largest, tl.where(value == value, tl.abs(value), 0.0))
    peak = tl.max(largest)
    power = (peak.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    power = tl.where(power > 0, power, 1.0)
    for start in range(0, stride, BLOCK):
        at = v + start + column
        value = tl.load(at, mask=start + column < stride, other=0.0)
        tl.store(at, value / power, mask=start + column < stride)
    furthest = step * peak
    chosen = tl.where(furthest > cubic_limit, 2, tl.where(furthest > derivative_limit, 1, 0))
    tl.store(scale + row, power)
    tl.store(reach + row, step * power)
    tl.store(form + row, chosen)


def project_directions(
    directions: Tensor, w1: Tensor, step: float, activation: str, tile: Tile
) -> Projected:
    """V = U W1^T of directions [m, d], and which form each takes at this step."""
    num, hidden = directions.shape[0], w1.shape[0]
    v = padded(w1, num, hidden, torch.float32)
    launch(
        _project_directions_kernel,
        divide_up(num, tile.m) * divide_up(hidden, tile.n),
        window(directions, tile.m, tile.k, tile.tma),
        window(w1, tile.n, tile.k, tile.tma),
        v,
        num,
        v.stride(0),
        w1.shape[1],
        numerics.dot_precision(w1.dtype),
        w1.dtype != torch.float32,
        tile.m,
        tile.n,
        tile.k,
        follows=True,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    scale, reach = w1.new_empty((2, num), dtype=torch.float32)
    projected = Projected(v, scale, reach, w1.new_empty(num, dtype=torch.int32))
    limits = form_limits(w1.dtype, step, activation)
    arguments = (*projected, v.stride(0), step, *limits, 1024)
    launch(_scale_directions_kernel, num, *arguments, follows=True, num_warps=4)
    return projected


def slope_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of phi' where t has ``dtype``: float16 has 3 bits more than bfloat16 at the same size, and
    |phi'| <= 1.13. The rounding of a slope is that of all directions: their mean keeps it."""
    return dtype if dtype == torch.float32 else torch.float16


def form_limits(dtype: torch.dtype, step: float, activation: str) -> tuple[float, float]:
    """The largest h max|v| that the derivative serves, and the largest that the cubic form serves.

    What is neglected stays below 2e-8 of t in float32 and 4e-6 in half precision, where rounding t
    costs 2e-3. relu has a corner, which no series describes.
    """
    if step == 0 or activation == "identity":
        return math.inf, math.inf
    if activation == "relu":
        return -1.0, -1.0
    return 2.0**-12 if dtype == torch.float32 else 2.0**-8, _CUBIC_LIMIT


@triton.jit(do_not_specialize=["tokens", "num"])
def _sensitivity_kernel(
    slope,
    cubic,
    preactivation,
    v,
    reach,
    form,
    w2,  # window on [D, H]
    partials,
    tokens,
    num,
    outputs,
    hidden,
    stride,
    FORM: tl.constexpr,
    ACTIVATION: tl.constexpr,
    DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    NUM_POWER: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    CHAINED: tl.constexpr,
):
    numerics.begin(CHAINED, True)
    every = tl.arange(0, NUM_POWER)
    forms = tl.load(form + every, mask=every < num, other=-1)
    if tl.max((forms == FORM).to(tl.int32)) == 0:
        return
    BLOCK_M: tl.constexpr = BLOCK_J * BLOCK_T
    token_tiles = tl.cdiv(tokens, BLOCK_T)
    row_tiles = token_tiles * tl.cdiv(num, BLOCK_J)
    column_tiles = tl.cdiv(outputs, BLOCK_N)
    for tile in range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0)):
        # Row tiles go first: programs that run together read the same columns of W2.
        column_tile = tile // row_tiles
        token0 = tile % row_tiles % token_tiles * BLOCK_T
        direction0 = tile % row_tiles // token_tiles * BLOCK_J
        directions = tl.minimum(direction0 + tl.arange(0, BLOCK_J), num - 1)
        if tl.max((tl.load(form + directions) == FORM).to(tl.int32)) == 1:
            # A few tokens times a few directions: each slope is read once for all of them. Triton
            # makes t in the registers that feed the tensor cores, because it is made of loads only.
            at = tl.minimum(token0 + tl.arange(0, BLOCK_T), tokens - 1).to(tl.int64) * stride
            along = directions.to(tl.int64)[:, None] * stride
            far = tl.load(reach + directions)[:, None, None]  # [J, 1, 1]
            total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            for k in range(0, hidden, BLOCK_K):
                column = (k + tl.arange(0, BLOCK_K))[None, :]
                t = tl.load(v + along + column)[:, None, :]  # [J, 1, K]
                if FORM == 2:
                    a = tl.load(preactivation + at[:, None] + column)[None, :, :]  # [1, T, K]
                    t = numerics.difference(a, far * t, ACTIVATION) * (0.5 / far)
                elif FORM == 1:
                    g = tl.load(slope + at[:, None] + column).to(tl.float32)[None, :, :]
                    c = tl.load(cubic + at[:, None] + column).to(tl.float32)[None, :, :]
                    d = far * t
                    t = t * (g + c * (d * d))
                else:
                    t = t * tl.load(slope + at[:, None] + column).to(tl.float32)[None, :, :]
                t = t.to(DTYPE).reshape(BLOCK_M, BLOCK_K)  # [J, T, K] -> [M, K]
                w = numerics.tile(w2, column_tile * BLOCK_N, k, BLOCK_N, BLOCK_K).T  # [K, N]
                total = numerics.dot(t, w, total, PRECISION)
            row = tl.arange(0, BLOCK_M)
            direction = direction0 + row // BLOCK_T
            token = token0 + row % BLOCK_T
            inside = (direction < num) & (token < tokens)
            inside &= tl.load(form + direction, mask=inside, other=-1) == FORM
            to = (direction.to(tl.int64) * tokens + token) * column_tiles + column_tile
            tl.store(partials + to, tl.sum(total * total, 1), mask=inside)


def partial_norms(
    first: FirstLayer,
    directions: Projected,
    w2: Tensor,
    activation: str,
    tiles: Tiles,
    programs: int,
    launched: Sequence[int],
) -> Tensor:
    """float32 [m, T, column tiles]: parts of the squared norms of W2 t, t scaled as the directions.

    One launch for each form in ``launched``; one whose form no direction takes ends at once.
    """
    rows = first.slope if first.slope is not None else first.preactivation
    assert rows is not None
    tokens, hidden = rows.shape
    num, outputs = directions.v.shape[0], w2.shape[0]
    together = min(_TOGETHER, power_of_two(num))
    parts = divide_up(outputs, tiles.derivative.n)
    partials = w2.new_empty((num, tokens, parts), dtype=torch.float32)
    for form in launched:
        tile = (tiles.derivative, tiles.cubic, tiles.difference)[form]
        launch(
            _sensitivity_kernel,
            programs,
            *first[1:],
            directions.v,
            directions.reach,
            directions.form,
            window(w2, tile.n, tile.k, tile.tma),
            partials,
            tokens,
            num,
            outputs,
            hidden,
            rows.stride(0),
            form,
            activation,
            getattr(tl, str(w2.dtype).removeprefix("torch.")),
            numerics.dot_precision(w2.dtype),
            power_of_two(num),
            together,
            tile.m // together,
            tile.n,
            tile.k,
            follows=True,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
    return partials


def forms(step: float, activation: str) -> tuple[int, ...]:
    """The forms that directions can take: all smooth ones for a smooth activation, else one."""
    if step == 0 or activation == "identity":
        return (DERIVATIVE,)
    if activation == "relu":
        return (DIFFERENCE,)
    return (DERIVATIVE, CUBIC, DIFFERENCE)
