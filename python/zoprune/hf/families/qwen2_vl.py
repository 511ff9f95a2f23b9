"""Qwen2-VL and Qwen2.5-VL: a norm and a 2 x 2 merge in the projector, multimodal positions."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Family, View, VisualTokens


class Qwen2VL(Family):
    models = ("Qwen2VLForConditionalGeneration",)
    projector = "model.visual.merger"
    groups = "frame"
    mrope = True
    inputs = {  # noqa: RUF012
        "image": ("pixel_values", "image_grid_thw"),
        "video": ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts"),
    }

    def encode(self, model: Any, inputs: dict[str, Any], modality: str) -> VisualTokens:
        tokens = super().encode(model, inputs, modality)
        area = model.model.visual.spatial_merge_size**2
        frames = [
            torch.arange(frames).repeat_interleave(height * width // area)
            for frames, height, width in inputs[f"{modality}_grid_thw"].tolist()
        ]
        tokens.groups = torch.cat(frames).float()
        return tokens

    def positions(self, model: Any, inputs: dict[str, Any]) -> Tensor | None:
        index = model.model.get_rope_index
        names = inspect.signature(index).parameters
        if "mm_token_type_ids" in names and inputs.get("mm_token_type_ids") is None:
            return None  # transformers falls back to ordinary positions
        return index(**{name: inputs[name] for name in names if inputs.get(name) is not None})[0]

    def views(
        self, config: Any, inputs: dict[str, Any], modality: str, scores: Sequence[Tensor]
    ) -> list[list[View]]:
        """One for each frame, or pair of frames, of which it shows the first."""
        vision = config.vision_config
        patch, merge, pair = (
            vision.patch_size,
            vision.spatial_merge_size,
            vision.temporal_patch_size,
        )
        pixels, grids = (inputs[name] for name in self.inputs[modality][:2])
        images = pixels.split(grids.prod(1).tolist())  # [patches, channels]
        result = []
        for patches, (t, h, w) in zip(images, grids.tolist(), strict=True):
            rows, columns = h // merge, w // merge
            blocks = patches.view(t, rows, columns, merge, merge, -1, pair, patch, patch)
            first = blocks.select(6, 0)  # [t, rows, columns, merge, merge, 3, patch, patch]
            frames = first.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(t, -1, h * patch, w * patch)
            tokens = torch.arange(t * rows * columns).view(t, rows, columns)
            result.append([View(*view) for view in zip(frames, tokens, strict=True)])
        return result


class Qwen25VL(Qwen2VL):
    models = ("Qwen2_5_VLForConditionalGeneration",)

    def encode(self, model: Any, inputs: dict[str, Any], modality: str) -> VisualTokens:
        """The projector sees the tokens window after window."""
        tokens = super().encode(model, inputs, modality)
        order = self.windows(model.model.visual, inputs[f"{modality}_grid_thw"]).argsort()
        by_frame = tokens.groups
        tokens.arrange = lambda rows: rows[order.to(rows.device)]
        tokens.groups = torch.empty_like(by_frame)
        tokens.groups[order.cpu()] = by_frame
        return tokens

    def windows(self, visual: Any, grid: Tensor) -> Tensor:
        """Which token [T] each row of the projector is."""
        if hasattr(visual, "get_window_index"):  # transformers 4
            return visual.get_window_index(grid)[0]
        from transformers.vision_utils import get_vision_window_index

        sizes = (visual.spatial_merge_size, visual.window_size, visual.patch_size)
        return get_vision_window_index(grid, *sizes)[0]
