"""LLaVA-NeXT: an image is a base view and a grid of crops, stitched with newline tokens."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import compat
from .base import Family, View, VisualTokens


class LlavaNext(Family):
    models: tuple[str, ...] = ("LlavaNextForConditionalGeneration",)
    groups = "crop"  # 0 is the base view; newlines belong to no crop and always stay

    def encode(self, core: Any, inputs: dict[str, Any], modality: str) -> VisualTokens:
        output, x = self.project(core, inputs, modality)
        crops = self.crops(core.config, inputs)
        patches = x.shape[0] // sum(crops)

        def arrange(rows: Tensor, fill: float) -> Tensor:
            """Stitch rows [R, C] as the model stitches features."""
            images = rows.unflatten(0, (-1, patches)).split(crops)
            newline = rows.new_full(rows.shape[1:], fill)
            return torch.cat(list(self.pack(core, images, inputs, newline)))

        groups = torch.cat([torch.arange(n) for n in crops]).repeat_interleave(patches).float()
        features = getattr(output, "pooler_output", output)
        return VisualTokens(features, x, arrange, groups, output)

    def crops(self, config: Any, inputs: dict[str, Any]) -> list[int]:
        """How many views of each image go through the vision tower."""
        size = config.vision_config.image_size
        return [
            compat.patches_of(s, config.image_grid_pinpoints, size) for s in inputs["image_sizes"]
        ]

    def pack(
        self, core: Any, images: Sequence[Tensor], inputs: dict[str, Any], newline: Tensor
    ) -> Sequence[Tensor]:
        strategy = inputs.get("vision_feature_select_strategy")
        strategy = strategy or core.config.vision_feature_select_strategy
        return core.pack_image_features(
            images, inputs["image_sizes"], strategy, image_newline=newline
        )[0]

    def views(
        self, config: Any, inputs: dict[str, Any], modality: str, newlines: Sequence[Tensor]
    ) -> list[list[View]]:
        """The base view and, where there are crops, what they show together."""
        pixels, counts = inputs["pixel_values"], self.crops(config, inputs)
        if pixels.dim() == 4:
            pixels = pixels.split(counts)
        patch = config.vision_config.patch_size
        side = config.vision_config.image_size // patch  # tokens
        result = []
        for crops, count, size, tokens in zip(
            pixels, counts, inputs["image_sizes"], newlines, strict=True
        ):
            crops = crops[:count, :, : side * patch, : side * patch]
            views = [View(crops[0], torch.arange(side**2).view(side, side))]
            if count > 1:
                views += _stitched(config, crops[1:], size, tokens)
            result.append(views)
        return result


def _stitched(config: Any, crops: Tensor, size: Tensor, newlines: Tensor) -> list[View]:
    """The crops [n, 3, S, S] side by side without padding; each row of tokens ends in a newline.

    None where the image is so thin that nothing of it is left without padding.
    """
    vision = config.vision_config
    patch, side = vision.patch_size, vision.image_size // vision.patch_size
    down, across = compat.crop_grid(size, config.image_grid_pinpoints, vision.image_size)
    mosaic = crops.unflatten(0, (down, across)).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
    every = torch.arange(down * across * side**2).view(1, down * side, across * side)
    shown = compat.without_padding(every, size)[0]  # [h, w] patches
    if not shown.numel():
        return []
    (top, left), (height, width) = divmod(int(shown[0, 0]), across * side), shown.shape
    seen = mosaic[:, top * patch : (top + height) * patch, left * patch : (left + width) * patch]
    rows = int(newlines[side**2 :].sum())
    tokens = torch.arange(side**2, len(newlines)).view(rows, -1)[:, :-1]
    vertical, horizontal = rows / height, tokens.shape[1] / width  # tokens per patch
    seams = (
        [(crop * side - top) * vertical for crop in range(1, down)],
        [(crop * side - left) * horizontal for crop in range(1, across)],
    )
    return [View(seen, tokens, seams)]


def views_of_frames(videos: Sequence[Tensor], newlines: Sequence[Tensor]) -> list[list[View]]:
    """Of videos [frames, 3, H, W] in square grids of tokens; a newline may follow the last one."""
    result = []
    for frames, tokens in zip(videos, newlines, strict=True):
        side = math.isqrt(len(tokens) // len(frames))
        grids = torch.arange(len(frames) * side * side).view(len(frames), side, side)
        result.append([View(*view) for view in zip(frames, grids, strict=True)])
    return result
