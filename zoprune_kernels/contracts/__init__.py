"""What each operator requires of its arguments and returns: checks first, then output shapes.

The fake kernels and the PyTorch fallback share these functions; the native library makes the same
checks in csrc/bindings. Each takes the operator's arguments and returns its outputs' shapes.
"""

from .family import (
    select_coverage,
    select_coverage_varlen,
    select_dpp,
    select_dpp_varlen,
    select_suppress,
    select_suppress_varlen,
)
from .pruning import score_and_select, score_and_select_varlen
from .scoring import directions, expected_sensitivity, fold_metric, metric_dtype, sensitivity
from .selection import check_values, select, select_varlen

__all__ = [
    "check_values",
    "directions",
    "expected_sensitivity",
    "fold_metric",
    "metric_dtype",
    "score_and_select",
    "score_and_select_varlen",
    "select",
    "select_coverage",
    "select_coverage_varlen",
    "select_dpp",
    "select_dpp_varlen",
    "select_suppress",
    "select_suppress_varlen",
    "select_varlen",
    "sensitivity",
]
