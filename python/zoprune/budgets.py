"""Budgets: how many visual tokens stay, and the override of that within a block."""

from __future__ import annotations

import contextlib
import numbers
import operator
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from torch import Tensor

_UNSET = object()
_override: ContextVar[Any] = ContextVar("zoprune_keep", default=_UNSET)


@contextlib.contextmanager
def keep(count: int | float | None) -> Iterator[None]:
    """Within the block and this thread, pruned models keep ``count`` tokens; None: all of them.

    Args:
        count: as in ``prune``, a count or a ratio in (0, 1] given as a float.

    Raises:
        ValueError: the count is below 1, or the ratio out of its range.

    Example::

        with zoprune.keep(128):
            output = model.generate(**inputs)
    """
    token = _override.set(1.0 if count is None else as_keep(count))
    try:
        yield
    finally:
        _override.reset(token)


def of_call(own: int | float) -> int | float:
    """The budget of this call: that of the innermost ``with zoprune.keep(...)``, if any."""
    override = _override.get()
    return own if override is _UNSET else override


def as_keep(keep: Any) -> int | float:
    """A budget as a plain int (a count) or float (a ratio); numpy's and torch's scalars too."""
    if is_count(keep, 1):
        return operator.index(keep)
    ratio = _ratio(keep)
    if ratio is not None and 0 < ratio <= 1:
        return ratio
    raise ValueError(
        "zoprune: keep: expected a count >= 1 or a ratio in (0, 1] as a float (1 is one token, "
        f"1.0 all of them), got {keep!r}"
    )


def tokens_of(keep: int | float, tokens: int) -> int:
    """How many of a unit's tokens stay: a count, or a ratio of them; at least one."""
    count = keep if isinstance(keep, int) else round(keep * tokens)
    return min(max(count, 1), tokens)


def is_count(value: Any, least: int) -> bool:
    """Whether a value is a whole number, no truth value, of any library."""
    boolean = isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")
    try:
        return not boolean and getattr(value, "ndim", 0) == 0 and operator.index(value) >= least
    except TypeError:
        return False


def _ratio(value: Any) -> float | None:
    """A real number that is no integer type, or a floating-point array of no dimensions."""
    if isinstance(value, Tensor):
        value = value.detach()
        whole = not value.is_floating_point() or value.is_meta
    else:
        kind = getattr(getattr(value, "dtype", None), "kind", "f")  # numpy's
        real = isinstance(value, numbers.Real) or hasattr(value, "__array__")
        whole = isinstance(value, numbers.Integral) or not real or kind != "f"
    return None if whole or getattr(value, "ndim", 0) else float(value)
