"""The operators as typed, documented Python functions: ``zoprune_kernels.select`` and so on.

Each calls the operator of the same name in ``torch.ops.zoprune``, whichever backend serves it, and
has the signature and documentation of its PyTorch fallback.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from . import fallback
from . import ops as ops

P = ParamSpec("P")
R = TypeVar("R")


def _operator(function: Callable[P, R]) -> Callable[P, R]:
    operator = getattr(torch.ops.zoprune, function.__name__)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return operator(*args, **kwargs)

    return call


directions = _operator(fallback.directions)
sensitivity = _operator(fallback.sensitivity)
fold_metric = _operator(fallback.fold_metric)
expected_sensitivity = _operator(fallback.expected_sensitivity)
select = _operator(fallback.select)
select_varlen = _operator(fallback.select_varlen)
select_dpp = _operator(fallback.select_dpp)
select_dpp_varlen = _operator(fallback.select_dpp_varlen)
select_suppress = _operator(fallback.select_suppress)
select_suppress_varlen = _operator(fallback.select_suppress_varlen)
select_coverage = _operator(fallback.select_coverage)
select_coverage_varlen = _operator(fallback.select_coverage_varlen)
score_and_select = _operator(fallback.score_and_select)
score_and_select_varlen = _operator(fallback.score_and_select_varlen)
project_and_select = _operator(fallback.project_and_select)
project_and_select_varlen = _operator(fallback.project_and_select_varlen)
merge = _operator(fallback.merge)
merge_varlen = _operator(fallback.merge_varlen)
merge_bipartite = _operator(fallback.merge_bipartite)
budget = _operator(fallback.budget)
compact = _operator(fallback.compact)
frame_change = _operator(fallback.frame_change)
