"""Makes an operator of the ``zoprune`` namespace of one typed function.

From the function come the schema, the PyTorch fallback and the documented export; from ``checks``
the fake kernel; from both, where asked for, the packed twin and the operator that a CUDA kernel
hands calls over to. All operators are functional and inference-only: none has data-dependent output
shapes, none synchronises with the host on a GPU.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from inspect import Parameter
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from .. import _torch, environment, namespace
from ..checks import Call, Output, warn_once
from ..methods import PUBLISHED_AS, published
from ..reference.images import by_segment

P = ParamSpec("P")
R = TypeVar("R")
Outputs = Output | tuple[Output, ...] | list[Output]

OPERATORS: dict[str, Operator] = {}
_INFERENCE_ONLY = "zoprune::{}: inference-only: it has no backward"
_TYPES = {
    "Tensor": "Tensor",
    "Tensor | None": "Tensor?",
    "list[Tensor]": "Tensor[]",
    "list[int]": "int[]",
    "int": "int",
    "float": "float",
    "bool": "bool",
    "str": "str",
    "torch.dtype | None": "ScalarType?",
    "torch.device | None": "Device?",
}
_library = namespace.define()


@dataclass
class Operator:
    """What is declared of one operator; made, it is registered."""

    name: str  # as in ``torch.ops.zoprune``
    signature: inspect.Signature  # of the Python function
    checks: Callable[[Call], Outputs]  # raises where the call is wrong; the outputs' shapes, dtypes
    values: Callable[[Call], None]  # raises where what tensors hold is wrong
    run: Callable[[Call], Any]  # the fallback, given a checked call
    returns: Sequence[str]  # names of the outputs, where there are several
    hand_over: bool  # whether a CUDA kernel may hand calls over to the fallback

    def __post_init__(self) -> None:
        self.defaults = {p.name: p.default for p in self.signature.parameters.values()}
        self._python_name = {old: new for new, old in PUBLISHED_AS.items() if new in self.defaults}
        self._register()

    @property
    def schema(self) -> str:
        """As published: name, arguments and returns."""
        arguments: list[str] = []
        for p in self.signature.parameters.values():
            if p.kind is Parameter.KEYWORD_ONLY and "*" not in arguments:
                arguments.append("*")
            default = f'"{p.default}"' if isinstance(p.default, str) else p.default
            equals = "" if p.default is Parameter.empty else f"={default}"
            arguments.append(f"{_TYPES[p.annotation]} {PUBLISHED_AS.get(p.name, p.name)}{equals}")
        returns = _TYPES.get(self.signature.return_annotation)
        if self.returns:
            returns = "(" + ", ".join(f"Tensor {name}" for name in self.returns) + ")"
        return f"{self.name}({', '.join(arguments)}) -> {returns}"

    def call(self, arguments: Sequence[Any], options: dict[str, Any]) -> Call:
        """The arguments by their Python names; the dispatcher leaves out those at their default."""
        given = dict(self.defaults)
        given.update(zip(self.defaults, arguments, strict=False))
        given.update({self._python_name.get(name, name): v for name, v in options.items()})
        return Call(self.name, given)

    def fallback(self, *arguments: Any, **options: Any) -> Any:
        """The operator in PyTorch, for every device: its checks, then the reference."""
        call = self.call(arguments, options)
        self.checks(call)
        self.values(call)
        return self.run(call)

    def fake(self, *arguments: Any, **options: Any) -> Any:
        """The checks, and outputs that hold nothing."""
        outputs = self.checks(self.call(arguments, options))
        if isinstance(outputs, Output):
            return outputs.empty()
        empty = [output.empty() for output in outputs]
        return empty if isinstance(outputs, list) else tuple(empty)

    def handed_over(self, reason: str, *arguments: Any, **options: Any) -> Any:
        """The fallback of a call that a CUDA kernel got and cannot serve: it first says why, in one
        warning for each reason, or in an error where the CUDA kernel is forced."""
        if environment.backend() == "cuda":
            raise RuntimeError(f"zoprune::{self.name}: ZOPRUNE_BACKEND=cuda cannot run: {reason}")
        warn_once(f"zoprune::{self.name}: running the PyTorch reference, not CUDA: {reason}")
        return self.fallback(*arguments, **options)

    def _register(self) -> None:
        OPERATORS[self.name] = self
        _library.define(self.schema, tags=(torch.Tag.pt2_compliant_tag,))
        _library.impl(self.name, self.fallback, "CompositeExplicitAutograd")
        torch.library.register_fake(
            namespace.add_op_namespace_prefix(self.name), self.fake, lib=_library
        )
        if any("Tensor" in str(p.annotation) for p in self.signature.parameters.values()):
            _library.impl(self.name, self._autograd, "Autograd", with_keyset=True)
        if self.hand_over:
            name = f"_reference_{self.name}"
            _library.define(self.schema.replace(f"{self.name}(", f"{name}(str reason, ", 1))
            _library.impl(name, self.handed_over, "CompositeExplicitAutograd")

    @functools.cached_property
    def _overload(self) -> Any:
        return namespace.operator(self.name).default

    def _autograd(self, keys: Any, *arguments: Any, **options: Any) -> Any:
        """Run the operator such that no derivative is zero in silence, backward or forward."""

        def run() -> Any:
            return _torch.call_below_autograd(self._overload, keys, arguments, options)

        tensors = _leaves(arguments)
        if any(map(_torch.has_tangent, tensors)):
            outputs = run()
            if any(output.is_floating_point() for output in _leaves((outputs,))):
                raise RuntimeError(_INFERENCE_ONLY.format(self.name))
            return outputs
        if not torch.is_grad_enabled() or not any(t.requires_grad for t in tensors):
            return run()
        outputs = _torch.apply_function(_NoBackward, self.name, run, *tensors)
        return outputs if self.signature.return_annotation != "list[Tensor]" else list(outputs)


def _leaves(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among values, and in lists among them."""
    flat = (leaf for v in values for leaf in (v if isinstance(v, (list, tuple)) else (v,)))
    return [leaf for leaf in flat if isinstance(leaf, Tensor)]


