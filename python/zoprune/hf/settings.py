"""What ``prune`` was asked for."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .. import budgets, layers
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
    video: str | None  # one of ``zoprune.video.RULES``: how tokens of videos are picked
    described: tuple[list[nn.Module], Projector]  # the projector's modules, and what they are

    @property
    def budget(self) -> int | float:
        """``keep`` of this call: that of the innermost ``with zoprune.keep(...)``, if any."""
        return budgets.of_call(self.keep)

    def projector(self, core: nn.Module) -> Projector:
        """What the inner model's projector is now: its modules may have been replaced."""
        modules = self.family.modules(core)
        parts = parts_of(modules)
        known, projector = self.described
        if list(map(id, parts)) != list(map(id, known)):
            projector = self.family.describe(*modules)
            self.described = (parts, projector)
        return projector


def parts_of(modules: list[nn.Module]) -> list[nn.Module]:
    """All that decides how a projector of several modules is described."""
    return [part for module in modules for part in layers.parts_of(module)]


def pruning_of(model: nn.Module) -> Pruning | None:
    """The settings on an outer or an inner model; None where it is not pruned."""
    pruning = vars(model).get("_zoprune")
    return pruning[-1] if isinstance(pruning, list) and pruning else pruning or None
