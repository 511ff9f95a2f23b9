"""How much tokens change from one video frame to the next: frame_change."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..checks import Call, Output, shape_text
from ..reference.images import by_image
from ._register import operator


def _checks(call: Call) -> Output:
    check, x = call.check, call.x
    if x.dim() not in (3, 4) or min(x.shape) < 1:
        check.fail("x", "shape [T, P, D] or [B, T, P, D]", shape_text(x.shape))
    check.float_dtype("x", x)
    check.device("x", x, x, "x")
    return Output(list(x.shape[:-1]), torch.float32, x.device)


@operator(_checks)
def frame_change(x: Tensor) -> Tensor:
    """How much each token differs from the co-located one of the frame before: 1 - cosine (EVS).

    Args:
        x: [T, P, D] or [B, T, P, D], T frames of P tokens; float32, float16 or bfloat16.

    Returns:
        float32 [..., T, P] in [0, 2]; 2 in the first frame, which has nothing before it.

    Example:
        >>> zoprune_kernels.frame_change(torch.ones(2, 3, 16))
        tensor([[2., 2., 2.],
                [0., 0., 0.]])
    """
    return by_image(reference.frame_change, 3, x)
