"""LFM2-VL and LFM3-VL: 2 x 2 patches to a token, a norm and the MLP."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Family, View, VisualTokens
from .grids import Grids


class Lfm2VL(Family):
    models: tuple[str, ...] = ("Lfm2VlForConditionalGeneration",)
    inputs = {"image": ("pixel_values", "spatial_shapes", "pixel_attention_mask")}  # noqa: RUF012

    def entry(self, core: Any) -> Any:
        module = self.part(core, self.projector)
        return module.linear_1 if module.layer_norm is None else module.layer_norm

    def encode(self, core: Any, inputs: dict[str, Any], modality: str) -> VisualTokens:
        """Padding of smaller images goes through the projector too."""
        tokens = super().encode(core, inputs, modality)
        counts = torch.tensor([len(f) for f in tokens.features])
        if len(tokens.x) > counts.sum():
            places = torch.arange(len(tokens.x) // len(counts))
            tokens.x = tokens.x[(places < counts[:, None]).flatten().to(tokens.x.device)]
        return tokens

    def views(
        self, config: Any, inputs: dict[str, Any], modality: str, newlines: Sequence[Tensor]
    ) -> list[list[View]]:
        patch, merge = config.vision_config.patch_size, config.downsample_factor
        views = []
        for pixels, (down, across) in zip(
            inputs["pixel_values"], inputs["spatial_shapes"].tolist(), strict=True
        ):
            patches = pixels[: down * across].view(down, across, patch, patch, -1)
            rows, columns = down // merge, across // merge
            photo = patches.permute(4, 0, 2, 1, 3).flatten(3).flatten(1, 2)
            seen = photo[:, : rows * merge * patch, : columns * merge * patch]
            views.append([View(seen, torch.arange(rows * columns).view(rows, columns))])
        return views


class Lfm3VL(Grids):
    models: tuple[str, ...] = ("Lfm3VlForConditionalGeneration",)
    tower = "model.vision_tower"
