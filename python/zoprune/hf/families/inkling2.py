"""Inkling 2 and its looped kin: an MLP ends the tower, on 2 x 2 patches to a token.

Attention counts the tokens between two of them, whatever their positions: there are no gaps.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import View
from .grids import Grids


class Inkling2(Grids):
    models: tuple[str, ...] = (
        "Inkling2ForConditionalGeneration",
        "Inkling2LoopForConditionalGeneration",
    )
    projector = "model.vision_tower.merger"
    inputs = {"image": ("pixel_values", "image_grid_thw")}  # noqa: RUF012
    groups = None
    by_columns = True

    def frames(
        self, core: Any, inputs: dict[str, Any], modality: str
    ) -> list[tuple[int, int, int]]:
        return [tuple(grid) for grid in inputs["image_grid_thw"].tolist()]  # of tokens

    def views(
        self, config: Any, inputs: dict[str, Any], modality: str, newlines: Sequence[Tensor]
    ) -> list[list[View]]:
        """From the pixels [n, s, s, 3] of each token."""
        pixels, grids = inputs["pixel_values"], inputs["image_grid_thw"]
        views = []
        for part, (_, rows, columns) in zip(
            pixels.split(grids.prod(1).tolist()), grids.tolist(), strict=True
        ):
            frame = part[: rows * columns].unflatten(0, (rows, columns))  # [r, c, s, s, 3]
            photo = frame.permute(4, 0, 2, 1, 3).flatten(3).flatten(1, 2)
            views.append([View(photo, torch.arange(rows * columns).view(rows, columns))])
        return views
