"""Random directions from Philox counters, those of ``zoprune_kernels.philox``: a row a program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..philox import STREAMS, orthogonalise
from . import numerics
from .launch import divide_up, launch, power_of_two


@triton.jit
def _cosine_sine(turns):
    """cos and sin of 2 pi turns, turns in [0, 1], in float64: Taylor series within an eighth of a
    turn. The library's own keep an array in local memory, for angles that do not occur here."""
    quarters = tl.floor(4.0 * turns + 0.5)
    angle = 6.283185307179586 * (turns - 0.25 * quarters)
    z = angle * angle
    sine = 1 / 1307674368000 * z - 1 / 6227020800
    sine = (((-sine * z - 1 / 39916800) * z + 1 / 362880) * z - 1 / 5040) * z + 1 / 120
    sine = angle - angle * z * (1 / 6 - z * sine)
    cosine = (z / 20922789888000 - 1 / 87178291200) * z + 1 / 479001600
    cosine = (((cosine * z - 1 / 3628800) * z + 1 / 40320) * z - 1 / 720) * z + 1 / 24
    cosine = 1 - z * (0.5 - z * cosine)
    swapped = (quarters == 1) | (quarters == 3)
    x = tl.where(swapped, sine, cosine)
    y = tl.where(swapped, cosine, sine)
    x = tl.where((quarters == 1) | (quarters == 2), -x, x)
    return x, tl.where((quarters == 2) | (quarters == 3), -y, y)


@triton.jit
def _normal_pair(even, odd):
    """Box-Muller on two 32-bit words, in float64."""
    u1 = (even.to(tl.float64) + 1.0) * 2.3283064365386963e-10  # 2^-32
    u2 = odd.to(tl.float64) * 2.3283064365386963e-10
    radius = tl.sqrt(-2.0 * tl.log(u1))
    cosine, sine = _cosine_sine(u2)
    return radius * cosine, radius * sine


@triton.jit(do_not_specialize=["dim", "seed"])
def _directions_kernel(
    out,
    dim,
    seed,
    STREAM: tl.constexpr,
    DISTRIBUTION: tl.constexpr,
    QUADS: tl.constexpr,  # a power of two >= dim / 4: each Philox call draws four columns
    CHAINED: tl.constexpr,
):
    numerics.begin(CHAINED, False)
    row = tl.program_id(0)
    quad = tl.arange(0, QUADS)
    zero = quad * 0
    w0, w1, w2, w3 = tl.philox(seed, quad, zero + row, zero + STREAM, zero, 10)
    # [QUADS, 2, 2] -> columns 4 quad + (0, 1, 2, 3): join puts its arguments last
    column = 4 * quad[:, None] + tl.arange(0, 4)[None, :]
    inside = column < dim
    root = tl.sqrt(dim.to(tl.float64))
    if DISTRIBUTION == "rademacher":
        words = tl.join(tl.join(w0, w2), tl.join(w1, w3)).reshape(QUADS, 4)
        value = tl.where(words >> 31 == 0, 1.0, -1.0).to(tl.float64) / root
    else:
        n0, n1 = _normal_pair(w0, w1)
        n2, n3 = _normal_pair(w2, w3)
        value = tl.join(tl.join(n0, n2), tl.join(n1, n3)).reshape(QUADS, 4)
        if DISTRIBUTION == "gaussian":
            value /= root
        if DISTRIBUTION == "sphere":
            kept = tl.where(inside, value, 0.0)
            value /= tl.sqrt(tl.sum(kept * kept))
    at = row.to(tl.int64) * dim + column
    tl.store(out + at, value.to(out.dtype.element_ty), mask=inside)


def directions(
    num: int, dim: int, distribution: str, seed: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """[num, dim] random directions in one launch; ``orthogonal`` adds a QR factorisation."""
    orthogonal = distribution == "orthogonal"
    out = torch.empty((num, dim), dtype=torch.float64 if orthogonal else dtype, device=device)
    launch(
        _directions_kernel,
        num,
        out,
        dim,
        seed,
        STREAMS[distribution],
        "normal" if orthogonal else distribution,
        power_of_two(divide_up(dim, 4)),
        num_warps=8,
    )
    if not orthogonal:
        return out
    return torch.cat([orthogonalise(group) for group in out.split(dim)]).to(dtype)
