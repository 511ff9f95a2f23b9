"""lmms-eval's Hugging Face models, pruned: ``zoprune.evaluate`` in the place of ``lmms_eval``.

    python -m zoprune.evaluate --model llava_hf --model_args pretrained=DIR,keep=64 --tasks pope,gqa

All arguments are lmms-eval's own. Those in ``--model_args`` that ``zoprune.prune`` takes (``keep``,
``per``, ``method``, ``video``, ...) go to it, the others to the model. Any other harness:
``prune_wrapper(wrapper, keep=64)`` prunes the model that an object holds.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from zoprune_kernels.methods import OPTIONS

from .budgets import as_keep
from .calls import report
from .estimator import refuse
from .hf.families import unwrap
from .hf.prune import prune

_PARAMETERS = inspect.signature(prune).parameters
OURS = (*(name for name in _PARAMETERS if name not in ("model", "options")), *OPTIONS)
LITERALS = {"true": True, "false": False, "none": None}


def prune_wrapper(wrapper: Any, keep: int | float, **options: Any) -> Any:
    """Prune the one supported model that an evaluation harness's object holds; returns the object.

    Args:
        wrapper: what holds a model as an attribute, such as those of lmms-eval and VLMEvalKit.
        keep: as in ``zoprune.prune``.
        options: the other arguments of ``zoprune.prune``.

    Raises:
        TypeError: there is no supported model, or more than one.
        ValueError: an argument that ``zoprune.prune`` refuses.

    Example:
        >>> model = prune_wrapper(vlmeval.config.supported_VLM["llava_v1.5_7b_hf"](), keep=64)
    """
    prune(_model_of(wrapper), keep, **options)
    return wrapper


def _model_of(wrapper: Any) -> Any:
    if isinstance(wrapper, nn.Module):
        return unwrap(wrapper)[0]
    held = [value for value in vars(wrapper).values() if isinstance(value, nn.Module)]
    found: dict[int, Any] = {}
    for module in held:
        try:
            found.setdefault(id(inner := unwrap(module)[0]), inner)
        except TypeError as error:
            reason = error
    if len(found) != 1:
        names = ", ".join(sorted({type(m).__name__ for m in (*found.values(), *held)})) or "none"
        raise TypeError(
            f"zoprune: model: expected one supported model in a {type(wrapper).__name__}, got "
            f"{names}" + ("" if found or not held else f"; {reason}")
        )
    return next(iter(found.values()))


def split_arguments(text: str) -> tuple[str, dict[str, Any]]:
    """``a=1,keep=64,b=2`` -> what the model gets (``a=1,b=2``), and what ``prune`` gets.

    Raises ValueError where there is no ``keep``, where a piece is no ``name=value``, or where
    ``keep`` is no budget.
    """
    others: list[str] = []
    ours: dict[str, Any] = {}
    for piece in _pieces(text):
        name, equals, value = piece.partition("=")
        if not equals or not name.strip():
            refuse("model_args", "name=value, ...", repr(piece))
        name = name.strip()
        if name not in OURS:
            others.append(piece)
        elif name in ours:
            refuse("model_args", f"{name} once", f"{name}={ours[name]} and {piece}")
        else:
            ours[name] = _value(value.strip())
    if "keep" not in ours:
        refuse("model_args", "keep=COUNT or keep=RATIO among them", repr(text))
    as_keep(ours["keep"])
    return ",".join(others), ours


def _pieces(text: str) -> list[str]:
    """Split at commas, but for those within braces, brackets or quotes."""
    pieces, depth, quote, piece = [], 0, "", ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        else:
            depth += (letter in "{[(") - (letter in "}])")
        if letter == "," and depth == 0 and not quote:
            pieces.append(piece)
            piece = ""
        else:
            piece += letter
    return [p for p in (*pieces, piece) if p.strip()]


def _value(text: str) -> Any:
    if text.lower() in LITERALS:
        return LITERALS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


class Calls:
    """What the calls of a pruned model came to.

    lmms-eval drops the model before it returns, and some of its classes take an empty answer for a
    call that raised: both are kept here, without the model.
    """

    def __init__(self, model: Any) -> None:
        self.name = type(model).__name__
        self.calls = 0
        self.failures: list[str] = []
        self.kept: str | None = None  # of the last call with images
        generate = model.generate

        @functools.wraps(generate)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            try:
                output = generate(*args, **kwargs)
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                raise
            self._note(output)
            return output

        model.generate = watched
        model.register_forward_hook(lambda module, args, output: self._note(output))

    def _note(self, output: Any) -> None:
        try:
            self.kept = str(report(output))
        except TypeError:
            pass  # a call of text alone, or a later token


class PrunedClass:
    """A model class of lmms-eval whose instances are pruned; all else is the class's own."""

    def __init__(self, cls: Any, made: list[Calls]) -> None:
        self._cls, self._made = cls, made

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cls, name)

    def create_from_arg_string(self, arg_string: str, *args: Any, **kwargs: Any) -> Any:
        others, ours = split_arguments(arg_string)
        taken = sorted(set(ours) & set(inspect.signature(self._cls.__init__).parameters))
        if taken:
            name = f"{self._cls.__name__} and zoprune.prune both take"
            refuse("model_args", f"names that one of the two takes ({name} it)", taken[0])
        model = self._cls.create_from_arg_string(others, *args, **kwargs)
        prune_wrapper(model, **ours)
        self._made.append(Calls(_model_of(model)))
        print(f"zoprune: {self._made[-1].name} pruned with {ours}")
        return model


