"""ZOO-Prune's token scoring and selection as torch operators: ``torch.ops.zoprune.*``."""

from . import backend as backend
from .api import (
    budget,
    compact,
    directions,
    expected_sensitivity,
    fold_metric,
    frame_change,
    merge,
    merge_bipartite,
    merge_varlen,
    project_and_select,
    project_and_select_varlen,
    score_and_select,
    score_and_select_varlen,
    select,
    select_coverage,
    select_coverage_varlen,
    select_dpp,
    select_dpp_varlen,
    select_suppress,
    select_suppress_varlen,
    select_varlen,
    sensitivity,
)

__version__ = "0.1.0"

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
