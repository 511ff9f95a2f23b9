"""Where pruning enters a model: pre-hooks on the outer and the inner one, methods on the instance.

The class never changes. Hooks run whatever stands in for ``forward`` (accelerate, Liger, trainers,
``torch.compile``) and for whoever calls the inner model. Once the outer model's hook has removed
the pixels, the inner one has nothing to do.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from ..calls import attach
from ..layers import is_of
from . import compat
from .conversation import Turn, go_on, laid_out, note
from .families import Family
from .prompt import Shortening
from .reports import Report
from .settings import Pruning, pruning_of
from .shortening import shorten

# within the ``generate`` of a pruned model, whose prompt is shortened already
generating: ContextVar[bool] = ContextVar("zoprune_generating", default=False)
# the inner model that an outer one is calling that has seen to the prompt, or is not pruned itself
_seen_to: ContextVar[Any] = ContextVar("zoprune_seen_to", default=None)

OLDER_FEATURES = ("image_hidden_states",)  # what Idefics 3 calls them before transformers 5.18


class Fed(dict):
    """Features that this package computed, with what the cache of the call will hold."""

    turn: Turn | None = None
    report: Report | None = None


def hook(model: nn.Module, core: Any, family: Family) -> None:
    """Register all hooks that are not there yet; what they find on the models decides."""
    family.hook(core)
    inner = [] if core is model else [(core, before_inner)]
    for module, before in [(model, before_outer), *inner]:
        if before not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(before, prepend=True, with_kwargs=True)
            module.register_forward_hook(after, with_kwargs=True, always_call=True)
            compat.gather_first(module)


def unhook(*modules: nn.Module) -> None:
    """Remove this package's hooks from some modules."""
    for module in modules:
        hooks = (module._forward_pre_hooks, module._forward_hooks)
        flags = (module._forward_pre_hooks_with_kwargs, module._forward_hooks_with_kwargs)
        for registered, flag in zip(hooks, flags, strict=True):
            for key, function in list(registered.items()):
                if is_of(function, "zoprune"):
                    del registered[key]
                    flag.pop(key, None)
                    module._forward_hooks_always_called.pop(key, None)


