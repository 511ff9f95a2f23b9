"""Puts the operators that Triton runs in place for CUDA tensors.

Triton is imported at an operator's first call, never before: importing it takes longer than torch's
own import of a small library, and many installs never see a GPU.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any

import torch
from torch.torch_version import TorchVersion

from ..checks import warn_once
from ..operators import OPERATORS as DECLARED

OPERATORS = (
    "directions",
    "sensitivity",
    "expected_sensitivity",
    "score_and_select",
    "score_and_select_varlen",
    "project_and_select",
    "project_and_select_varlen",
)
_LEAST_CAPABILITY = (8, 0)
_LEAST_TRITON = "3.6"
_MOST_RIGHT = 1024  # calls known to be right, of one operator; more start over
_HERE = contextlib.nullcontext()


def why_not(op: str) -> str | None:
    """Why no Triton kernel can run an operator in this process; None where one can."""
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "Triton is not installed"
    if TorchVersion(version) < _LEAST_TRITON:  # as packaging compares, which torch carries
        return f"Triton {version} is installed, {_LEAST_TRITON} or later is needed"
    return None if op in OPERATORS else "no Triton kernel"


@functools.cache
def why_not_on(device: torch.device | int) -> str | None:
    """Why no Triton kernel can run on a GPU; None where they can."""
    capability = torch.cuda.get_device_capability(device)
    if capability >= _LEAST_CAPABILITY:
        return None
    found = ".".join(map(str, capability))
    return f"{torch.cuda.get_device_name(device)} has compute capability {found}, 8.0 is needed"


def register(library: torch.library.Library, op: str, forced: bool) -> None:
    """Make Triton run ``op`` on CUDA tensors; where the GPU is too old, fall back with one warning,
    or raise if the backend is forced."""
    library.impl(op, _on_device(op, forced), "CUDA")


@functools.cache
def kernel(op: str) -> Callable[..., Any]:
    """An operator's checks and kernels, as a function of the operator's arguments."""
    operator, launch = DECLARED[op], getattr(importlib.import_module(".operators", __package__), op)
    right: set[tuple[Any, ...]] = set()

    def run(*arguments: Any, **options: Any) -> Any:
        call = operator.call(arguments, options)
        # All that checks read: what a tensor holds they read on the CPU only.
        facts = tuple(
            [
                (a.shape, a.dtype, a.device, a.layout) if isinstance(a, torch.Tensor) else a
                for a in call.arguments.values()
            ]
        )
        if facts not in right:
            operator.checks(call)
            if len(right) >= _MOST_RIGHT:
                right.clear()
            right.add(facts)
        return launch(call)

    return run


def _on_device(op: str, forced: bool) -> Callable[..., Any]:
    fallback = DECLARED[op].fallback

    def call(*arguments: Any, **options: Any) -> Any:
        device = options["device"] if op == "directions" else arguments[0].device
        current = torch.cuda.current_device()
        elsewhere = device.index not in (None, current)
        with torch.cuda.device(device) if elsewhere else _HERE:
            reason = why_not_on(device.index if elsewhere else current)
            if reason is None:
                return _launch(op, arguments, options)
        if forced:
            raise RuntimeError(f"zoprune::{op}: ZOPRUNE_BACKEND=triton cannot run: {reason}")
        warn_once(f"zoprune: running the PyTorch reference, not Triton: {reason}")
        return fallback(*arguments, **options)

    return call


def _launch(op: str, arguments: tuple, options: dict[str, Any]) -> Any:
    try:
        return kernel(op)(*arguments, **options)
    except Exception as error:
        from triton.errors import TritonError

        if not isinstance(error, (RuntimeError, TritonError)) or str(error).startswith("zoprune::"):
            raise
        given = (list(a.shape) if isinstance(a, torch.Tensor) else a for a in arguments)
        shapes = ", ".join(map(str, given))
        raise RuntimeError(f"zoprune::{op}: the launch failed for ({shapes}): {error}") from error
