"""Counter-based random numbers: Philox-4x32-10 (Salmon et al., SC 2011) in plain PyTorch.

Every backend draws from the same counters, so a seed means the same directions on every device:
to the last bit for ``rademacher``, to rounding for the others.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
STREAMS = {"sphere": 0, "gaussian": 0, "orthogonal": 0, "rademacher": 1}
_SELECT_STREAM = 0x52414E44


def philox_4x32_10(counters: tuple[Tensor, Tensor, Tensor, Tensor], seed: int) -> list[Tensor]:
    """Four 32-bit words, as int64 tensors, for each 128-bit counter; the key is the 64-bit seed."""
    c0, c1, c2, c3 = counters
    key0, key1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(10):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0, key1 = (key0 + _KEY_STEPS[0]) & _MASK, (key1 + _KEY_STEPS[1]) & _MASK
    return [c0, c1, c2, c3]


def _multiply(words: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a 32 x 32 bit product; int64 wraps, its bits stay right."""
    product = words * factor
    return (product >> 32) & _MASK, product & _MASK


def words(rows: int, columns: int, stream: int, seed: int, device: torch.device) -> Tensor:
    """Random words [rows, columns]: word ``c % 4`` of counter ``(c // 4, row, stream, 0)``."""
    blocks = torch.arange((columns + 3) // 4, device=device)
    row, block = torch.meshgrid(torch.arange(rows, device=device), blocks, indexing="ij")
    zero = torch.zeros_like(row)
    drawn = philox_4x32_10((block, row, zero + stream, zero), seed)
    return torch.stack(drawn, dim=-1).flatten(1)[:, :columns]  # [rows, columns]


def uniform(count: int, seed: int, device: torch.device) -> Tensor:
    """float32 [count] in [0, 1): what ``select(method="random")`` ranks by."""
    return (words(1, count, _SELECT_STREAM, seed, device)[0] >> 8).float() * 2.0**-24


def directions(num: int, dim: int, distribution: str, seed: int, device: torch.device) -> Tensor:
    """float64 [num, dim] random directions; see ``zoprune_kernels.directions``."""
    stream = STREAMS[distribution]
    if distribution == "rademacher":
        signs = words(num, dim, stream, seed, device) >> 31
        return (1 - 2 * signs).double() / math.sqrt(dim)
    normal = _normal(words(num, dim + dim % 2, stream, seed, device))[:, :dim]
    if distribution == "gaussian":
        return normal / math.sqrt(dim)
    if distribution == "sphere":
        return normal / normal.norm(dim=1, keepdim=True)
    return torch.cat([orthogonalise(group) for group in normal.split(dim)])


def _normal(bits: Tensor) -> Tensor:
    """Box-Muller on pairs of words."""
    u1 = (bits[:, 0::2] + 1).double() * 2.0**-32
    u2 = bits[:, 1::2].double() * 2.0**-32
    radius = (-2 * u1.log()).sqrt()
    pair = (radius * torch.cos(2 * math.pi * u2), radius * torch.sin(2 * math.pi * u2))
    return torch.stack(pair, dim=-1).flatten(1)


def orthogonalise(rows: Tensor) -> Tensor:
    """Gram-Schmidt of the rows, as the QR factor whose R has a positive diagonal."""
    q, r = torch.linalg.qr(rows.T)
    return (q * torch.where(r.diagonal() < 0, -1.0, 1.0)).T
