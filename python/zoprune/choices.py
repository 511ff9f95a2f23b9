"""What ``prune`` and ``PrunedProjector`` may be told, for editors and type checkers."""

from __future__ import annotations

from typing import Literal, TypedDict

from zoprune_kernels.methods import Distribution as Distribution
from zoprune_kernels.methods import FirstPick, MethodName, SuppressRule

Method = MethodName
Per = Literal["image", "call", "crop", "frame"]
Estimation = Literal["closed", "directions"]
Positions = Literal["compact", "original"]
Video = Literal["evs", "vidcom2", "budget"]


class ProjectorOptions(TypedDict, total=False):
    """The further keywords of a selection, see ``zoprune_kernels.score_and_select``."""

    tradeoff: float
    first: FirstPick
    picks_by_score: int
    num_seed: int  # as the operators' schemas call picks_by_score
    centre: bool
    picks_per_step: int
    sigma_space: float
    sigma_similarity: float
    radius: float
    strength: float
    threshold: float


class MethodOptions(ProjectorOptions, total=False):
    """All of them; ``PrunedProjector`` has a ``rule`` of its own, which stands for all keywords."""

    rule: SuppressRule
