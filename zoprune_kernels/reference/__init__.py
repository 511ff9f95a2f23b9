"""The mathematics in readable PyTorch: the truth that every other backend is compared with.

All functions run in float64 when their inputs are float64, else in float32. They are also the
registered fallback, so that each operator exists where no native kernel does.
"""

from .budget import budget
from .compact import compact
from .expected_sensitivity import expected_sensitivity
from .fold_metric import fold_metric
from .frame_change import frame_change
from .layers import ACTIVATION, DERIVATIVE, project
from .merge import merge
from .merge_bipartite import merge_bipartite
from .normalise import finite_scores, normalised_scores, unit_keys
from .select import select
from .select_coverage import select_coverage
from .select_dpp import select_dpp
from .select_suppress import select_suppress
from .sensitivity import paper_sensitivity, sensitivity

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
