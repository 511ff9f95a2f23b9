"""How a token's sensitivity is estimated."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

import zoprune_kernels
from zoprune_kernels.methods import ScoreOptions


@dataclass(frozen=True)
class Estimator:
    """How a token's sensitivity is estimated.

    ``closed`` is the root mean square over all directions, ``directions`` the paper's mean over
    ``num_directions`` random ones. With ``through_norm`` (closed form only) the perturbation enters
    before the projector's norm, else after it.
    """

    name: str = "closed"
    num_directions: int = ScoreOptions.num_directions
    step: float = ScoreOptions.step
    distribution: str = ScoreOptions.distribution
    seed: int = ScoreOptions.seed
    through_norm: bool = True

    def __post_init__(self) -> None:
        if self.name not in ("closed", "directions"):
            refuse("estimator", "'closed' or 'directions'", repr(self.name))
        if not _is_whole(self.num_directions) or self.num_directions < 1:
            refuse("num_directions", "a count >= 1", repr(self.num_directions))
        if not _is_whole(self.seed):
            refuse("seed", "a whole number", repr(self.seed))
        if not isinstance(self.through_norm, bool):
            refuse("through_norm", "True or False", repr(self.through_norm))
        try:
            valid = 0 <= float(self.step) < math.inf
        except (TypeError, ValueError):
            valid = False
        if not valid:
            refuse("step", "a finite number >= 0", repr(self.step))
        try:  # whatever the operators accept
            w = torch.ones(1, 1)
            u = self.directions(1, w.device, num=1)
            zoprune_kernels.sensitivity(w, w, None, w, u, step=float(self.step))
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"zoprune: {str(error).splitlines()[0]}") from None

    def directions(self, width: int, device: torch.device, num: int | None = None) -> Tensor:
        """The random directions [m, width]."""
        return zoprune_kernels.directions(
            num or int(self.num_directions),
            width,
            distribution=self.distribution,
            seed=int(self.seed),
            device=device,
        )


def _is_whole(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def refuse(name: str, expected: str, got: str) -> NoReturn:
    raise ValueError(f"zoprune: {name}: expected {expected}, got {got}")
