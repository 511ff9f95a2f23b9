"""32-bit values that travel beside features, in trailing columns of the features' own dtype.

Four columns hold the four bytes of a value. The integers 0 to 255 are exact in every floating-point
dtype, so the value arrives bit for bit, whatever gathers, splits or captures the features.
"""

from __future__ import annotations

import torch
from torch import Tensor

COLUMNS = 4
_SHIFTS = (0, 8, 16, 24)


def to_columns(values: Tensor, dtype: torch.dtype) -> Tensor:
    """values [...] float32 or int32 -> [..., 4] of ``dtype``."""
    bits = values.contiguous().view(torch.int32)
    return torch.stack([(bits >> shift) & 255 for shift in _SHIFTS], dim=-1).to(dtype)


def from_columns(columns: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse: columns [..., 4] -> [...] float32 or int32."""
    parts = columns.to(torch.int32)
    bits = parts[..., 0]
    for i, shift in enumerate(_SHIFTS[1:], start=1):
        bits = bits | (parts[..., i] << shift)
    return bits.contiguous().view(dtype)
