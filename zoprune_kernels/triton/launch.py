"""What every launcher needs: tile shapes, tensor descriptors, padded workspace, and the launch."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from triton import knobs
from triton.runtime import driver
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from .. import environment
from .numerics import INTERPRETED

_ROW_ALIGNMENT = 64  # elements: every BLOCK_K divides it, and it is a multiple of TMA's 16 bytes


class Tile(NamedTuple):
    """One matrix-product tile: m rows by n columns, k deep; warps per program; pipeline stages.

    ``tma``: the tensor memory accelerator of sm_90 and later copies the tiles.
    """

    m: int
    n: int
    k: int
    warps: int
    stages: int
    tma: bool = True


class Descriptor(TensorDescriptor):
    """Of a matrix that ``aligned`` or ``padded`` has seen to: nothing is checked here."""

    def __init__(self, matrix: Tensor, rows: int, columns: int) -> None:
        self.base, self.shape, self.strides = matrix, matrix.shape, matrix.stride()
        self.block_shape = [rows, columns]

    def of(self, base: Any) -> Descriptor:
        """The same of other memory."""
        other = copy.copy(self)
        other.base = base
        return other


Window: TypeAlias = TensorDescriptor | tuple[Tensor, int, int, int]


def window(matrix: Tensor, rows: int, columns: int, tma: bool) -> Window:
    """What ``numerics.tile`` reads [rows, columns] of: a TMA descriptor, or pointer and extents."""
    if tma:
        return Descriptor(matrix, rows, columns)
    return matrix, *matrix.shape, matrix.stride(0)


# Compiled kernels by all that they depend on. Triton looks that up in its own way at each launch,
# which takes longer than the launch; more kernels than these start over.
_compiled: dict[tuple, Any] = {}
_MOST_COMPILED = 1024


def launch(
    kernel: JITFunction, programs: int, *arguments: Any, follows: bool = False, **options: int
) -> None:
    """``kernel[(programs,)](*arguments, chained, **options)``, quicker where it has been called
    alike. ``follows``: one of our kernels, or none that is started ahead of time, comes before it.
    """
    chained = environment.dependent_launches and can_be_chained()
    arguments = (*arguments, chained)
    if chained and follows:
        options["launch_pdl"] = True
    if INTERPRETED:
        kernel[(programs,)](*arguments, **options)
        return
    variables = _variables.get(id(kernel)) or _count_variables(kernel)
    active = driver.active
    device = active.get_current_device()
    key = (
        id(kernel),  # its own hash is slower, and kernels stay
        device,
        *options.values(),
        *arguments[variables:],
        *_facts(arguments[:variables]),
    )
    compiled = _compiled.get(key)
    if compiled is not None:
        if hooked():
            compiled[programs, 1, 1](*arguments)
        else:  # what that does where nobody looks on
            stream, metadata = active.get_current_stream(device), compiled.packed_metadata
            told = (stream, compiled.function, metadata, None, None, None)
            compiled.run(programs, 1, 1, *told, *arguments)
        _record(compiled, programs, arguments)
        return
    checked = [
        TensorDescriptor(a.base, a.shape, a.strides, a.block_shape)
        if isinstance(a, TensorDescriptor)
        else a
        for a in arguments
    ]
    # Fused multiply-adds are said to be wanted: the default changes with Triton 3.10.
    compiled = kernel[(programs,)](*checked, enable_fp_fusion=True, **options)
    if len(_compiled) >= _MOST_COMPILED:
        _compiled.clear()
    _compiled[key] = compiled
    _record(compiled, programs, arguments)


def hooked() -> bool:
    """Whether somebody looks on at Triton's launches."""
    before, after = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    return bool(getattr(before, "calls", before) or getattr(after, "calls", after))


_here = threading.local()


@contextlib.contextmanager
def recorded() -> Iterator[list[tuple[Any, int, tuple]]]:
    """What this thread launches within: kernel, programs and arguments of each."""
    launched: list[tuple[Any, int, tuple]] = []
    _here.launched = launched
    try:
        yield launched
    finally:
        del _here.launched


def recording() -> bool:
    return hasattr(_here, "launched")


def _record(*launched: Any) -> None:
    if recording():
        _here.launched.append(launched)


def can_be_chained() -> bool:
    """Whether kernels may be started before the one before them is done: from sm_90 on."""
    return not INTERPRETED and torch.cuda.get_device_capability() >= (9, 0)


# How many parameters a kernel has before its constants, which come last.
_variables: dict[int, int] = {}


def _count_variables(kernel: JITFunction) -> int:
    constant = [parameter.is_constexpr for parameter in kernel.params]
    assert constant == sorted(constant)
    return _variables.setdefault(id(kernel), constant.count(False))


def _facts(arguments: tuple) -> list[Any]:
    """What a kernel's code depends on: the types, and what Triton makes of integers and pointers
    (``JITFunction``: an integer of 1 is a constant, multiples of 16 are known as such)."""
    return [
        (a.base.dtype, *a.block_shape)
        if type(a) is Descriptor
        else (a == 1, a % 16 == 0, -(2**31) <= a < 2**31)
        if type(a) is int
        else (a.dtype, a.data_ptr() % 16 == 0)
        if isinstance(a, Tensor)
        else tuple(_facts(a))
        if type(a) is tuple
        else type(a)
        for a in arguments
    ]


# Triton's own, which are there for kernels as well, take longer than a small launch.


def divide_up(a: int, b: int) -> int:
    return -(-a // b)


def power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def aligned(matrix: Tensor) -> Tensor:
    """The matrix, or a copy whose rows start at multiples of 16 bytes, as descriptors require."""
    apart, step = matrix.stride()
    if (
        step == 1
        and apart >= matrix.shape[1]
        and apart * matrix.element_size() % 16 == 0
        and matrix.data_ptr() % 16 == 0
    ):
        return matrix
    return padded(matrix, matrix.shape[0], matrix.shape[1], matrix.dtype).copy_(matrix)


def padded(like: Tensor, rows: int, columns: int, dtype: torch.dtype | None) -> Tensor:
    """Uninitialised [rows, columns] on ``like``'s device, each row padded to the alignment."""
    stride = -(-columns // _ROW_ALIGNMENT) * _ROW_ALIGNMENT
    out = like.new_empty((rows, stride), dtype=dtype)
    return out if stride == columns else out[:, :columns]
