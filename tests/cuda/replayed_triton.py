"""Calls made alike (zoprune_kernels/triton/replay.py) on a driver that runs nothing: the kernels
are given what they were given the long way, up to where their memory lies.

``test_launches`` runs this file, as ``launched_triton``.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.cuda.launched_triton import fake, launches, use_capability  # noqa: F401
from zoprune_kernels import environment
from zoprune_kernels.testing import projector
from zoprune_kernels.triton import launch, replay, scoring, tiles
from zoprune_kernels.triton.launch import Tile

_SIZES = {"i32": 4, "i64": 8, "fp32": 4, "fp64": 8}
_MAP = 128  # bytes of a tensor map, which begins with its address


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch, fake):  # noqa: F811
    use_capability(90)
    monkeypatch.setattr(tiles, "tiles", lambda device, dtype: table(True))
    replay.forget()
    yield
    replay.forget()


def table(tma: bool) -> tiles.Tiles:
    return tiles.Tiles(*[Tile(64, 64, 32, warps=4, stages=2, tma=tma)] * len(tiles.Tiles._fields))


class Memory(NamedTuple):
    """Where a tensor lies."""

    start: int
    size: int

    @classmethod
    def of(cls, tensor: Tensor) -> Memory:
        storage = tensor.untyped_storage()
        return cls(storage.data_ptr(), storage.nbytes())


class Allocations(TorchDispatchMode):
    """What a call allocates; ``again`` is given out once more, in turn."""

    def __init__(self, again: list[Tensor] | None = None) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []
        self.again = iter(again or ())

    def __torch_dispatch__(self, operator, kinds, arguments=(), options=None):
        result = operator(*arguments, **(options or {}))
        if operator is torch.ops.aten.new_empty.default:
            result = next(self.again, result)
            self.tensors.append(result)
        return result


class Launch(NamedTuple):
    """A kernel, its programs, the addresses that it was given, and all the rest."""

    kernel: int
    programs: int
    addresses: list[int]
    rest: bytes


def parameter_types(kernel: Any) -> list[str]:
    """What the kernel is given: tensor maps come with two sizes and two strides."""
    found: list[str] = []

    def add(types: Any) -> None:
        for kind in types:
            if isinstance(kind, tuple):
                add(kind)
            elif kind.startswith("tensordesc"):
                found.extend(("map", "i32", "i32", "i64", "i64"))
            elif kind != "constexpr":
                found.append("address" if kind[0] == "*" else kind)

    add(kernel.src.signature.values())
    return [*found, "address", "address"]  # Triton's own memory, of which there is none


def told(fake: ctypes.CDLL, call: Callable[[], Any]) -> tuple[Any, list[Launch]]:  # noqa: F811
    """A call's result, and its launches. Its kernels have been compiled."""
    kinds = {kernel.function: parameter_types(kernel) for kernel in launch._compiled.values()}
    for function, types in kinds.items():
        sizes = [{"map": _MAP, "address": 8}.get(kind) or _SIZES[kind] for kind in types]
        fake.fake_sizes(ctypes.c_void_p(function), (ctypes.c_int * len(sizes))(*sizes), len(sizes))
    fake.fake_told(ctypes.create_string_buffer(fake.fake_told(None) + 1))
    result = call()
    content = ctypes.create_string_buffer(fake.fake_told(None) + 1)
    size = fake.fake_told(content)
    text = content.raw[:size]
    found = []
    while text:
        kernel, programs = struct.unpack_from("QQ", text)
        text, addresses, rest = text[16:], [], b""
        for kind in kinds[kernel]:
            size = {"map": _MAP, "address": 8}.get(kind) or _SIZES[kind]
            if kind in ("map", "address"):
                addresses.append(struct.unpack_from("Q", text)[0])
                rest += text[8:size]
            else:
                rest += text[:size]
            text = text[size:]
        found.append(Launch(kernel, programs, addresses, rest))
    return result, found


