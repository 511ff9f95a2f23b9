"""MiniCPM-V 4.6 and 4.7, MiniCPM-OCR: 2 x 2 patches to a token, a norm and the MLP.

A slice of a photo, and a frame of a video, is an image of its own.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...projector import Projector, find_projector
from .base import Family, View
from .qwen2_vl import Qwen2VL


class MiniCpmV(Family):
    models: tuple[str, ...] = (
        "MiniCPMV4_6ForConditionalGeneration",
        "MiniCPMOcrForConditionalGeneration",
    )
    projector = "model.merger"
    inputs = {  # noqa: RUF012
        "image": ("pixel_values", "target_sizes"),
        "video": ("pixel_values_videos", "target_sizes_videos"),
    }

    def describe(self, *modules: Any) -> Projector:
        rounds = list(modules[0].mlp)
        if len(rounds) != 1:
            raise ValueError(
                f"zoprune: merger_times: expected 1, one MLP behind the tower, got {len(rounds)}"
            )
        return find_projector(rounds[0])

    def entry(self, core: Any) -> nn.Module:
        return self.part(core, self.projector).mlp[0]

    def project(self, core: Any, inputs: dict[str, Any], modality: str) -> tuple[Any, Tensor]:
        pixels = self.inputs[modality][0]
        return super().project(core, inputs | {pixels: inputs[pixels][:1]}, modality)

    def views(
        self, config: Any, inputs: dict[str, Any], modality: str, newlines: Sequence[Tensor]
    ) -> list[list[View]]:
        """From strips of patches [1, 3, p, p n], one behind the other."""
        pixels, sizes = (inputs[name] for name in self.inputs[modality])
        patch, views = config.vision_config.patch_size, []
        strips = pixels[0].split([int(n) * patch for n in sizes.prod(1)], dim=2)
        for strip, (down, across), tokens in zip(strips, sizes.tolist(), newlines, strict=True):
            rows = round((len(tokens) * down / across) ** 0.5)
            photo = strip.unflatten(2, (down, across, patch)).permute(0, 2, 1, 3, 4)
            grid = torch.arange(len(tokens)).view(rows, -1)
            views.append([View(photo.flatten(3).flatten(1, 2), grid)])
        return views


class MiniCpmV47(MiniCpmV):
    """The slices of a photo share a canvas of positions with its view as a whole."""

    models: tuple[str, ...] = ("MiniCPMV4_7ForConditionalGeneration",)
    mrope = True
    positions = Qwen2VL.positions
    settle = Qwen2VL.settle
