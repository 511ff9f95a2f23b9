"""Every launch with integer arguments of 1, of which Triton makes constants: no tensors any more.

Only the front end runs, which is where an int is no tensor (``dim.to(...)``); that takes a tenth of
a second where a whole compilation takes seconds. The interpreter hides this: it makes no constants.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from . import triton_kernels


class _Parsed(Exception):
    """The front end is through: nothing more is wanted of a compilation."""


def traps(capability: int, dtype: torch.dtype) -> list[str]:
    """The launches that fail where one integer is 1, or all are."""
    found: list[str] = []
    make_ir = ASTSource.make_ir

    def parse_only(*arguments: Any) -> None:
        make_ir(*arguments)
        raise _Parsed

    def check(kernel: JITFunction, arguments: tuple, options: dict[str, Any]) -> None:
        for name, changed in _with_ones(kernel, arguments):
            try:
                kernel.run(*changed, grid=None, warmup=True, **options)
            except _Parsed:
                pass
            except Exception as error:
                reason = str(error.__cause__ or error).strip().splitlines()[-1]
                found.append(f"sm_{capability} {kernel.fn.__name__}, {name} = 1: {reason}")

    ASTSource.make_ir = parse_only
    try:
        for case in triton_kernels.cases(capability, dtype):
            with triton_kernels.launching(capability, check):
                case.launch()
    finally:
        ASTSource.make_ir = make_ir
    return found


def _with_ones(kernel: JITFunction, arguments: tuple) -> Iterator[tuple[str, tuple]]:
    """The arguments with all integers replaced by 1, then with one of them; those in tuples too."""
    places: dict[tuple[int, int | None], str] = {}
    for i, (parameter, argument) in enumerate(zip(kernel.params, arguments, strict=True)):
        if parameter.is_constexpr:
            continue
        if isinstance(argument, int):
            places[i, None] = parameter.name
        if isinstance(argument, tuple):
            ints = (j for j, part in enumerate(argument) if isinstance(part, int))
            places |= {(i, j): f"{parameter.name}[{j}]" for j in ints}

    def replaced(*chosen: tuple[int, int | None]) -> tuple:
        changed = list(arguments)
        for i, j in chosen:
            changed[i] = 1 if j is None else (*changed[i][:j], 1, *changed[i][j + 1 :])
        return tuple(changed)

    yield "every integer", replaced(*places)
    for place, name in places.items():
        yield name, replaced(place)
