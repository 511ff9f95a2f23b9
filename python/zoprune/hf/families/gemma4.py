"""Gemma 4: pooled patches, an RMSNorm without a scale and a linear layer; videos frame by frame."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...projector import Projector
from .. import compat
from .base import View, VisualTokens
from .grids import Grids


class Gemma4(Grids):
    models: tuple[str, ...] = ("Gemma4ForConditionalGeneration",)
    projector = "model.embed_vision"
    inputs = {  # noqa: RUF012
        "image": ("pixel_values", "image_position_ids"),
        "video": ("pixel_values_videos", "video_position_ids", "num_frames_per_video"),
    }

    def describe(self, *modules: Any) -> Projector:
        (module,) = modules
        norm = module.embedding_pre_projection_norm
        return Projector(module.embedding_projection, "identity", None, norm=norm)

    def encode(self, core: Any, inputs: dict[str, Any], modality: str) -> VisualTokens:
        compat.check_feeds_features("Gemma 4")  # its layers look embeddings up by token
        return super().encode(core, inputs, modality)

    def frames(
        self, core: Any, inputs: dict[str, Any], modality: str
    ) -> list[tuple[int, int, int]]:
        side = core.config.vision_config.pooling_kernel_size
        names = self.inputs[modality]
        sizes = inputs[names[1]].amax(1) + 1  # [views, 2] patches across and down
        grids = [(down // side, across // side) for across, down in sizes.tolist()]
        if modality == "image":
            return [(1, *grid) for grid in grids]
        counts = inputs[names[2]].tolist()
        starts = torch.tensor([0, *counts]).cumsum(0).tolist()
        return [(n, *grids[start]) for n, start in zip(counts, starts, strict=False)]

    def views(
        self, config: Any, inputs: dict[str, Any], modality: str, newlines: Sequence[Tensor]
    ) -> list[list[View]]:
        patch = config.vision_config.patch_size
        side, names = config.vision_config.pooling_kernel_size, self.inputs[modality]
        every = []
        for pixels, places in zip(inputs[names[0]], inputs[names[1]], strict=True):
            across, down = (places.amax(0) + 1).tolist()
            patches = pixels[: down * across].view(down, across, patch, patch, -1)
            photo = patches.permute(4, 0, 2, 1, 3).flatten(3).flatten(1, 2)
            every.append((photo, (down // side, across // side)))
        counts = inputs[names[2]].tolist() if modality == "video" else [1] * len(every)
        result, views = [], iter(every)
        for count in counts:
            start, frames = 0, []
            for _ in range(count):
                photo, (rows, columns) = next(views)
                tokens = torch.arange(start, start + rows * columns).view(rows, columns)
                frames.append(View(photo, tokens))
                start += rows * columns
            result.append(frames)
        return result
