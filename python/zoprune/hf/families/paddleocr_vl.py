"""PaddleOCR-VL: as Qwen2-VL, but the projector gets patches row by row and merges them itself."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import View, VisualTokens
from .grids import rows_of_patches
from .qwen2_vl import Qwen2VL


class PaddleOcrVL(Qwen2VL):
    models: tuple[str, ...] = ("PaddleOCRVLForConditionalGeneration",)
    projector = "model.projector"
    inputs = {"image": ("pixel_values", "image_grid_thw")}  # noqa: RUF012

    def entry(self, core: Any) -> Any:
        return self.part(core, self.projector).pre_norm

    def frames(
        self, core: Any, inputs: dict[str, Any], modality: str
    ) -> list[tuple[int, int, int]]:
        down, across = self.part(core, self.projector).merge_kernel_size
        grids = inputs["image_grid_thw"].tolist()
        return [(frames, rows // down, columns // across) for frames, rows, columns in grids]

    def encode(self, core: Any, inputs: dict[str, Any], modality: str) -> VisualTokens:
        tokens = super().encode(core, inputs, modality)
        down, across = self.part(core, self.projector).merge_kernel_size
        grids = inputs["image_grid_thw"]
        merged = []
        for patches, (frames, rows, columns) in zip(
            tokens.x.split(grids.prod(1).tolist()), grids.tolist(), strict=True
        ):
            blocks = patches.view(frames, rows // down, down, columns // across, across, -1)
            merged.append(blocks.transpose(2, 3).flatten(3).flatten(0, 2))
        tokens.x = torch.cat(merged)
        return tokens

    def views(
        self, config: Any, inputs: dict[str, Any], modality: str, newlines: Sequence[Tensor]
    ) -> list[list[View]]:
        merge = config.vision_config.spatial_merge_size
        return rows_of_patches(inputs["pixel_values"], inputs["image_grid_thw"], (merge, merge))