def main(arguments: Sequence[str] | None = None) -> int:
    """Run lmms-eval with its models pruned; 2 for arguments that are refused.

    1 if nothing was pruned, or if calls failed, whose answers count as empty.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0] == "eval":
        del arguments[0]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    try:
        for text in _given(arguments, "--model_args"):
            split_arguments(text)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        models: Any = importlib.import_module("lmms_eval.models")
        command = importlib.import_module("lmms_eval.__main__")
    except ImportError as error:
        print(f"zoprune: lmms_eval: expected it to be installed, got: {error}", file=sys.stderr)
        print("pip install 'zoprune_kernels[evaluate]'", file=sys.stderr)
        return 2
    made: list[Calls] = []
    original, argv = models.get_model, sys.argv
    models.get_model = _pruned(original, made)
    sys.argv = ["lmms_eval", *arguments]
    try:
        command.cli_evaluate()
    finally:
        models.get_model, sys.argv = original, argv
    return _summary(made)


def _pruned(original: Callable, made: list[Calls]) -> Callable:
    @functools.wraps(original)
    def get_model(*args: Any, **kwargs: Any) -> PrunedClass:
        return PrunedClass(original(*args, **kwargs), made)

    return get_model


def _summary(made: list[Calls]) -> int:
    if not made:
        print("zoprune: no model was made, nothing was pruned", file=sys.stderr)
        return 1
    for calls in made:
        if calls.kept is None:
            warnings.warn("zoprune: no call of the model had images", stacklevel=2)
        else:
            print(f"zoprune: the last call kept {calls.kept} visual tokens")
        if calls.failures:
            failed = f"{len(calls.failures)} of {calls.calls} calls of generate failed"
            print(f"zoprune: {calls.name}: {failed}: {calls.failures[0]}", file=sys.stderr)
    return int(any(calls.failures for calls in made))


def _given(arguments: list[str], name: str) -> list[str]:
    """The values of an option, as ``--name value`` or ``--name=value``."""
    values = [a.partition("=")[2] for a in arguments if a.startswith(f"{name}=")]
    pairs = itertools.pairwise(arguments)
    return values + [value for option, value in pairs if option == name]


if __name__ == "__main__":
    sys.exit(main())
