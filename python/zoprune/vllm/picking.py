"""Which tokens of a batch of images stay: budgets per unit on top of the packed operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import zoprune_kernels

from .options import WITHOUT_LIMIT, Options, budget


@dataclass
class Tokens:
    """One image's visual tokens."""

    features: Tensor  # [n, C]
    scores: Tensor  # [n] float32; what it is at structure does not matter
    units: Sequence[int]  # tokens of each unit, structure not counted, in order
    structure: Tensor | None = None  # [n] bool on the CPU: newlines, always kept


def pick(
    images: Sequence[Tokens], keeps: Sequence[int | float], keys: int, options: Options
) -> list[Tensor]:
    """Ascending indices of the tokens to keep, of each image, on the device.

    keeps is a count per unit, or a ratio in (0, 1] of its tokens; tokens are compared by the first
    ``keys`` channels of their features.
    """
    device = images[0].features.device
    every = [_without_structure(image) for image in images]  # None: all of them
    sizes = [size for image in images for size in image.units]
    budgets = [
        budget(keep, size)
        for image, keep in zip(images, keeps, strict=True)
        for size in image.units
    ]
    scores = torch.cat([_rows(i.scores, rows) for i, rows in zip(images, every, strict=True)])
    compared = [_rows(i.features[:, :keys], rows) for i, rows in zip(images, every, strict=True)]
    picked = _select(scores, torch.cat(compared), sizes, budgets, options)
    kept = []
    token = first = 0  # of this image, among all tokens and among all picks
    for image, rows in zip(images, every, strict=True):
        tokens, units = sum(image.units), len(image.units)
        count, budgets = sum(budgets[:units]), budgets[units:]
        mine = picked[first : first + count] - token
        if rows is not None:
            fixed = image.structure.nonzero()[:, 0].to(device)  # type: ignore[union-attr]
            mine = torch.cat([rows[mine], fixed]).sort().values
        kept.append(mine)
        token, first = token + tokens, first + count
    return kept


def _select(
    scores: Tensor, keys: Tensor, sizes: list[int], budgets: list[int], options: Options
) -> Tensor:
    """Picks of all units, ascending within each, as indices into all tokens."""
    method = options.method
    packing = (_offsets(sizes, scores.device), _offsets(budgets, scores.device), sum(budgets))
    if method in WITHOUT_LIMIT:
        return getattr(zoprune_kernels, f"select_{method}_varlen")(scores, keys, *packing)
    return zoprune_kernels.select_varlen(
        scores, keys, *packing, method=method, max_similarity=float(options.max_similarity)
    )


def _without_structure(image: Tokens) -> Tensor | None:
    if image.structure is None:
        return None
    return (~image.structure).nonzero()[:, 0].to(image.features.device)


def _rows(values: Tensor, rows: Tensor | None) -> Tensor:
    return values if rows is None else values[rows]


def _offsets(sizes: list[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *sizes]).cumsum(0).to(device, torch.int32)
