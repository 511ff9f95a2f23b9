"""Checks of a measured result against the fp64 reference: no ratio is printed without one.

Where the reference would take minutes at full size it is computed for a subset: every token's score
is independent of the others, and so is every row of the folded metric.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from zoprune_kernels import reference

from .shapes import Inputs

# Bounds on the relative error of a score, by dtype; the library's own tests hold the same ones.
SCORE_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-3, torch.float16: 1e-3}
# Rounding the metric to bf16 alone costs up to 2^-8 = 3.9e-3.
METRIC_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-3}
# The hidden layer and the outputs are each rounded to the model's dtype.
TOKEN_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
# How far below the best available gain a pick may be. Keys that the operator computes itself are
# rounded to the model's dtype, which moves a cosine by up to 1e-3 in bf16.
GAIN_TOLERANCE = 1e-5
OWN_KEYS_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-3, torch.float16: 1e-3}
DIRECTION_TOLERANCE = 1e-6

SUBSET = 16


@dataclass(frozen=True)
class Check:
    """What was compared, the largest error found and the largest allowed."""

    what: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # False for NaN

    def __str__(self) -> str:
        return f"{self.what}: error {self.error:.1e}, at most {self.tolerance:.0e} allowed"


def subset(size: int) -> Tensor:
    """At most ``SUBSET`` evenly spaced indices below ``size``."""
    return torch.linspace(0, size - 1, min(SUBSET, size)).round().long()


def relative_error(got: Tensor, want: Tensor) -> float:
    """Largest relative error of the last dimension's vectors; of the elements for a vector."""
    got, want = got.double(), want.double()
    if got.dim() == 1:
        return float(((got - want).abs() / want.abs()).max())
    return float(((got - want).norm(dim=-1) / want.norm(dim=-1)).max())


def directions(got: Tensor, want: Tensor) -> Check:
    error = float((got.double() - want).abs().max())
    return Check("directions", error, DIRECTION_TOLERANCE)


def sensitivity(got: Tensor, inputs: Inputs, directions: Tensor, step: float) -> Check:
    """Scores [N] against the paper-literal form in fp64 (the small-step form for step = 0)."""
    rows = subset(inputs.shape.tokens)
    exact = reference.paper_sensitivity if step > 0 else reference.sensitivity
    w1, b1, w2 = inputs.w1.double(), inputs.b1.double(), inputs.w2.double()
    want = exact(inputs.x[rows].double(), w1, b1, w2, directions.double(), step=step)
    error = relative_error(got[rows], want)
    return Check(f"scores of {len(rows)} tokens", error, SCORE_TOLERANCE[inputs.x.dtype])


def expected_sensitivity(got: Tensor, inputs: Inputs, metric: Tensor) -> Check:
    rows = subset(inputs.shape.tokens)
    w1, b1 = inputs.w1.double(), inputs.b1.double()
    want = reference.expected_sensitivity(inputs.x[rows].double(), w1, b1, metric.double())
    error = relative_error(got[rows], want)
    return Check(f"scores of {len(rows)} tokens", error, SCORE_TOLERANCE[inputs.x.dtype])


def fold_metric(got: Tensor, inputs: Inputs) -> Check:
    rows = subset(inputs.shape.hidden)
    w1, w2 = inputs.w1.double(), inputs.w2.double()
    want = (w2[:, rows].T @ w2) * (w1[rows] @ w1.T) / inputs.shape.inputs  # [rows, H]
    error = relative_error(got[rows], want)
    return Check(f"{len(rows)} rows of the metric", error, METRIC_TOLERANCE[inputs.x.dtype])


def selection(
    got: Tensor, scores: Tensor, keys: Tensor, tolerance: float = GAIN_TOLERANCE
) -> Check:
    return Check("selection", selection_regret(got, scores, keys), tolerance)


def selection_regret(indices: Tensor, scores: Tensor, keys: Tensor) -> float:
    """How far the set ``indices`` [k], in any order, is from a greedy selection (SADS), in gain.

    Replays the greedy in fp64 among the set alone: at each step the best of the set must be as good
    as the best of all tokens. inf where the indices are not distinct.
    """
    if indices.unique().numel() != indices.numel():
        return math.inf
    weight = reference.normalised_scores(scores.double())
    unit = reference.unit_keys(keys.double())
    cosine = unit @ unit[indices].T  # [N, k]
    gain = weight.clone()
    similarity = torch.full_like(weight, -math.inf)
    free = torch.ones_like(weight, dtype=torch.bool)
    regret = 0.0
    for _ in range(indices.numel()):
        gain = gain.masked_fill(~free, -math.inf)
        column = int(gain[indices].argmax())
        pick = indices[column]
        regret = max(regret, float(gain.max() - gain[pick]))
        free[pick] = False
        similarity = torch.maximum(similarity, cosine[:, column])
        gain = weight * (1 - similarity.clamp(-1, 1))
    return regret


def own_selection(indices: Tensor, scores: Tensor, inputs: Inputs) -> Check:
    """A selection by scores and keys that the operator computed itself."""
    tolerance = OWN_KEYS_TOLERANCE[inputs.x.dtype]
    return selection(indices, scores, inputs.exact_outputs, tolerance)


def tokens(got: Tensor, indices: Tensor, inputs: Inputs) -> Check:
    """Kept tokens [k, D] against the fp64 projector."""
    error = relative_error(got, inputs.exact_outputs[indices])
    return Check("tokens", error, TOKEN_TOLERANCE[inputs.x.dtype])
