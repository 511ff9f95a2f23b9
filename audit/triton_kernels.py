"""Every Triton kernel compiled ahead of time, with the arguments that its launcher really passes.

The launchers run as in production, on CPU tensors whose contents are never read: in place of a
launch the kernel is compiled for the target, and its machine code is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from zoprune_kernels import environment
from zoprune_kernels.triton import directions, launch, linear, norms, quadratic, sensitivity, tiles
from zoprune_kernels.triton.launch import padded

from . import sass
from .report import Row

CAPABILITIES = (80, 90, 100)
# LLaVA-1.5's projector: tokens, input, hidden and output widths; directions.
_TOKENS, _DEPTH, _HIDDEN, _OUTPUTS, _NUM = 576, 1024, 4096, 4096, 64


class Case(NamedTuple):
    """A launch to compile; ``products``: whether it multiplies matrices."""

    name: str
    launch: Callable[[], object]
    products: bool = True


def rows(
    capability: int, dtype: torch.dtype, precision: str = "highest", chained: bool = False
) -> list[Row]:
    """Every kernel for one architecture and dtype; ``precision`` is float32's (torch's setting).

    ``chained``: as they are where each may be started before the one before it is done.
    """
    torch.set_float32_matmul_precision(precision)
    full_precision = dtype == torch.float32 and precision == "highest"
    name = str(dtype).removeprefix("torch.") if dtype != torch.float32 else "float32"
    name = "tf32" if dtype == torch.float32 and not full_precision else name
    found = []
    for case in cases(capability, dtype):
        compiled = []

        def compile_kernel(kernel: JITFunction, arguments: tuple, options: dict) -> None:
            compiled.append(kernel.run(*arguments, grid=None, warmup=True, **options))  # noqa: B023

        with launching(capability, compile_kernel, chained):
            case.launch()
        for kernel in compiled:
            code = sass.read(kernel.asm["cubin"])
            products = case.products and "scale" not in kernel.name and not full_precision
            found.append(
                Row(
                    f"{case.name}, chained" if chained else case.name,
                    name,
                    capability,
                    code.registers,
                    kernel.metadata.shared,
                    code.spills,
                    code.tensor_core,
                    code.tma,
                    products,
                    code.waits,
                    chained,
                )
            )
    return found


def cases(capability: int, dtype: torch.dtype) -> list[Case]:
    """Every kernel in each of its forms, for LLaVA-1.5's projector."""
    table = tiles.for_capability(capability, dtype)

    def empty(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype)

    x, w1, b1 = empty(_TOKENS, _DEPTH), empty(_HIDDEN, _DEPTH), empty(_HIDDEN)
    w2, b2, metric = empty(_OUTPUTS, _HIDDEN), empty(_OUTPUTS), empty(_HIDDEN, _HIDDEN)
    hidden = padded(x, _TOKENS, _HIDDEN, dtype)
    a = padded(x, _TOKENS, _HIDDEN, torch.float32)
    drawn = empty(_NUM, _DEPTH, dtype=torch.float32)
    v = sensitivity.Projected(
        empty(_NUM, _HIDDEN, dtype=torch.float32),
        *empty(2, _NUM, dtype=torch.float32),
        empty(_NUM, dtype=torch.int32),
    )
    partials = empty(_NUM, _TOKENS, 16, dtype=torch.float32)

    def first_layer(activation: str, **outputs: Any) -> Callable[[], object]:
        return lambda: linear.linear(x, w1, b1, activation, table.linear, **outputs)

    def score(activation: str, form: int) -> Callable[[], object]:
        slope = hidden.to(sensitivity.slope_dtype(dtype))
        first = linear.FirstLayer(None, slope, hidden, a)
        return lambda: sensitivity.partial_norms(first, v, w2, activation, table, 132, (form,))

    def second_layer(project: bool, quadratic_form: bool) -> Callable[[], object]:
        return lambda: quadratic.project_and_quadratic(
            hidden if project else None,
            w2,
            b2,
            hidden if quadratic_form else None,
            metric,
            table.quadratic,
        )

    def draw(distribution: str) -> Callable[[], object]:
        device = torch.device("cpu")
        return lambda: directions.directions(_NUM, _DEPTH, distribution, 0, torch.float32, device)

    finite = {"slope": sensitivity.slope_dtype(dtype), "cubic": True, "preactivation": True}
    return [
        Case("directions, sphere", draw("sphere"), False),
        Case("directions, rademacher", draw("rademacher"), False),
        Case("linear, closed form", first_layer("gelu", projected=True, slope=dtype)),
        Case("linear, finite step", first_layer("gelu_tanh", **finite)),
        Case(
            "projected directions",
            lambda: sensitivity.project_directions(drawn, w1, 0.01, "gelu", table.directions),
        ),
        Case("sensitivity, derivative", score("gelu", sensitivity.DERIVATIVE)),
        Case("sensitivity, cubic", score("gelu", sensitivity.CUBIC)),
        Case("sensitivity, difference", score("gelu", sensitivity.DIFFERENCE)),
        Case("sensitivity, difference of relu", score("relu", sensitivity.DIFFERENCE)),
        Case("projector outputs", second_layer(True, False)),
        Case("quadratic form", second_layer(False, True)),
        Case("projector outputs and quadratic form", second_layer(True, True)),
        Case("mean norms", lambda: norms.mean_norms(partials, v.scale), False),
    ]


class _Driver:
    """A driver without a GPU: it answers all that a launch asks before it compiles."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # compiled kernels are cached by device

    def get_current_stream(self, device: int) -> int:
        return 0


@contextlib.contextmanager
def launching(
    capability: int,
    launched: Callable[[JITFunction, tuple, dict[str, Any]], None],
    chained: bool = False,
) -> Iterator[None]:
    """Within it ``launched(kernel, arguments, options)`` is called in place of every launch."""
    launch_kernel, can_be_chained = JITFunction.__getitem__, launch.can_be_chained
    environment.dependent_launches, launch.can_be_chained = chained, lambda: True
    driver.set_active(_Driver(capability))
    JITFunction.__getitem__ = lambda kernel, grid: (
        lambda *arguments, **options: launched(kernel, arguments, options)
    )
    try:
        yield
    finally:
        JITFunction.__getitem__ = launch_kernel
        environment.dependent_launches, launch.can_be_chained = False, can_be_chained
