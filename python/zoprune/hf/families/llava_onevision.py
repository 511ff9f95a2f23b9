"""LLaVA-OneVision: crops as in LLaVA-NeXT, scaled down beyond a limit; videos pooled 2 x 2."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import View, VisualTokens, frame_of_each
from .llava_next import LlavaNext, views_of_frames


class LlavaOnevision(LlavaNext):
    models: tuple[str, ...] = ("LlavaOnevisionForConditionalGeneration",)
    groups = "frame"
    inputs = {  # noqa: RUF012
        "image": ("pixel_values", "image_sizes", "batch_num_images", "vision_aspect_ratio"),
        "video": ("pixel_values_videos", "image_sizes_videos"),
    }

    def encode(self, core: Any, inputs: dict[str, Any], modality: str) -> VisualTokens:
        if modality == "image":
            return super().encode(core, inputs, modality)
        pixels = inputs["pixel_values_videos"]
        videos, frames = pixels.shape[:2]
        # what transformers 4 calls the videos' pixels, and does not default
        names = ("vision_feature_layer", "vision_feature_select_strategy")
        defaults = {name: getattr(core.config, name) for name in names}
        output, x = self.project(core, defaults | inputs | {"pixel_values": pixels}, modality)
        patches = x.shape[0] // (videos * frames)

        def arrange(rows: Tensor, fill: float) -> Tensor:
            pooled = core.apply_pooling(rows.unflatten(0, (-1, patches)))
            pooled = pooled.reshape(videos, -1, rows.shape[1])  # [videos, n, C]
            newline = rows.new_full((videos, 1, rows.shape[1]), fill)
            return torch.cat([pooled, newline], dim=1).flatten(0, 1)

        groups = frame_of_each(videos, frames, patches)
        features = getattr(output, "pooler_output", output)
        if features.shape[1] * videos < len(arrange(x[:, :1], 0.0)):  # before transformers 5.18
            newline = core.image_newline.expand(videos, 1, -1)
            features = torch.cat([features, newline.to(features)], dim=1)
        tokens = VisualTokens(features, x, arrange, groups, output)
        side = math.isqrt((len(tokens.images) // videos - 1) // frames)
        tokens.frames = [(frames, side, side)] * videos
        return tokens

    def crops(self, config: Any, inputs: dict[str, Any]) -> list[int]:
        crops = super().crops(config, inputs)
        counts = inputs.get("batch_num_images")
        if counts is None:
            return crops
        alone = [n == 1 for n in counts.tolist() for _ in range(n)]
        return [n if single else 1 for n, single in zip(crops, alone, strict=True)]

    def pack(
        self, core: Any, images: Sequence[Tensor], inputs: dict[str, Any], newline: Tensor
    ) -> Sequence[Tensor]:
        ratio = inputs.get("vision_aspect_ratio") or core.config.vision_aspect_ratio
        return core.pack_image_features(images, inputs["image_sizes"], newline, ratio)[0]

    def views(
        self, config: Any, inputs: dict[str, Any], modality: str, newlines: Sequence[Tensor]
    ) -> list[list[View]]:
        if modality == "image":
            return super().views(config, inputs, modality, newlines)
        return views_of_frames(inputs["pixel_values_videos"], newlines)
