"""Checks of a measured result by ``zoprune_kernels.testing``: no ratio is printed without one.

Where the fp64 reference would take minutes at full size it is computed for a subset: every token's
score is independent of the others, and so is every row of the folded metric.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoprune_kernels import reference
from zoprune_kernels.testing import (
    METRIC_TOLERANCE,
    OWN_KEYS_TOLERANCE,
    SCORE_TOLERANCE,
    TOKEN_TOLERANCE,
    Check,
    certify_select,
    relative_error,
)

from .shapes import Inputs

DIRECTION_TOLERANCE = 1e-6
SUBSET = 16


def subset(size: int) -> Tensor:
    """At most ``SUBSET`` evenly spaced indices below ``size``."""
    return torch.linspace(0, size - 1, min(SUBSET, size)).round().long()


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


def own_selection(indices: Tensor, scores: Tensor, inputs: Inputs) -> Check:
    """A selection by scores and keys that the operator computed itself."""
    tolerance = OWN_KEYS_TOLERANCE[inputs.x.dtype]
    return certify_select(
        indices, scores, inputs.exact_outputs, in_order=False, tolerance=tolerance
    )


def tokens(got: Tensor, indices: Tensor, inputs: Inputs) -> Check:
    """Kept tokens [k, D] against the fp64 projector."""
    error = relative_error(got, inputs.exact_outputs[indices])
    return Check("tokens", error, TOKEN_TOLERANCE[inputs.x.dtype])
