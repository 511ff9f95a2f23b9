"""LLaVA-NeXT: an image is a base view and a grid of crops, stitched with newline tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Family, VisualTokens


class LlavaNext(Family):
    models = ("LlavaNextForConditionalGeneration",)
    groups = "crop"  # 0 is the base view; newlines belong to no crop and always stay

    def encode(self, model: Any, inputs: dict[str, Any], modality: str) -> VisualTokens:
        output, x = self.project(model, inputs, modality)
        crops = self.crops(model, inputs)
        patches = x.shape[0] // sum(crops)

        def arrange(rows: Tensor) -> Tensor:
            """Stitch rows [R, C] as the model stitches features."""
            images = rows.unflatten(0, (-1, patches)).split(crops)
            newline = rows.new_full(rows.shape[1:], torch.nan)
            return torch.cat(list(self.pack(model, images, inputs, newline)))

        groups = torch.cat([torch.arange(n) for n in crops]).repeat_interleave(patches).float()
        features = getattr(output, "pooler_output", output)
        return VisualTokens(features, x, arrange, groups, output)

    def crops(self, model: Any, inputs: dict[str, Any]) -> list[int]:
        """How many views of each image go through the vision tower."""
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        config = model.config
        size = config.vision_config.image_size
        return [
            image_size_to_num_patches(s, config.image_grid_pinpoints, size)
            for s in inputs["image_sizes"]
        ]

    def pack(
        self, model: Any, images: Sequence[Tensor], inputs: dict[str, Any], newline: Tensor
    ) -> Sequence[Tensor]:
        strategy = inputs.get("vision_feature_select_strategy")
        strategy = strategy or model.config.vision_feature_select_strategy
        return model.model.pack_image_features(
            images, inputs["image_sizes"], strategy, image_newline=newline
        )[0]