class _NoBackward(_torch.SingleLevelFunction):
    """Ties what an operator returned to its inputs, so that asking for their gradients fails."""

    @staticmethod
    def forward(ctx: Any, name: str, run: Callable[[], Any], *tensors: Tensor) -> Any:
        ctx.name = name
        outputs = run()
        return tuple(outputs) if isinstance(outputs, list) else outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError(_INFERENCE_ONLY.format(ctx.name))


# -- declarations ---------------------------------------------------------------------------------


def _anything(call: Call) -> None:
    """No value is wrong."""


def operator(
    checks: Callable[[Call], Outputs],
    *,
    values: Callable[[Call], None] = _anything,
    returns: Sequence[str] = (),
    hand_over: bool = False,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declare an operator by a function with its name, signature, docstring and fallback.

    ``checks`` and the others are those of :class:`Operator`; ``values`` reads data on the CPU only,
    or where images are packed.
    """

    def declare(function: Callable[P, R]) -> Callable[P, R]:
        def run(call: Call) -> R:
            return function(**call.arguments)  # type: ignore[call-arg]

        name, signature = function.__name__, inspect.signature(function)
        made = Operator(name, signature, checks, values, run, returns, hand_over)
        return _export(made, function, _doc(function))

    return declare


def with_arguments_of(
    other: Callable[P, Any], checks: Callable[[Call], Outputs], *, returns: Sequence[str]
) -> Callable[[Callable[[Call], R]], Callable[P, R]]:
    """Declare an operator that takes what another takes, by its name, docstring and fallback."""

    def declare(run: Callable[[Call], R]) -> Callable[P, R]:
        one, name = OPERATORS[other.__name__], run.__name__
        signature = one.signature.replace(return_annotation=run.__annotations__["return"])
        made = replace(one, name=name, signature=signature, checks=checks, run=run, returns=returns)
        return _export(made, run, _doc(run))

    return declare


def varlen(
    other: Callable[..., R], doc: str, *, run: Callable[[Call], R] | None = None
) -> Callable[..., R]:
    """Derive an operator's twin for packed images, which has the packing in place of ``k``.

    Args:
        doc: the end of its docstring: what it returns, if not the kept indices, and an example.
        run: its fallback, where that is not the operator's image by image.
    """
    one = OPERATORS[other.__name__]
    parameters: list[Parameter] = []
    for p in one.signature.parameters.values():
        parameters += _PACKING if p.name == "k" else [p]
        parameters += _PACKING[:2] if p.name == "indices" else []  # these give the total

    def image_by_image(call: Call) -> R:
        def one_image(keep: int, image: dict[str, Any]) -> R:
            count = {"k": keep} if "k" in one.defaults else {}
            return one.run(Call(call.op, image | count))

        arguments = {name: value for name, value in call.arguments.items() if name in one.defaults}
        return by_segment(call.images, arguments, one_image)

    def function() -> None: ...

    function.__name__ = function.__qualname__ = f"{one.name}_varlen"
    function.__module__ = other.__module__
    signature = one.signature.replace(parameters=parameters)
    packing = (
        f"    {name}: {_PACKING_DOC[name]}" for name in _PACKING_DOC if name in signature.parameters
    )
    end = inspect.cleandoc(doc)
    end = end if end.startswith("Returns:") else _KEPT_INDICES + end
    twin = replace(one, name=function.__name__, signature=signature, run=run or image_by_image)
    return _export(twin, function, _TWIN_DOC.format(one.name, "\n".join(packing), end))


def _export(made: Operator, function: Callable[..., Any], doc: str) -> Callable[..., Any]:
    """The operator, whichever backend serves it, as a documented Python function."""
    packet = namespace.operator(made.name)
    renamed = any(name in PUBLISHED_AS for name in made.defaults)
    function.__doc__ = doc

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        return packet(*arguments, **(published(options) if renamed else options))

    call.__signature__ = made.signature  # type: ignore[attr-defined]
    return call


def _doc(function: Callable[..., Any]) -> str:
    """An operator's docstring, with what each raises before the example."""
    return inspect.cleandoc(function.__doc__ or "").replace("\nExample:", _RAISES)


_RAISES = """
Raises:
    RuntimeError: a shape, dtype, device or value that the above does not allow, named.

Example:"""
_KEPT_INDICES = """Returns:
    int64 indices [total_keep] into the packed array, image after image.

"""
_PACKING_DOC = {
    "cu_tokens": "int32 [B + 1], image b holds tokens cu_tokens[b] to cu_tokens[b + 1].",
    "cu_keep": "int32 [B + 1], image b keeps cu_keep[b + 1] - cu_keep[b] tokens, possibly none.",
    "total_keep": "cu_keep[B], given by the caller so that the output's shape is known.",
}
_PACKING = [
    Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation)
    for name, annotation in zip(_PACKING_DOC, ("Tensor", "Tensor", "int"), strict=True)
]
_TWIN_DOC = """:func:`{0}` for images of different sizes, packed one after the other.

Args:
{1}
    others: as in :func:`{0}`, with the T tokens of all images where it has [N] or [B, N].

{2}"""