def assert_replays(
    fake: ctypes.CDLL,  # noqa: F811
    function: Callable,
    inputs: list[Tensor],
    *arguments: Any,
    replays: bool = True,
) -> None:
    """The long way and later calls: the same kernels, programs and numbers, and addresses in the
    same inputs, or at the same places of memory that corresponds, each with its own."""
    for _ in range(2):
        function(*arguments)
    with Allocations() as long_way:
        want, direct = told(fake, lambda: function.__wrapped__(*arguments))
    with Allocations() as first:
        compare(inputs, long_way, first, want, direct, *told(fake, lambda: function(*arguments)))
    if replays:
        assert len(first.tensors) < len(long_way.tensors) or len(long_way.tensors) < 3
    for _ in range(2 if replays else 0):  # at the same addresses: prepared, then as it was
        with Allocations(first.tensors) as again:
            found = told(fake, lambda: function(*arguments))
        compare(inputs, long_way, again, want, direct, *found)


def compare(
    inputs: list[Tensor],
    long_way: Allocations,
    short_way: Allocations,
    want: Any,
    direct: list[Launch],
    got: Any,
    again: list[Launch],
) -> None:
    assert direct and [(e.kernel, e.programs, e.rest) for e in direct] == [
        (e.kernel, e.programs, e.rest) for e in again
    ]
    memory = [Memory.of(t) for t in long_way.tensors]
    new = [Memory.of(t) for t in short_way.tensors]
    moved: dict[int, int] = {}  # from an allocation's start to where it is now

    def place(address: int, of: list[Memory]) -> Memory | None:
        return next((m for m in of if m.start <= address < m.start + m.size), None)

    def corresponds(before: int, after: int) -> bool:
        if before == 0 or any(before == t.data_ptr() for t in inputs):
            return before == after
        old = place(before, memory)
        assert old is not None
        start = after - (before - old.start)
        return moved.setdefault(old.start, start) == start

    for before, after in zip(direct, again, strict=True):
        assert all(map(corresponds, before.addresses, after.addresses))
    results = zip(
        want if isinstance(want, tuple) else (want,),
        got if isinstance(got, tuple) else (got,),
        strict=True,
    )
    for before, after in results:
        assert (before is None) == (after is None)
        if before is not None:
            assert (before.shape, before.dtype) == (after.shape, after.dtype)
            assert before.stride() == after.stride()
            assert corresponds(before.data_ptr(), after.data_ptr())
    sizes = {m.start: m.size for m in memory}
    parts = sorted((start, sizes[old]) for old, start in moved.items())
    for start, size in parts:  # each within an allocation
        around = place(start, new)
        assert around is not None and start + size <= around.start + around.size
    assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(parts))


def layers_of(p: Any, activation: str = "gelu") -> scoring.Layers:
    return scoring.Layers(*p.layers[1:], activation)


@contextlib.contextmanager
def counting() -> Iterator[list[int]]:
    """How often a plan was run."""
    runs, run = [], replay._Plan.run
    replay._Plan.run = lambda plan, inputs: runs.append(1) or run(plan, inputs)
    try:
        yield runs
    finally:
        replay._Plan.run = run


@pytest.mark.parametrize("tma", [True, False])
@pytest.mark.parametrize("tokens", [1, 70])
def test_kernels_are_given_what_they_were_given_the_long_way(fake, monkeypatch, tma, tokens):  # noqa: F811
    monkeypatch.setattr(tiles, "tiles", lambda device, dtype: table(tma))
    use_capability(90 if tma else 80)
    p = projector(tokens, d=40, hidden=72, out=48, dtype=torch.bfloat16)
    layers = layers_of(p)
    metric, wide = torch.randn(72, 72).bfloat16(), torch.randn(72, 72)
    u = torch.randn(3, 40)
    inputs = [p.x, *layers[:4], metric, wide, u]
    with counting() as runs:
        for outputs in (False, True):
            assert_replays(fake, scoring.closed_form, inputs, p.x, layers, metric, outputs)
            assert_replays(fake, scoring.closed_form, inputs, p.x, layers, wide, outputs)
            for step in (0.0, 0.01):
                assert_replays(fake, scoring.directional, inputs, p.x, layers, u, step, outputs)
        assert_replays(fake, scoring.project, inputs, p.x, layers)
        relu = layers._replace(activation="relu", b1=None, b2=None)
        assert_replays(fake, scoring.directional, inputs, p.x, relu, u, 0.1, True)
    assert len(runs) == 3 * 10


