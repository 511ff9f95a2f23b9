"""Random projectors, and one good call of every operator."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

from zoprune_kernels.operators import OPERATORS

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Every operator as its PyTorch fallback, whatever the backend.
fallback = SimpleNamespace(**{name: operator.fallback for name, operator in OPERATORS.items()})


@dataclass
class Projector:
    """Tokens x and a projector scaled so that pre-activations have unit variance."""

    x: Tensor
    w1: Tensor
    b1: Tensor | None
    w2: Tensor
    b2: Tensor | None

    @property
    def first_layer(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.x, self.w1, self.b1

    @property
    def layers(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor | None]:
        return self.x, self.w1, self.b1, self.w2, self.b2

    def double(self) -> Projector:
        """The same rounded values in float64."""
        return Projector(*(None if t is None else t.double() for t in self.layers))


def projector(
    *lead: int,
    d: int = 32,
    hidden: int = 64,
    out: int = 48,
    dtype: torch.dtype = torch.float32,
    bias: bool = True,
) -> Projector:
    """x [*lead, d] and random layers d -> hidden -> out."""
    x = torch.randn(*lead, d)
    w1 = torch.randn(hidden, d) / d**0.5
    b1 = torch.randn(hidden) / 2 if bias else None
    w2 = torch.randn(out, hidden) / hidden**0.5
    b2 = torch.randn(out) if bias else None
    return Projector(*(None if t is None else t.to(dtype) for t in (x, w1, b1, w2, b2)))


def operator_calls(dtype: torch.dtype) -> dict[str, tuple[tuple, dict]]:
    """Arguments of one good call of each operator, with images [2, 63, d]."""
    p = projector(2, 63, dtype=dtype)
    packed = (p.x.flatten(0, 1), p.w1, p.b1, p.w2, p.b2)
    metric = torch.ops.zoprune.fold_metric(p.w1, p.w2)
    scores = torch.rand(2, 63).to(dtype)
    directions = torch.ops.zoprune.directions(5, 32)
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
