"""What the adapters share: checks that name the argument, similarities, indices of flags."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn import functional as F

from zoprune_kernels.checks import FLOAT_DTYPES


def fail(function: str, argument: str, expected: str, got: Any) -> NoReturn:
    raise ValueError(f"zoprune: {function}: {argument}: expected {expected}, got {got}")


def check_tensors(function: str, **tensors: tuple[Tensor, str]) -> dict[str, int]:
    """The sizes that patterns such as "B N D" name; a name has one size in all of them.

    A leading "..." stands for a batch or nothing, as the first tensor has it. All must be float32,
    float16 or bfloat16 and on one device.
    """
    sizes: dict[str, int] = {}
    first = next(iter(tensors))
    device, batch = None, ""
    for argument, (tensor, pattern) in tensors.items():
        if not isinstance(tensor, Tensor):
            fail(function, argument, "a tensor", type(tensor).__name__)
        if pattern.startswith("...") and device is None:
            batch = "B" if tensor.dim() == len(pattern.split()) else ""
        names = pattern.replace("...", batch).split()
        shape = list(tensor.shape)
        bound = {**dict(zip(names, shape, strict=False)), **sizes}
        if shape != [bound.get(name) for name in names] or 0 in shape:
            expected = ", ".join(str(sizes.get(name, name)) for name in names)
            fail(function, argument, f"shape [{expected}]", shape)
        sizes = bound
        if tensor.dtype not in FLOAT_DTYPES:
            fail(function, argument, "float32, float16 or bfloat16", tensor.dtype)
        device = device or tensor.device
        if tensor.device != device:
            fail(function, argument, f"device {device} (that of {first})", tensor.device)
    return sizes


def check_count(function: str, argument: str, count: Any, most: int, tokens: str) -> None:
    """``count`` is an integer from 1 to ``most``, the number of ``tokens``."""
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= most:
        fail(function, argument, f"an integer from 1 to {most} (the number of {tokens})", count)


def check_share(function: str, argument: str, share: float) -> None:
    if not 0 <= share <= 1:
        fail(function, argument, "a number in [0, 1]", share)


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Cosines [..., N, M] of rows x [..., N, D] and y [..., M, D], in float32; 0 for a zero row."""
    x, y = (F.normalize(rows.float(), dim=-1) for rows in (x, y))
    return x @ y.transpose(-1, -2)


def indices_of(flags: Tensor, count: int) -> Tensor:
    """Ascending indices [..., count] of the set flags [..., N], of which there are ``count``.

    Unlike ``nonzero`` it does not wait for a GPU.
    """
    return flags.int().argsort(dim=-1, descending=True, stable=True)[..., :count]


def flags_at(indices: Tensor, tokens: int) -> Tensor:
    """Flags [..., tokens], set at the indices [..., k]."""
    flags = indices.new_zeros((*indices.shape[:-1], tokens), dtype=torch.bool)
    return flags.scatter(-1, indices, True)
