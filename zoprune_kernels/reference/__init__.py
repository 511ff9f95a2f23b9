"""The mathematics in readable PyTorch: the truth that every other backend is compared with.

All functions run in float64 when their inputs are float64, else in float32. They are also the
registered fallback, so that each operator exists where no native kernel does.
"""

from .budget import budget
from .compact import compact
from .coverage import select_coverage
from .dpp import select_dpp
from .frame_change import frame_change
from .merge import merge, merge_bipartite
from .scoring import (
    ACTIVATION,
    DERIVATIVE,
    expected_sensitivity,
    fold_metric,
    paper_sensitivity,
    project,
    sensitivity,
)
from .selection import finite_scores, normalised_scores, select, unit_keys
from .suppress import select_suppress

__all__ = [
    "ACTIVATION",
    "DERIVATIVE",
    "budget",
    "compact",
    "expected_sensitivity",
    "finite_scores",
    "fold_metric",
    "frame_change",
    "merge",
    "merge_bipartite",
    "normalised_scores",
    "paper_sensitivity",
    "project",
    "select",
    "select_coverage",
    "select_dpp",
    "select_suppress",
    "sensitivity",
    "unit_keys",
]
