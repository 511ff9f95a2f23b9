"""Calls that a native CUDA kernel gets and cannot serve: the PyTorch reference takes them over."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from typing import Any

# Operators with a native CUDA kernel; zoprune::_reference_<name> takes a reason before the
# operator's own arguments.
OPERATORS = (
    "select",
    "select_varlen",
    "select_dpp",
    "select_dpp_varlen",
    "select_suppress",
    "select_suppress_varlen",
    "select_coverage",
    "select_coverage_varlen",
)


def reference(op: str, fallback: Callable[..., Any]) -> Callable[..., Any]:
    """``fallback``, which first says why it runs: in one warning for each reason, or in an error
    where the CUDA kernel is forced."""

    def run(reason: str, *arguments: Any, **options: Any) -> Any:
        if os.environ.get("ZOPRUNE_BACKEND") == "cuda":
            raise RuntimeError(f"zoprune::{op}: ZOPRUNE_BACKEND=cuda cannot run: {reason}")
        _warn_once(f"zoprune::{op}: running the PyTorch reference, not CUDA: {reason}")
        return fallback(*arguments, **options)

    return run


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=4)
