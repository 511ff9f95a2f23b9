"""Every Triton kernel compiled ahead of time, with the arguments that its launcher really passes.

The launchers run as in production, on CPU tensors that hold nothing; in place of a launch the kernel
is compiled for the target, and what the compiler made of it is read from its machine code.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from zoprune_kernels.triton import directions, linear, norms, quadratic, sensitivity, tiles
from zoprune_kernels.triton.launch import padded

from .report import Row

CAPABILITIES = (80, 90, 100)
# LLaVA-1.5's projector: tokens, input, hidden and output widths, directions.
_T, _D, _HIDDEN, _OUT, _M = 576, 1024, 4096, 4096, 64


class _Driver:
    """A driver without a GPU: all that a launch asks before it compiles."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # the kernels' caches are kept by device

    def get_current_stream(self, device: int) -> int:
        return 0


@contextlib.contextmanager
def compile_only(capability: int) -> Iterator[list[Any]]:
    """Within it a launch compiles for the capability and appends the compiled kernel to the list."""
    compiled: list[Any] = []

    def launcher(kernel: JITFunction, grid: Any) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            compiled.append(kernel.run(*arguments, grid=grid, warmup=True, **options))

        return launch

    original = JITFunction.__getitem__
    driver.set_active(_Driver(capability))
    JITFunction.__getitem__ = launcher
    try:
        yield compiled
    finally:
        JITFunction.__getitem__ = original


class Case(NamedTuple):
    """A launch to compile. ``products`` says that it multiplies matrices."""

    name: str
    launch: Callable[[], object]
    products: bool


def cases(capability: int, dtype: torch.dtype) -> list[Case]:
    """Every kernel in each of its forms, for LLaVA-1.5's projector."""
    table = tiles.for_capability(capability, dtype)
    x, w1 = padded(torch.empty(0), _T, _D, dtype), torch.empty(_HIDDEN, _D, dtype=dtype)
    w2, b1, b2 = (torch.empty(*shape, dtype=dtype) for shape in ((_OUT, _HIDDEN), (_HIDDEN,), (_OUT,)))
    hidden = torch.empty(_T, _HIDDEN, dtype=dtype)
    preactivation = torch.empty(_T, _HIDDEN)
    metric = torch.empty(_HIDDEN, _HIDDEN, dtype=dtype)
    drawn = torch.empty(_M, _D)
    projected = sensitivity.Projected(
        torch.empty(_M, _HIDDEN), *torch.empty(2, _M), *torch.empty(2, _M, dtype=torch.int32)
    )

    def first_layer(activation: str, **outputs: Any) -> Callable[[], object]:
        return lambda: linear.linear(x, w1, b1, activation, table.linear, **outputs)

    def score(activation: str, form: int) -> Callable[[], object]:
        return lambda: sensitivity.sensitivity_partials(
            hidden, hidden, preactivation, projected, w2, activation, table, 132,
            (form,),
        )

    smooth = {"slope": dtype, "cubic": True, "preactivation": True}
    both = quadratic.project_and_quadratic
    return [
        Case("linear, closed form", first_layer("gelu", projected=True, slope=dtype), True),
        Case("linear, finite step", first_layer("gelu_tanh", **smooth), True),
        Case(
            "project_directions",
            lambda: sensitivity.project_directions(drawn, w1, 0.01, "gelu", table.directions),
            True,
        ),
        Case("sensitivity, derivative", score("gelu", sensitivity.DERIVATIVE), True),
        Case("sensitivity, cubic", score("gelu", sensitivity.CUBIC), True),
        Case("sensitivity, difference", score("gelu", sensitivity.DIFFERENCE), True),
        Case("sensitivity, relu", score("relu", sensitivity.DIFFERENCE), True),
        Case("project", lambda: both(hidden, w2, b2, None, None, table.quadratic), True),
        Case("quadratic", lambda: both(None, None, None, hidden, metric, table.quadratic), True),
        Case("project and quadratic", lambda: both(hidden, w2, b2, hidden, metric, table.quadratic), True),
    ]
