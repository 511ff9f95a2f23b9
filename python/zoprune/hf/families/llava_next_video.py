"""LLaVA-NeXT-Video: images as in LLaVA-NeXT; the frames of a video are pooled, then projected."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .base import View, VisualTokens, frame_of_each
from .llava_next import LlavaNext, views_of_frames


class LlavaNextVideo(LlavaNext):
    models: tuple[str, ...] = ("LlavaNextVideoForConditionalGeneration",)
    groups = "frame"
    inputs = {  # noqa: RUF012
        "image": ("pixel_values", "image_sizes"),
        "video": ("pixel_values_videos",),
    }

    def encode(self, core: Any, inputs: dict[str, Any], modality: str) -> VisualTokens:
        if modality == "image":
            return super().encode(core, inputs, modality)
        output, x = self.project(core, inputs, modality)
        features = getattr(output, "pooler_output", output)
        videos, frames = inputs["pixel_values_videos"].shape[:2]
        area = len(x) // (videos * frames)
        groups = frame_of_each(videos, frames, area)
        tokens = VisualTokens(features, x, None, groups, output)
        tokens.frames = [(frames, math.isqrt(area), math.isqrt(area))] * videos
        return tokens

    def views(
        self, config: Any, inputs: dict[str, Any], modality: str, newlines: Sequence[Tensor]
    ) -> list[list[View]]:
        if modality == "image":
            return super().views(config, inputs, modality, newlines)
        return views_of_frames(inputs["pixel_values_videos"], newlines)
