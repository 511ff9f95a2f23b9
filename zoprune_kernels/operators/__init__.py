"""Every operator of the ``zoprune`` namespace, one file each: signature, docstring, checks, output
shapes and PyTorch fallback. ``OPERATORS`` has what they declare.

The operators exist on every install. Native kernels register themselves for their device when the
library loads and take precedence over the fallback.
"""

from ._register import OPERATORS as OPERATORS
from .budget import budget
from .compact import compact
from .directions import directions
from .expected_sensitivity import expected_sensitivity
from .fold_metric import fold_metric
from .frame_change import frame_change
from .merge import merge
from .merge_bipartite import merge_bipartite
from .project_and_select import project_and_select
from .score_and_select import score_and_select
from .select import select
from .select_coverage import select_coverage
from .select_dpp import select_dpp
from .select_suppress import select_suppress
from .sensitivity import sensitivity
from .varlen import (
    merge_varlen,
    project_and_select_varlen,
    score_and_select_varlen,
    select_coverage_varlen,
    select_dpp_varlen,
    select_suppress_varlen,
    select_varlen,
)

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
