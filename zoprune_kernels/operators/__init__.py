"""Every operator of the ``zoprune`` namespace, one file each: signature, docstring, checks, output
shapes and PyTorch fallback. ``OPERATORS`` has what they declare.

The operators exist on every install. Native kernels register themselves for their device when the
library loads and take precedence over the fallback. Type checkers read ``__init__.pyi``, which
``python docs/generate.py`` writes: the packed twins' signatures stand in no source file.
"""
# ruff: noqa: F401 (the names are in __all__)

from ._register import OPERATORS
from .budget import budget
from .compact import compact
from .directions import directions
from .expected_sensitivity import expected_sensitivity
from .fold_metric import fold_metric
from .frame_change import frame_change
from .merge import merge, merge_varlen
from .merge_bipartite import merge_bipartite
from .project_and_select import project_and_select, project_and_select_varlen
from .score_and_select import score_and_select, score_and_select_varlen
from .select import select, select_varlen
from .select_coverage import select_coverage, select_coverage_varlen
from .select_dpp import select_dpp, select_dpp_varlen
from .select_suppress import select_suppress, select_suppress_varlen
from .sensitivity import sensitivity

__all__ = sorted(OPERATORS)