def before_outer(model: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
    return _before(model, compat.core_of(model), args, kwargs)


def before_inner(core: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
    return _before(core, core, args, kwargs)


def _before(
    module: Any, core: Any, args: tuple, kwargs: dict[str, Any]
) -> tuple[tuple, dict] | None:
    """The arguments of a forward without the visual tokens that are dropped; None: unchanged."""
    pruning = pruning_of(module)
    if pruning is None:
        _pass_by(module, core)
        return None
    arguments = kwargs
    if args:
        names = forward_names(module.__class__)
        arguments = {**dict(zip(names, args, strict=False)), **kwargs}
        if len(arguments) < len(args) + len(kwargs):
            return None  # the error is the forward's
    arguments = pruning.family.by_present_names(arguments)
    for names in pruning.family.inputs.values():
        if arguments.get(names[0]) is not None:
            return (), _shortened(module, core, pruning, arguments)
    for name in (compat.FEATURES, *OLDER_FEATURES):
        features = kwargs.get(name)
        if features is not None and len(features) and not isinstance(features, Fed):
            _warn_of_features(core, name)
    longer = go_on(core, pruning, arguments)
    return None if longer is None else ((), longer)


@torch.compiler.disable
def _pass_by(module: Any, core: Any) -> None:
    """A model that is not pruned (any more), while another one around its inner model may be."""
    if pruning_of(core) is None:
        unhook(module)
    elif module is not core:
        _seen_to.set(core)


@torch.compiler.disable
def _shortened(module: Any, core: Any, pruning: Pruning, arguments: dict) -> dict[str, Any]:
    if module is core and _seen_to.get() is core:
        return arguments
    compat.unshard(module, core)
    if compat.FEEDS_FEATURES and not compat.passes_on(module, compat.FEATURES):
        raise ValueError(
            f"zoprune: model: expected a forward that takes {compat.FEATURES}, got "
            f"{getattr(module.forward, '__qualname__', module.forward)}, which somebody put in its "
            "place"
        )
    pruning = laid_out(pruning, arguments)
    arguments = go_on(core, pruning, arguments) or arguments
    shortened, short, report = shorten(core, pruning, arguments)
    if module is not core:
        _seen_to.set(core)
    cache = next(compat.caches(arguments.values()), None)
    turn = Turn.of(short, shortened, pruning.positions, cache)
    if compat.FEATURES in shortened:
        fed = Fed(shortened[compat.FEATURES])
        fed.turn, fed.report = turn, report
        shortened[compat.FEATURES] = fed
    else:
        shortened.pop("input_ids", None)
        shortened["inputs_embeds"]._zoprune_turn = turn, report
    return shortened


def after(module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    """Note on the cache of a shortened call which columns it does not hold.

    It runs also where the forward failed, without an output.
    """
    if output is None or pruning_of(module) is None:
        _end(module)
        return output
    fed = kwargs.get(compat.FEATURES)
    turn, report = (fed.turn, fed.report) if isinstance(fed, Fed) else (None, None)
    if not compat.FEEDS_FEATURES and kwargs.get("inputs_embeds") is not None:
        turn, report = getattr(kwargs["inputs_embeds"], "_zoprune_turn", (None, None))
    if turn is not None:
        _end(module)
        note(output, turn)
        output = _spread(module, output, kwargs, turn.short)
        attach(output, report)
    return output


@torch.compiler.disable
def _end(module: Any) -> None:
    if _seen_to.get() is getattr(module, "model", None):
        _seen_to.set(None)


def _spread(module: Any, output: Any, kwargs: dict[str, Any], short: Shortening) -> Any:
    """The logits in the columns of the full prompt, unless only some of them were asked for."""
    pruning = vars(module)["_zoprune"]
    if isinstance(pruning, list) or not pruning.full_logits:  # those of inner models are in a list
        return output
    asked = kwargs.get("logits_to_keep")
    if isinstance(asked, Tensor) or asked:
        return output
    if isinstance(output, tuple):
        place = int(kwargs.get("labels") is not None)
        return (*output[:place], short.spread(output[place]), *output[place + 1 :])
    if output.get("logits") is not None:
        output["logits"] = short.spread(output["logits"])
    return output


@torch.compiler.disable
def _warn_of_features(core: Any, name: str) -> None:
    if not generating.get() and _seen_to.get() is not core:
        warnings.warn(
            f"zoprune: {name}: these features were computed before the call and are not "
            "pruned; pass the pixels instead",
            stacklevel=2,
        )


@functools.cache
@torch.compiler.assume_constant_result
def forward_names(cls: Any) -> tuple[str, ...]:
    """The positional arguments of a class's forward, in order, whoever wrapped it."""
    for base in cls.__mro__:
        forward = vars(base).get("forward")
        if forward is not None:
            parameters = list(inspect.signature(forward).parameters.values())[1:]
            if any(p.name == "input_ids" for p in parameters):
                kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
                return tuple(p.name for p in parameters if p.kind in kinds)
    return ("input_ids",)


class Method:
    """A function in the place of a model's method, on the instance only: ``del`` undoes it.

    Copies and files of the model hold a method of their own model.
    """

    def __init__(self, model: nn.Module, function: Callable, name: str) -> None:
        self.model, self.function, self.name = model, function, name
        self.previous = vars(model).get(name)  # what somebody else had put there
        self.__doc__ = getattr(type(model), name).__doc__

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.model, self.original, *args, **kwargs)

    @property
    def original(self) -> Callable:
        """The method without pruning."""
        if self.previous is not None:
            return self.previous
        method = getattr(type(self.model), self.name)
        static = isinstance(inspect.getattr_static(type(self.model), self.name), staticmethod)
        return method if static else functools.partial(method, self.model)
