"""What the last call of a pruned module kept, for the thread or task that made it."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, overload
from weakref import WeakKeyDictionary

from torch import nn

if TYPE_CHECKING:
    from .hf.reports import Report
    from .module import Kept, PrunedProjector

_ATTRIBUTE = "_zoprune_report"  # of an output
Caller = tuple[int, int | None]  # thread and task
# of a context and those copied from it: who called a module last, and its report
_calls: ContextVar[WeakKeyDictionary[nn.Module, tuple[Caller, Any]] | None] = ContextVar(
    "zoprune_calls", default=None
)
_latest: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()  # reports of any thread


class Remembered:
    """A module whose own calls are remembered, not those of a model within."""


@overload
def report(model: PrunedProjector) -> Kept: ...
@overload
def report(model: Any) -> Report: ...
def report(model: Any) -> Any:
    """What a model's last call with images in this thread or task kept, or that of an output.

    Args:
        model: a pruned model, however wrapped, a ``PrunedProjector``, or the output of a pruned
            model's ``forward`` or ``generate``.

    Returns:
        A ``zoprune.hf.reports.Report``: ``kept``, ``scores``, ``tokens``, ``rows`` (one entry for
        each image), ``columns`` and ``shorten(labels)`` (of the prompt), ``picture(index)``.

    Raises:
        RuntimeError: there was no such call, or a later one ran in another thread or task.
        TypeError: ``model`` is neither, such as the output of a call that had text alone.

    Example::

        output = model.generate(**inputs)
        print(zoprune.report(model))  # 64 of 576
        zoprune.report(model).picture(0, processor).save("kept.png")
    """
    known = getattr(model, _ATTRIBUTE, None)
    if known is not None:
        return known
    if not isinstance(model, Remembered):
        from .hf import compat
        from .hf.families import unwrap

        if not isinstance(model, nn.Module) and not hasattr(model, "model"):
            raise TypeError(
                "zoprune: report: expected a pruned model, or the output of a call of one with "
                f"images or videos, got {type(model).__name__} without a report"
            )
        model = compat.core_of(unwrap(model)[0])
    calls = _calls.get()
    entry = None if calls is None else calls.get(model)
    if entry is None:
        raise RuntimeError("zoprune: report: the model has not been called in this thread yet")
    caller, last = entry
    if caller != _caller() or (_has_loop() and _latest.get(model) is not last):
        raise RuntimeError(
            "zoprune: report: the model's last call ran in another thread or task: ask there, or "
            "for the report of its output, zoprune.report(output)"
        )
    return last


def remember(module: nn.Module, report: Any) -> None:
    """Note what a call of a module kept."""
    calls = _calls.get()
    if calls is None:
        calls = WeakKeyDictionary()
        _calls.set(calls)
    calls[module] = (_caller(), report)
    _latest[module] = report


def attach(output: Any, report: Any) -> None:
    """Let ``report(output)`` find it."""
    if report is not None and not isinstance(output, tuple):
        setattr(output, _ATTRIBUTE, report)


def _caller() -> Caller:
    return threading.get_ident(), id(asyncio.current_task()) if _has_loop() else None


def _has_loop() -> bool:
    return asyncio._get_running_loop() is not None
