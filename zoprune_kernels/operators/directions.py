"""Random directions: directions."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import philox
from ..checks import FLOAT_DTYPES, Call, Output, dtype_name
from ..methods import ScoreOptions
from ._register import operator


def _checks(call: Call) -> Output:
    check = call.check
    for name in ("num", "dim"):
        if call.arguments[name] < 1:
            check.fail(name, "an integer >= 1", call.arguments[name])
    ScoreOptions.of(call.arguments).check(check.fail)
    if call.dtype is not None and call.dtype not in FLOAT_DTYPES:
        check.fail("dtype", "float32, float16 or bfloat16", dtype_name(call.dtype))
    device = torch.device(call.device or "cpu")
    return Output([call.num, call.dim], call.dtype or torch.float32, device)


@operator(_checks)
def directions(
    num: int,
    dim: int,
    *,
    distribution: str = ScoreOptions.distribution,
    seed: int = ScoreOptions.seed,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Random directions of unit scale along which the projector is probed (paper, section 3.2).

    The same seed gives the same directions on every device (Philox-4x32-10 on seed, row, column).

    Args:
        num: number of directions m.
        dim: dimension d of a token.
        distribution: ``sphere`` (normalised Gaussian, the paper's), ``gaussian`` (N(0, I/d)),
            ``rademacher`` (+-1/sqrt(d)) or ``orthogonal`` (random orthonormal rows).
        seed: 64-bit seed of the random numbers.
        dtype: float32 (default), float16 or bfloat16.
        device: the CPU by default.

    Returns:
        [num, dim].

    Example:
        >>> zoprune_kernels.directions(64, 1024).norm(dim=1).allclose(torch.ones(64))
        True
    """
    device = torch.device("cpu") if device is None else device
    return philox.directions(num, dim, distribution, seed, device).to(dtype or torch.float32)
