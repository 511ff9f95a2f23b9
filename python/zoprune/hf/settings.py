"""What ``prune`` was asked for, and the override of its budget within a block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from ..projector import Estimator, Projector
from ..selection import Rule, check_keep
from .families import Family

_UNSET = object()
_override: ContextVar[Any] = ContextVar("zoprune_keep", default=_UNSET)


@dataclass
class Pruning:
    """What ``prune`` was asked for, kept on the model."""

    family: Family
    projector: Projector
    keep: int | float
    per: str
    estimator: Estimator
    rule: Rule
    positions: str
    hooks: list[RemovableHandle]  # that ``Family.hooks`` registered

    @property
    def budget(self) -> int | float:
        """``keep`` of this call: that of the innermost ``with zoprune.keep(...)``, if any."""
        override = _override.get()
        if override is _UNSET:
            return self.keep
        return 1.0 if override is None else override


def pruning_of(model: nn.Module) -> Pruning | None:
    """The settings on a model; None where it is not pruned."""
    return vars(model).get("_zoprune")


@contextlib.contextmanager
def keep(count: int | float | None) -> Iterator[None]:
    """Within the block and this thread, pruned models keep ``count`` tokens; None: all of them."""
    if count is not None:
        check_keep(count)
    token = _override.set(count)
    try:
        yield
    finally:
        _override.reset(token)
