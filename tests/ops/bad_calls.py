"""Calls that each operator must refuse, for comparing the error texts of backends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tests.ops.cases import operator_calls

FLAGS = torch.zeros(2, 63, dtype=torch.bool)
INT32 = torch.int32

# argument -> values, most of them wrong for one operator or another
SCORING: dict[str, list[Any]] = {
    "x": [torch.rand(63), torch.rand(2, 0, 32), torch.rand(2, 63, 32).double()],
    "w1": [torch.rand(64), torch.rand(64, 31), torch.rand(64, 32).half(), torch.rand(64, 32).int()],
    "b1": [torch.rand(63), torch.rand(64).bfloat16()],
    "w2": [torch.rand(48, 63), torch.rand(0, 64), torch.rand(48, 64).half()],
    "b2": [torch.rand(47), torch.rand(48).half()],
    "directions": [torch.rand(5, 31), torch.rand(0, 32), torch.ones(5, 32, dtype=INT32)],
    "metric": [torch.rand(64, 63), torch.rand(64), torch.rand(64, 64).double()],
    "step": [-0.5, float("nan"), float("inf"), 1e-39, 1e39],
    "activation": ["tanh"],
    "num_directions": [0, -3, -(2**63)],
    "distribution": ["cube"],
}
SELECTION: dict[str, list[Any]] = {
    "scores": [torch.rand(()), torch.rand(2, 63, 1), torch.rand(2, 63).double()],
    "keys": [None, torch.rand(2, 62, 8), torch.rand(63, 8), torch.rand(2, 63, 8).double()],
    "k": [0, 64, -1, 2**62],
    "must_keep": [
        FLAGS[:, :62],
        FLAGS.float(),
        ~FLAGS,
        FLAGS.logical_not() & (torch.arange(63) > 60),
    ],
    "valid": [FLAGS[0], FLAGS.int(), FLAGS, torch.arange(63).expand(2, 63) < 7],
    "method": ["greedy"],
    "max_similarity": [1.5, -2.0, float("nan")],
    "quality": [torch.rand(()), torch.rand(2, 63, 1), torch.rand(2, 63).double()],
    "weights": [torch.rand(2, 62), torch.rand(2, 63).double()],
    "positions": [torch.rand(2, 63, 4), torch.rand(2, 62, 2), torch.ones(2, 63, 2, dtype=INT32)],
    "rule": ["mean"],
    "sigma_space": [0.0, float("inf"), float("nan"), 1e-20, 1e-320, 1e200],
    "sigma_similarity": [-1.0, float("inf"), 1e-20, 1e20],
    "radius": [0.0, float("nan")],
    "strength": [-0.5, float("inf"), 1e300],
    "threshold": [1.5, float("nan")],
    "tradeoff": [-0.1, 1.5, float("nan")],
    "first": ["best"],
    "num_seed": [-1, -(2**63)],
    "picks_per_step": [0, -(2**63)],
    "cu_tokens": [
        torch.tensor(values, dtype=dtype)
        for values, dtype in [
            ([0], INT32),
            ([[0, 63, 126]], INT32),
            ([0, 63, 126], torch.int64),
            ([1, 63, 126], INT32),
            ([0, 63, 125], INT32),
            ([0, 127, 126], INT32),
        ]
    ],
    "cu_keep": [
        torch.tensor(values, dtype=INT32)
        for values in ([0, 13], [1, 8, 13], [0, 8, 12], [0, 14, 13], [0, 0, 64, 127])
    ],
    "total_keep": [0, 127, 12, 2**62],
}


def _flattened(value: Any) -> Any:
    """The argument of a packed operator that corresponds to a batched one's."""
    if isinstance(value, torch.Tensor) and value.dim() >= 2 and value.shape[0] == 2:
        return value.flatten(0, 1)
    return value


def bad_calls(names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(operator, all its arguments by name), each with one argument replaced by a wrong one.

    Some replacements happen to be right for some operator: a caller that compares backends must
    allow for calls that none refuses.
    """
    for op in names:
        arguments, options = operator_calls(torch.float32)[op]
        schema = getattr(torch.ops.zoprune, op).default._schema
        good = dict(zip((a.name for a in schema.arguments), arguments, strict=False)) | options
        for argument in schema.arguments:
            for value in (SCORING | SELECTION).get(argument.name, []):
                if op.endswith("varlen"):
                    value = _flattened(value)
                yield op, good | {argument.name: value}
