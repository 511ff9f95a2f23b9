"""The PyTorch fallback of every operator: its checks, then the reference, one image at a time.

Registered for all devices; native kernels take over where they exist. One image at a time, because
a matrix product's last bits depend on its shape and an image's result must not depend on its batch.
"""

from .coverage import select_coverage, select_coverage_varlen
from .dpp import select_dpp, select_dpp_varlen
from .pruning import (
    project_and_select,
    project_and_select_varlen,
    score_and_select,
    score_and_select_varlen,
)
from .scoring import directions, expected_sensitivity, fold_metric, sensitivity
from .selection import select, select_varlen
from .suppress import select_suppress, select_suppress_varlen
from .tokens import budget, compact, frame_change, merge, merge_bipartite, merge_varlen

__all__ = [
    "budget",
    "compact",
    "directions",
    "expected_sensitivity",
    "fold_metric",
    "frame_change",
    "merge",
    "merge_bipartite",
    "merge_varlen",
    "project_and_select",
    "project_and_select_varlen",
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
