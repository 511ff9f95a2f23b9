"""How much each token changes from one video frame to the next (EVS)."""

from __future__ import annotations

import torch
from torch import Tensor

from .normalise import unit_keys


def frame_change(x: Tensor) -> Tensor:
    """1 - cos to the co-located token of the frame before; x [..., T, P, D], result [..., T, P].

    The first frame has nothing before it: 2, the largest change there is.
    """
    z = unit_keys(x)
    cosine = (z[..., 1:, :, :] * z[..., :-1, :, :]).sum(-1).clamp(-1, 1)
    return torch.cat([torch.full_like(z[..., :1, :, 0], 2.0), 1 - cosine], dim=-2)
