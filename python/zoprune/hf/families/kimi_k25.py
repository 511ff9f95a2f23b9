"""Kimi K2.5: a LayerNorm on each patch, 2 x 2 patches to a token; a video is pooled over time."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .base import View
from .grids import Grids, rows_of_patches


class KimiK25(Grids):
    models: tuple[str, ...] = ("Kimi_K25ForConditionalGeneration",)
    projector = "model.mm_projector"
    tower = "model.vision_tower"
    groups = None  # a video is one frame, the mean of its own

    def frames(
        self, core: Any, inputs: dict[str, Any], modality: str
    ) -> list[tuple[int, int, int]]:
        down, across = core.vision_tower.merge_kernel_size
        grids = inputs[self.inputs[modality][1]].tolist()
        return [(1, rows // down, columns // across) for _, rows, columns in grids]

    def views(
        self, config: Any, inputs: dict[str, Any], modality: str, newlines: Sequence[Tensor]
    ) -> list[list[View]]:
        """The first frame of each."""
        pixels, grids = (inputs[name] for name in self.inputs[modality])
        return rows_of_patches(pixels, grids, config.vision_config.merge_kernel_size)
