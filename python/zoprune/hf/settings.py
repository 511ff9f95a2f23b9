"""What ``prune`` was asked for."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .. import budgets
from ..layers import parts_of as parts_of
from ..projector import Estimator, Projector
from ..selection import Rule
from .families import Family


@dataclass
class Pruning:
    """What ``prune`` was asked for, kept on the model."""

    family: Family
    keep: int | float
    per: str
    estimator: Estimator
    rule: Rule
    positions: str
    full_logits: bool
    described: tuple[list[nn.Module], Projector]  # the projector's modules, and what they are

    @property
    def budget(self) -> int | float:
        """``keep`` of this call: that of the innermost ``with zoprune.keep(...)``, if any."""
        return budgets.of_call(self.keep)

    def projector(self, core: nn.Module) -> Projector:
        """What the inner model's projector is now: its modules may have been replaced."""
        module = self.family.part(core, self.family.projector)
        modules = parts_of(module)
        known, projector = self.described
        if list(map(id, modules)) != list(map(id, known)):
            projector = self.family.describe(module)
            self.described = (modules, projector)
        return projector


def pruning_of(model: nn.Module) -> Pruning | None:
    """The settings on an outer or an inner model; None where it is not pruned."""
    pruning = vars(model).get("_zoprune")
    return pruning[-1] if isinstance(pruning, list) and pruning else pruning or None
