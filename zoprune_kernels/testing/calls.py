"""One good call of every operator, and calls that must be refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as tree

from ..namespace import operator
from .check import Check
from .inputs import projector
from .operators import certify


@dataclass(frozen=True)
class Call:
    """An operator of ``torch.ops.zoprune`` and all its arguments by name."""

    op: str
    arguments: dict[str, Any]

    def run(self) -> Any:
        return operator(self.op)(**self.arguments)

    def check(self) -> list[Check]:
        """Runs it and certifies what it returns."""
        return certify(self.op, self.arguments, self.run())

    def to(self, device: str) -> Call:
        """The same call with its tensors on another device."""
        moved = tree.tree_map_only(Tensor, lambda tensor: tensor.to(device), self.arguments)
        if "device" in moved:
            moved["device"] = torch.device(device)
        return replace(self, arguments=moved)

    def but(self, **arguments: Any) -> Call:
        """The same call with other values for some arguments."""
        return replace(self, arguments=self.arguments | arguments)


def call(op: str, *arguments: Any, **options: Any) -> Call:
    """A call with every argument of the schema by name, defaults filled in."""
    schema = operator(op).default._schema
    names = [argument.name for argument in schema.arguments]
    given = dict(zip(names, arguments, strict=False)) | options
    defaults = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    return Call(op, {name: given.get(name, defaults.get(name)) for name in names})


def calls(dtype: torch.dtype = torch.float32, only: Iterable[str] = ()) -> list[Call]:
    """One good call of each operator, with two images of 63 tokens; ``only`` some of them."""
    made = [
        call(op, *arguments, **options)
        for op, (arguments, options) in operator_calls(dtype).items()
    ]
    return [one for one in made if not only or one.op in only]


def operator_calls(dtype: torch.dtype = torch.float32) -> dict[str, tuple[tuple, dict[str, Any]]]:
    """By operator: the arguments and options of its good call, as one would write them."""
    p = projector(2, 63, dtype=dtype)
    packed = (p.x.flatten(0, 1), p.w1, p.b1, p.w2, p.b2)
    metric = operator("fold_metric")(p.w1, p.w2)
    scores = torch.rand(2, 63).to(dtype)
    directions = operator("directions")(5, 32)
    cu_tokens = torch.tensor([0, 63, 126], dtype=torch.int32)
    cu_keep = torch.tensor([0, 8, 13], dtype=torch.int32)
    packing = (cu_tokens, cu_keep, 13)
    valid = torch.arange(63).expand(2, 63) < 60
    grid = torch.cartesian_prod(torch.arange(7.0), torch.arange(9.0)).expand(2, 63, 2)
    kept = torch.tensor([[1, 5, 40], [0, 7, 59]])
    kept_packed = torch.cat([torch.arange(8), torch.arange(70, 75)])
    return {
        "directions": ((7, 33), {"distribution": "orthogonal", "seed": 5, "dtype": dtype}),
        "sensitivity": ((p.x, p.w1, p.b1, p.w2, directions), {"step": 0.0}),
        "fold_metric": ((p.w1, p.w2, directions), {}),
        "expected_sensitivity": ((*p.first_layer, metric), {"activation": "silu"}),
        "select": ((scores, p.x, 8), {"valid": valid, "max_similarity": 0.5}),
        "select_varlen": ((scores.flatten(), packed[0], *packing), {"method": "maxmin"}),
        "select_dpp": ((scores, p.x, 8), {"valid": valid}),
        "select_dpp_varlen": ((scores.flatten(), packed[0], *packing), {"sort": False}),
        "select_suppress": ((scores, p.x, 8, grid), {"sigma_similarity": 0.5}),
        "select_suppress_varlen": (
            (scores.flatten(), packed[0], *packing),
            {"rule": "hard", "threshold": 0.1},
        ),
        "select_coverage": ((scores, p.x, 8), {"weights": scores, "valid": valid}),
        "select_coverage_varlen": ((scores.flatten(), packed[0], *packing), {"sort": False}),
        "score_and_select": ((*p.layers, 8), {"num_directions": 4, "seed": 2}),
        "score_and_select_varlen": ((*packed, *packing), {"metric": metric}),
        "project_and_select": ((*p.layers, 8), {"metric": metric, "must_keep": ~valid}),
        "merge": ((p.x, p.x, kept), {"weights": scores, "valid": valid}),
        "merge_varlen": (
            (packed[0], packed[0], kept_packed, cu_tokens, cu_keep),
            {"rule": "residual"},
        ),
        "merge_bipartite": ((p.x, p.x, 20), {}),
        "budget": ((scores[0], 200), {"rule": "softmax", "minimum": 1}),
        "compact": (([p.x, valid, torch.arange(378).view(3, 2, 63)], kept, [1, 1, 2]), {}),
        "frame_change": ((p.x.view(2, 7, 9, 32),), {}),
        "project_and_select_varlen": ((*packed, *packing), {"directions": directions}),
    }


def refusals(ops: Iterable[str]) -> Iterator[Call]:
    """Good calls with one argument replaced by a wrong one, for comparing backends' errors.

    Some replacements happen to be right for some operator: a caller that compares backends must
    allow for calls that none refuses.
    """
    good = {one.op: one for one in calls()}
    wrong = _wrong()
    for op in ops:
        for name in good[op].arguments:
            for value in wrong.get(name, []):
                if op.endswith("varlen") and isinstance(value, Tensor):
                    if value.dim() >= 2 and value.shape[0] == 2:
                        value = value.flatten(0, 1)
                yield good[op].but(**{name: value})


def _wrong() -> dict[str, list[Any]]:
    """By argument: values, most of them wrong for one operator or another."""
    flags, int32 = torch.zeros(2, 63, dtype=torch.bool), torch.int32
    nan, inf = float("nan"), float("inf")
    scoring: dict[str, list[Any]] = {
        "x": [torch.rand(63), torch.rand(2, 0, 32), torch.rand(2, 63, 32).double()],
        "w1": [torch.rand(64), torch.rand(64, 31), torch.rand(64, 32).half(), _ints(64, 32)],
        "b1": [torch.rand(63), torch.rand(64).bfloat16()],
        "w2": [torch.rand(48, 63), torch.rand(0, 64), torch.rand(48, 64).half()],
        "b2": [torch.rand(47), torch.rand(48).half()],
        "directions": [torch.rand(5, 31), torch.rand(0, 32), _ints(5, 32)],
        "metric": [torch.rand(64, 63), torch.rand(64), torch.rand(64, 64).double()],
        "step": [-0.5, nan, inf, 1e-39, 1e39],
        "activation": ["tanh"],
        "num_directions": [0, -3, -(2**63)],
        "distribution": ["cube"],
    }
    selection: dict[str, list[Any]] = {
        "scores": [torch.rand(()), torch.rand(2, 63, 1), torch.rand(2, 63).double()],
        "keys": [None, torch.rand(2, 62, 8), torch.rand(63, 8), torch.rand(2, 63, 8).double()],
        "k": [0, 64, -1, 2**62],
        "must_keep": [flags[:, :62], flags.float(), ~flags, ~flags & (torch.arange(63) > 60)],
        "valid": [flags[0], flags.int(), flags, torch.arange(63).expand(2, 63) < 7],
        "method": ["greedy"],
        "max_similarity": [1.5, -2.0, nan],
        "quality": [torch.rand(()), torch.rand(2, 63, 1), torch.rand(2, 63).double()],
        "weights": [torch.rand(2, 62), torch.rand(2, 63).double()],
        "positions": [torch.rand(2, 63, 4), torch.rand(2, 62, 2), _ints(2, 63, 2)],
        "rule": ["mean"],
        "sigma_space": [0.0, inf, nan, 1e-20, 1e-320, 1e200],
        "sigma_similarity": [-1.0, inf, 1e-20, 1e20],
        "radius": [0.0, nan],
        "strength": [-0.5, inf, 1e300],
        "threshold": [1.5, nan],
        "tradeoff": [-0.1, 1.5, nan],
        "first": ["best"],
        "num_seed": [-1, -(2**63)],
        "picks_per_step": [0, -(2**63)],
        "cu_tokens": [
            torch.tensor([0], dtype=int32),
            torch.tensor([[0, 63, 126]], dtype=int32),
            torch.tensor([0, 63, 126]),
            *(torch.tensor(v, dtype=int32) for v in ([1, 63, 126], [0, 63, 125], [0, 127, 126])),
        ],
        "cu_keep": [
            torch.tensor(values, dtype=int32)
            for values in ([0, 13], [1, 8, 13], [0, 8, 12], [0, 14, 13], [0, 0, 64, 127])
        ],
        "total_keep": [0, 127, 12, 2**62],
    }
    return scoring | selection


def _ints(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.int32)
