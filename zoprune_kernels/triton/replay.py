"""Calls made alike are made again without all that led to their launches.

A function that allocates and launches, and does nothing else, does the same whenever its tensors
have the same shapes, strides, dtypes, device and alignment: only addresses change. What it launched
is kept by those, and what Triton's launcher makes of the arguments, tensor maps among it, by the
addresses: a function of nothing else, so that it cannot be out of date.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime import driver

from .. import environment
from . import launch
from .numerics import INTERPRETED

Result = TypeVar("Result")

_MOST_PLANS, _MOST_ADDRESSES = 64, 32  # more start over
_ALIGNMENT = 512  # bytes, as torch's allocator has it: at least what Triton asks for
_aten = torch.ops.aten
_ALLOCATIONS = {_aten.new_empty.default, _aten.empty.memory_format}
_VIEWS = {_aten.slice.Tensor, _aten.unbind.int, _aten.view.default, _aten.detach.default}


class _Place(NamedTuple):
    """An address: of an input, of an output, or of the workspace, which comes last; and beyond."""

    of: int
    offset: int


class _At(NamedTuple):
    """All that a tensor map is told of its matrix' memory."""

    address: int

    def data_ptr(self) -> int:
        return self.address


class _Recording(TorchDispatchMode):
    """What a call allocates, and whether it asks torch for anything but that and views."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Tensor] = []
        self.pure = True

    def __torch_dispatch__(
        self, operator: Any, kinds: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        result = operator(*arguments, **(options or {}))
        if operator in _ALLOCATIONS:
            self.made.append(result)
        elif operator not in _VIEWS:
            self.pure = False
        return result


class _Plan:
    """The launches of a call, each with places where tensors were, and what they write to."""

    def __init__(
        self, result: Any, inputs: Sequence[Tensor], made: list[Tensor], launched: list[tuple]
    ) -> None:
        self.kind = type(result)
        results = result if isinstance(result, tuple) else (result,)
        self.returned = [None if t is None else (t.shape, t.dtype) for t in results]
        outputs = [t for t in results if t is not None]
        if any(all(t is not other for other in made) for t in outputs):
            raise LookupError("a result that was not allocated")
        starts = [
            (t.data_ptr(), _nbytes(t), _Place(len(inputs) + i, 0)) for i, t in enumerate(outputs)
        ]
        self.workspace = 0  # bytes
        for tensor in made:
            if all(tensor is not output for output in outputs):
                place = _Place(len(inputs) + len(outputs), self.workspace)
                starts.append((tensor.data_ptr(), _nbytes(tensor), place))
                self.workspace += math.ceil(_nbytes(tensor) / _ALIGNMENT) * _ALIGNMENT
        known = {t.data_ptr(): _Place(i, 0) for i, t in enumerate(inputs)}
        if len(known) < len(inputs):
            raise LookupError("inputs at one address, which may have two at the next call")

        def place_of(tensor: Tensor) -> _Place:
            address = tensor.data_ptr()
            for start, size, (of, offset) in starts:
                if start <= address < start + size:
                    return _Place(of, offset + address - start)
            return known[address]

        self.launches = [
            (kernel, programs, _each_tensor(arguments, place_of))
            for kernel, programs, arguments in launched
        ]
        # By addresses of inputs, outputs and workspace; empty where they have come once.
        self.ready: dict[tuple[int, ...], list[tuple]] = {}

    def run(self, inputs: Sequence[Tensor]) -> Any:
        like = inputs[0]
        results = [
            None if of is None else like.new_empty(of[0], dtype=of[1]) for of in self.returned
        ]
        held = [t for t in results if t is not None]
        if self.workspace:
            held.append(like.new_empty(self.workspace, dtype=torch.uint8))
        addresses = (*[t.data_ptr() for t in inputs], *[t.data_ptr() for t in held])
        active = driver.active
        stream = active.get_current_stream(active.get_current_device())
        ready = self.ready.get(addresses)
        if ready is None:  # preparing takes longer than a launch
            for kernel, programs, arguments in self.launches:
                kernel.run(programs, *_told(kernel, stream), *_placed(arguments, addresses))
            if len(self.ready) >= _MOST_ADDRESSES:
                self.ready.clear()
            self.ready[addresses] = []
        else:
            for start, programs, rest in ready or self.prepare(addresses):
                start(programs, 1, 1, stream, *rest)
        return self.kind(*results) if self.kind is not Tensor else results[0]

    def prepare(self, addresses: tuple[int, ...]) -> list[tuple]:
        """The launches with these addresses of inputs, outputs and workspace.

        Raises:
            LookupError: nothing has been launched; it has to go the long way.
        """
        try:
            ready = [_ready(*each, addresses) for each in self.launches]
        except Exception as error:  # one of Triton's, too: it will come again, or not
            raise LookupError("a launch cannot be prepared") from error
        self.ready[addresses] = ready
        return ready


def _nbytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _each_tensor(argument: Any, use: Callable[[Any], Any]) -> Any:
    """The arguments of a launch with each tensor, or place, replaced."""
    if isinstance(argument, Tensor | _Place):
        return use(argument)
    if isinstance(argument, launch.Descriptor):
        return argument.of(use(argument.base))
    if type(argument) is tuple:
        return tuple(_each_tensor(part, use) for part in argument)
    return argument


def replayed(function: Callable[..., Result]) -> Callable[..., Result]:
    """``function`` of tensors, tuples of tensors, None and options that can be hashed."""
    plans: dict[tuple, _Plan | bool] = {}  # False: called once; True: it does more than launch

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Result:
        if INTERPRETED or not environment.replays or launch.hooked() or launch.recording():
            return function(*arguments, **options)
        flat: list[Any] = []
        for argument in arguments:
            flat += argument if isinstance(argument, tuple) else (argument,)
        inputs = [a for a in flat if isinstance(a, Tensor)]
        key = (
            environment.dependent_launches,
            torch.get_float32_matmul_precision(),
            *[
                (a.dtype, a.shape, a.stride(), a.device, a.data_ptr() % 16)
                if isinstance(a, Tensor)
                else a
                for a in flat
            ],
            *options.items(),
        )
        plan = plans.get(key)
        if isinstance(plan, _Plan):
            try:
                return plan.run(inputs)
            except LookupError:
                plan = plans[key] = True
        if plan is None:
            if len(plans) >= _MOST_PLANS:
                plans.clear()
            plans[key] = False
        if plan is not False:
            return function(*arguments, **options)
        with launch.recorded() as launched, _Recording() as seen:
            result = function(*arguments, **options)
        plans[key] = True
        if seen.pure:
            with contextlib.suppress(LookupError):
                plans[key] = _Plan(result, inputs, seen.made, launched)
        return result

    _forgetting.append(plans.clear)
    return call


_forgetting: list[Callable[[], None]] = []


def forget() -> None:
    """Everything that calls have been found to do: for tests, which change what they depend on."""
    for each in _forgetting:
        each()


# -- Triton's launcher -----------------------------------------------------------------------------


def _told(kernel: Any, stream: int) -> tuple:
    """What a launcher is told between the programs and the arguments, where nobody looks on."""
    return 1, 1, stream, kernel.function, kernel.packed_metadata, None, None, None


def _placed(arguments: tuple, addresses: tuple[int, ...]) -> list[Any]:
    def at(place: Any) -> int:
        return addresses[place.of] + place.offset

    return [
        a.of(_At(at(a.base))) if type(a) is launch.Descriptor else _each_tensor(a, at)
        for a in arguments
    ]


_STREAM = 0x5EED  # stands for the stream, which is known at the launch only


def _ready(kernel: Any, programs: int, arguments: tuple, addresses: tuple[int, ...]) -> tuple:
    """The function in C that launches, the programs, and all that it is given behind the stream."""

    start, likeness, given = _opened(kernel.run)
    likeness(programs, *_told(kernel, _STREAM), *_placed(arguments, addresses))
    (found,) = given
    if found[:5] != (programs, 1, 1, _STREAM, kernel.function):
        raise LookupError("a launcher that gives its arguments in another order")
    return start, programs, found[4:]


def _opened(launcher: Any) -> tuple[Any, Any, list[tuple]]:
    """The function in C that a launcher ends in, and a likeness of the launcher that ends in a list
    of what it would have given to that one.

    Raises:
        LookupError: it is built in a way that is not known, or it needs memory for each launch.
    """
    if any(
        getattr(launcher, name, 0)
        for name in ("global_scratch_size", "profile_scratch_size", "gsan_enabled")
    ):
        raise LookupError("a launch has memory of its own")
    given: list[tuple] = []

    def take(*arguments: Any) -> None:
        given.append(arguments)

    start, ends = getattr(launcher, "launch", None), take
    if isinstance(start, types.FunctionType) and "launcher" in start.__code__.co_freevars:
        cells = dict(zip(start.__code__.co_freevars, start.__closure__ or (), strict=True))
        wrapped = cells | {"launcher": types.CellType(take)}
        ends = types.FunctionType(
            start.__code__, start.__globals__, closure=tuple(wrapped.values())
        )
        start = cells["launcher"].cell_contents
    if not isinstance(start, types.BuiltinFunctionType):
        raise LookupError("Triton's launcher ends in something else than a function in C")
    likeness = copy.copy(launcher)
    likeness.launch = ends
    return start, likeness, given
