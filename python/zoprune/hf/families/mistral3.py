"""Mistral 3, Mistral Large 4 and LightOnOCR: RMSNorm, a linear 2 x 2 merge, then the MLP."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...projector import Projector
from .base import Family, View, VisualTokens, sized_views


class Mistral3(Family):
    models: tuple[str, ...] = (
        "Mistral3ForConditionalGeneration",
        "MistralLarge4ForConditionalGeneration",
    )

    def describe(self, *modules: Any) -> Projector:
        return replace(super().describe(*modules), unfolded=True)

    def encode(self, core: Any, inputs: dict[str, Any], modality: str) -> VisualTokens:
        tokens = super().encode(core, inputs, modality)
        patch = core.config.vision_config.patch_size
        merge = core.config.spatial_merge_size
        grids = [(int(h) // patch, int(w) // patch) for h, w in inputs["image_sizes"]]
        images = tokens.x.split([h * w for h, w in grids])  # patches [h w, c]
        blocks = [_merge_blocks(x, *grid, merge) for x, grid in zip(images, grids, strict=True)]
        tokens.x = torch.cat(blocks)
        return tokens

    def views(
        self, config: Any, inputs: dict[str, Any], modality: str, newlines: Sequence[Tensor]
    ) -> list[list[View]]:
        return sized_views(inputs, config.vision_config.patch_size * config.spatial_merge_size)


class LightOnOcr(Mistral3):
    models: tuple[str, ...] = ("LightOnOcrForConditionalGeneration",)
    projector = "model.vision_projection"


def _merge_blocks(x: Tensor, height: int, width: int, merge: int) -> Tensor:
    """Patches [h w, c] -> the patches of each merged token, side by side [h w / m^2, m^2 c].

    Rows and columns that fill no block are left out, as the model does.
    """
    down, across = height // merge, width // merge
    x = x.view(height, width, -1)[: down * merge, : across * merge]
    x = x.unflatten(1, (across, merge)).unflatten(0, (down, merge))
    return x.permute(0, 2, 1, 3, 4).reshape(down * across, -1)
