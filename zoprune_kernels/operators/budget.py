"""Token budgets per image, crop or frame: budget."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..checks import Call, Output
from ..methods import SCALES_TEXT, is_scale
from ._register import operator

_RULES = ("equal", "proportional", "softmax")


def _checks(call: Call) -> Output:
    check, weights = call.check, call.weights
    check.shape("weights", weights, ["B"], "one for each image, crop or frame")
    check.float_dtype("weights", weights)
    check.device("weights", weights, weights, "weights")
    images = weights.shape[0]
    if call.capacity is not None:
        check.shape("capacity", call.capacity, [images], "one for each of weights")
        check.dtype("capacity", call.capacity, torch.int32)
        check.device("capacity", call.capacity, weights, "weights")
    check.one_of("rule", call.rule, _RULES)
    if not is_scale(call.temperature):
        check.fail("temperature", f"a number in {SCALES_TEXT}", f"{call.temperature:g}")
    if not 0 <= call.minimum < 2**31:
        check.fail("minimum", "an integer in [0, 2147483647]", call.minimum)
    if call.total < call.minimum * images or call.total < 0:
        least = f"at least {call.minimum * images} (minimum for each of weights)"
        check.fail("total", least, call.total)
    if call.total >= 2**31:
        check.fail("total", "at most 2147483647 (offsets are int32)", call.total)
    return Output([images + 1], torch.int32, weights.device)


def _values(call: Call) -> None:
    """Capacity for the total; only on the CPU, where reading it is free."""
    if call.capacity is None or call.capacity.device.type != "cpu":
        return
    least, room = int(call.capacity.min()), int(call.capacity.sum())
    if least < call.minimum:
        call.check.fail("capacity", f"at least {call.minimum} (minimum) in each", least)
    if room < call.total:
        call.check.fail("capacity", f"at least {call.total} (total) in all", room)


@operator(_checks, values=_values)
def budget(
    weights: Tensor,
    total: int,
    capacity: Tensor | None = None,
    *,
    rule: str = "proportional",
    temperature: float = 1.0,
    minimum: int = 0,
) -> Tensor:
    """Share ``total`` tokens among images, crops or frames; the counts sum exactly to it.

    Args:
        weights: [B] importance of each; float32, float16 or bfloat16.
        total: number of tokens to share out, below 2^31.
        capacity: int32 [B] most that each can take; no limit by default.
        rule: ``equal``, ``proportional`` to the positive weights, or ``softmax`` of
            weights / temperature (VidCom2).
        temperature: of the softmax, in [1e-18, 1e18].
        minimum: least that each gets.

    Returns:
        int32 [B + 1] offsets: image b gets result[b + 1] - result[b]. This is ``cu_keep`` of the
        packed operators.

    Example:
        >>> zoprune_kernels.budget(torch.tensor([1.0, 3.0]), 8)
        tensor([0, 2, 8], dtype=torch.int32)
    """
    return reference.budget(
        weights, total, capacity, rule=rule, temperature=temperature, minimum=minimum
    )
