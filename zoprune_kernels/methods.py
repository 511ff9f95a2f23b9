"""Options of scoring and of selections, and the selection methods: one table of their operators,
options and tensors.

An option's default and its range stand here and in no other Python file. A leaf: it imports
nothing of this package.
"""
# ruff: noqa: RUF009 (the calls in dataclasses make fields)

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args

from torch import Tensor

AnyOptions = TypeVar("AnyOptions", bound="Options")
Fail = Callable[[str, str, Any], None]  # what is called with (argument, expected, got)
ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "silu", "relu", "identity")
Distribution = Literal["sphere", "gaussian", "rademacher", "orthogonal"]
FirstPick = Literal["score", "isolated"]
SuppressRule = Literal["soft", "exponential", "hard"]
MethodName = Literal["sads", "maxmin", "topk", "random", "mmr", "dpp", "suppress", "coverage"]
DISTRIBUTIONS: tuple[str, ...] = get_args(Distribution)
FIRST_PICKS: tuple[str, ...] = get_args(FirstPick)
SUPPRESS_RULES: tuple[str, ...] = get_args(SuppressRule)
# Arguments that the operators' schemas, once published, call otherwise than Python does.
PUBLISHED_AS = {"picks_by_score": "num_seed"}


def published(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments under the names of the schemas."""
    return _renamed(arguments, PUBLISHED_AS)


def in_python(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments under their Python names."""
    return _renamed(arguments, {old: new for new, old in PUBLISHED_AS.items()})


def _renamed(arguments: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    if not any(name in arguments for name in names):
        return dict(arguments)
    for name, other in names.items():
        if name in arguments and other in arguments:
            raise TypeError(f"zoprune: expected one of {name} and {other}, which are the same")
    return {names.get(name, name): value for name, value in arguments.items()}


def shown(value: Any) -> str:
    """An option's value as errors print it."""
    return f"{value:g}" if isinstance(value, float) else repr(value)


# -- options --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """What scores or picks go by; the fields' defaults are the operators'."""

    @classmethod
    def of(cls: type[AnyOptions], arguments: Mapping[str, Any]) -> AnyOptions:
        """From all arguments of a call, under their Python names."""
        return cls(
            **{name: arguments[name] for name in cls.__dataclass_fields__ if name in arguments}
        )

    def check(self, fail: Fail) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if "fits" in f.metadata and not f.metadata["fits"](value):
                fail(PUBLISHED_AS.get(f.name, f.name), f.metadata["expected"], shown(value))


# Scales that float32 holds, squared too.
SCALES = (1e-18, 1e18)
SCALES_TEXT = f"[{SCALES[0]:g}, {SCALES[1]:g}]"


def is_scale(value: float) -> bool:
    return SCALES[0] <= value <= SCALES[1]


def _option(default: Any, expected: str, fits: Callable[[Any], bool]) -> Any:
    return field(default=default, metadata={"expected": expected, "fits": fits})


def _choice(default: str, choices: tuple[str, ...]) -> Any:
    return _option(default, f"one of {', '.join(choices)}", lambda value: value in choices)


def _between(default: float, low: float, high: float) -> Any:
    return _option(default, f"a number in [{low:g}, {high:g}]", lambda value: low <= value <= high)


def _count(default: int, least: int) -> Any:
    return _option(default, f"an integer >= {least}", lambda value: value >= least)


def _width(default: float) -> Any:
    return _option(default, f"a number in {SCALES_TEXT}", is_scale)


@dataclass(frozen=True)
class ScoreOptions(Options):
    """The options of scoring, by given or by drawn directions."""

    num_directions: int = _count(64, 1)
    step: float = _option(
        0.01, f"0 or a number in {SCALES_TEXT}", lambda value: value == 0 or is_scale(value)
    )
    distribution: Distribution = _choice("sphere", DISTRIBUTIONS)
    seed: int = 0
    activation: str = _choice("gelu", ACTIVATIONS)


@dataclass(frozen=True)
class SelectOptions(Options):
    """The options of ``select``."""

    method: MethodName = "sads"
    max_similarity: float = _between(1.0, -1, 1)
    tradeoff: float = _between(0.5, 0, 1)
    first: FirstPick = _choice("score", FIRST_PICKS)
    picks_by_score: int = _count(0, 0)
    centre: bool = False
    picks_per_step: int = _count(1, 1)

    def check(self, fail: Fail) -> None:
        super().check(fail)
        if self.picks_by_score > 0 and self.first == "isolated":
            fail("num_seed", "0 where first is 'isolated'", self.picks_by_score)

    @property
    def needs_keys(self) -> bool:
        """Whether tokens are compared with one another at all."""
        compares = METHODS[self.method].compares or self.first == "isolated"
        return compares or self.max_similarity < 1


@dataclass(frozen=True)
class SuppressOptions(Options):
    """The options of ``select_suppress``."""

    rule: SuppressRule = _choice("soft", SUPPRESS_RULES)
    sigma_space: float = _width(1.5)
    sigma_similarity: float = _width(0.05)
    radius: float = _option(5.0, "a number > 0", lambda value: value > 0)
    strength: float = _between(1.0, 0, SCALES[1])
    threshold: float = _between(0.9, -1, 1)


# -- methods --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """One way to select: the operator that picks, and what it takes besides scores and keys."""

    operator: str = "select"
    options: type[Options] = SelectOptions
    tensors: tuple[str, ...] = ()
    compares: bool = True  # tokens with one another, by their keys


METHODS: dict[str, Method] = {
    "sads": Method(),
    "maxmin": Method(),
    "topk": Method(compares=False),
    "random": Method(compares=False),
    "mmr": Method(),
    "dpp": Method("select_dpp", Options),
    "suppress": Method("select_suppress", SuppressOptions, ("positions",)),
    "coverage": Method("select_coverage", Options, ("weights",)),
}


# What methods take besides scores and keys.
TENSORS = [name for method in METHODS.values() for name in method.tensors]
# What a ``*_and_select`` call may say of a selection besides the method and ``max_similarity``.
OPTIONS = sorted(
    {f.name for method in METHODS.values() for f in fields(method.options)}
    - {"method", "max_similarity"}
)


class Selection:
    """How a ``*_and_select`` call selects: by any method, with the options and tensors of all.

    Args:
        arguments: those of the call, by either name; what is no option or tensor is passed over.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._given = in_python(arguments)
        self.select = SelectOptions.of(self._given)
        self.name = self.select.method
        self.tensors: dict[str, Tensor | None] = {name: self._given.get(name) for name in TENSORS}

    @property
    def method(self) -> Method:
        return METHODS[self.name]

    @property
    def arguments(self) -> dict[str, Any]:
        """What the method's operator takes besides scores, keys, counts, masks and ``sort``."""
        kind = self.method.options
        options = self.select if kind is SelectOptions else kind.of(self._given)
        return vars(options) | {name: self.tensors[name] for name in self.method.tensors}

    def check(self, fail: Fail) -> None:
        """All options, also those of other methods; keys are the projector's outputs by default."""
        if self.name not in METHODS:
            fail("method", f"one of {', '.join(METHODS)}", shown(self.name))
        for kind in dict.fromkeys(method.options for method in METHODS.values()):
            kind.of(self._given).check(fail)
        if self.method.options is not SelectOptions:
            for f in fields(SelectOptions):
                value = getattr(self.select, f.name)
                if f.name not in ("method", "tradeoff") and value != f.default:
                    name = PUBLISHED_AS.get(f.name, f.name)
                    fail(name, f"{shown(f.default)} with method '{self.name}'", shown(value))

    def check_tensors(self, fail: Fail) -> None:
        """No tensor of another method."""
        for name, tensor in self.tensors.items():
            if tensor is not None and name not in self.method.tensors:
                fail(name, f"None with method '{self.name}'", "a tensor")
