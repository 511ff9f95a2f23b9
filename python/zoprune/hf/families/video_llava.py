"""Video-LLaVA: images as in LLaVA-1.5; a frame of a video is a class token and its patches."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import View, VisualTokens, frame_of_each
from .llava import Llava


class VideoLlava(Llava):
    models: tuple[str, ...] = ("VideoLlavaForConditionalGeneration",)
    passed_on: tuple[str, ...] = ()
    groups = "frame"
    inputs = {"image": ("pixel_values",), "video": ("pixel_values_videos",)}  # noqa: RUF012
    renamed = {"pixel_values_images": "pixel_values"}  # noqa: RUF012

    def encode(self, core: Any, inputs: dict[str, Any], modality: str) -> VisualTokens:
        tokens = super().encode(core, inputs, modality)
        if modality == "video":
            videos, frames = inputs["pixel_values_videos"].shape[:2]
            area = len(tokens.x) // (videos * frames)
            tokens.features = torch.cat(list(tokens.features)).unflatten(0, (videos, -1))
            tokens.groups = frame_of_each(videos, frames, area)
            tokens.frames = [(frames, 1, area)] * videos  # no grid: the class token has no place
        return tokens

    def views(
        self, config: Any, inputs: dict[str, Any], modality: str, newlines: Sequence[Tensor]
    ) -> list[list[View]]:
        if modality == "image":
            return super().views(config, inputs, modality, newlines)
        result = []
        for frames, tokens in zip(inputs["pixel_values_videos"], newlines, strict=True):
            side = math.isqrt(len(tokens) // len(frames) - 1)
            grids = torch.arange(len(tokens)).view(len(frames), -1)[:, 1:].unflatten(1, (side, -1))
            result.append([View(*view) for view in zip(frames, grids, strict=True)])
        return result
