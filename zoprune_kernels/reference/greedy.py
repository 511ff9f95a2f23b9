"""What all greedy selections have in common: candidate classes, their order."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .images import by_image

# Candidates are ranked by class first, then by gain, then by lowest index.
MUST_KEEP, FREE, BLOCKED, NAN, INVALID, PICKED = 5, 4, 3, 2, 1, 0


def candidate_classes(scores: Tensor, must_keep: Tensor | None, valid: Tensor | None) -> Tensor:
    """The class of each token [N] before any is picked."""
    classes = torch.full(scores.shape, FREE, device=scores.device)
    classes = classes.masked_fill(scores.isnan(), NAN)
    if must_keep is not None:
        classes = classes.masked_fill(must_keep, MUST_KEEP)
    if valid is not None:
        classes = classes.masked_fill(~valid, INVALID)
    return classes


def first_best(classes: Tensor, gain: Tensor) -> Tensor:
    """The lowest index of the highest gain within the best class; no host synchronisation."""
    best_class = classes.max()
    ranked = torch.where((best_class == FREE) | (best_class == BLOCKED), gain, 0.0)
    ranked = torch.where(classes == best_class, ranked, -math.inf)
    index = torch.arange(gain.shape[0], device=gain.device)
    return torch.where((classes == best_class) & (ranked == ranked.max()), index, len(gain)).min()


def row(rows: Tensor, index: Tensor) -> Tensor:
    """rows[index] for an index [] on the device; indexing would read it on the host."""
    return rows.index_select(0, index[None])[0]


def selection(pick: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Makes of the picks [k] of one image, in pick order, those of one or a batch of images, sorted
    or not: the reference of an operator, by its arguments."""

    @functools.wraps(pick)
    def select(*arguments: Any, sort: bool = True, **options: Any) -> Tensor:
        picks = by_image(pick, 1, *arguments, **options)
        return picks.sort().values if sort else picks

    return select