def test_nothing_is_out_of_date(fake):  # noqa: F811
    """Other shapes, strides and dtypes at the same address; other memory, and the first again."""
    p = projector(64, d=64, hidden=72, out=48, dtype=torch.bfloat16)
    layers, metric = layers_of(p), torch.randn(72, 72).bfloat16()
    memory, other = torch.zeros(2, 128 * 64).bfloat16()
    views = [
        memory.view(128, 64),
        memory.view(64, 128)[:, :64],
        memory[: 64 * 64].view(64, 64),
        other.view(128, 64),
        memory.view(torch.float16).view(128, 64),
        memory[8:].view(-1)[: 64 * 64].view(64, 64),
        memory.view(128, 64),
    ]
    for x in views:
        own = scoring.Layers(*(t if t is None else t.to(x.dtype) for t in layers[:4]), "gelu")
        given = metric.to(x.dtype)
        inputs = [x, *own[:4], given]
        assert_replays(fake, scoring.closed_form, inputs, x, own, given, True)


def test_what_does_more_than_launch_is_never_replayed(fake):  # noqa: F811
    """Copies of badly strided matrices, and the one score of a linear projector."""
    p = projector(33, d=40, hidden=72, out=48, dtype=torch.bfloat16)
    layers, metric = layers_of(p), torch.randn(72, 72).bfloat16()
    x = torch.randn(33, 44).bfloat16()[:, :40]  # rows at no multiple of 16 bytes
    apart = layers._replace(b1=torch.randn(144).bfloat16()[::2])
    with counting() as runs:
        for given in ((x, layers), (p.x, apart)):
            wanted = launches(fake, scoring.closed_form.__wrapped__, *given, metric, outputs=True)
            for _ in range(4):
                assert launches(fake, scoring.closed_form, *given, metric, outputs=True) == wanted
    assert not runs
    linear = layers._replace(activation="identity")  # its outputs alone are
    for _ in range(4):
        assert launches(fake, scoring.closed_form, p.x, linear, metric, outputs=True)[0] == 5


def test_inputs_at_one_address_may_have_two_at_the_next_call(fake):  # noqa: F811
    p = projector(33, d=72, hidden=72, out=72, dtype=torch.bfloat16)
    layers, metric = layers_of(p), torch.randn(72, 72).bfloat16()
    one = layers._replace(w1=metric)
    for _ in range(3):
        scoring.closed_form(p.x, one, metric, False)
    two = layers._replace(w1=metric.clone())
    inputs = [p.x, *two[:4], metric]
    assert_replays(fake, scoring.closed_form, inputs, p.x, two, metric, False, replays=False)


def test_nothing_grows(fake, monkeypatch):  # noqa: F811
    monkeypatch.setattr(replay, "_MOST_PLANS", 5)
    monkeypatch.setattr(replay, "_MOST_ADDRESSES", 3)
    p = projector(33, d=40, hidden=72, out=48, dtype=torch.bfloat16)
    layers, metric = layers_of(p), torch.randn(72, 72).bfloat16()
    plans = scoring.closed_form.__closure__[
        scoring.closed_form.__code__.co_freevars.index("plans")
    ].cell_contents
    kept = []
    for tokens in range(1, 20):
        kept.append(torch.empty(tokens, 40).bfloat16())
        scoring.closed_form(kept[-1], layers, metric)
        assert len(plans) <= 5
    for _ in range(12):
        kept.append(torch.empty(33, 40).bfloat16())
        kept.append(scoring.closed_form(kept[-1], layers, metric))
        found = [plan for plan in plans.values() if isinstance(plan, replay._Plan)]
        assert all(len(plan.ready) <= 3 for plan in found)
    assert found


def test_a_launcher_that_is_built_otherwise_is_left_alone(fake, monkeypatch):  # noqa: F811
    def opened(launcher):
        raise LookupError

    monkeypatch.setattr(replay, "_opened", opened)
    p = projector(33, d=40, hidden=72, out=48, dtype=torch.bfloat16)
    layers, metric = layers_of(p), torch.randn(72, 72).bfloat16()
    for _ in range(4):
        assert launches(fake, scoring.closed_form, p.x, layers, metric)[0] == 3


def test_it_can_be_turned_off(fake, monkeypatch):  # noqa: F811
    monkeypatch.setattr(environment, "replays", False)
    p = projector(33, d=40, hidden=72, out=48, dtype=torch.bfloat16)
    layers, metric = layers_of(p), torch.randn(72, 72).bfloat16()
    with counting() as runs:
        for _ in range(4):
            assert launches(fake, scoring.closed_form, p.x, layers, metric)[0] == 3
    assert not runs
