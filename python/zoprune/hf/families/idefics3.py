"""Idefics 3 and SmolVLM: an image is crops and a view of the whole, each a run of placeholders."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Family, View, VisualTokens


class Idefics3(Family):
    models: tuple[str, ...] = (
        "Idefics3ForConditionalGeneration",
        "SmolVLMForConditionalGeneration",
    )
    inputs = {"image": ("pixel_values", "pixel_attention_mask")}  # noqa: RUF012
    projector = "model.connector.modality_projection"
    language_model = "model.text_model"
    groups = "crop"  # the last one is the view of the whole image

    def encode(self, core: Any, inputs: dict[str, Any], modality: str) -> VisualTokens:
        output, x = self.project(core, inputs, modality)
        features = torch.cat([f.flatten(0, -2) for f in getattr(output, "pooler_output", output)])
        images = image_runs(inputs["input_ids"], self.token_id(core, modality))
        sizes = [sum(runs) for runs in images]
        if sum(sizes) != len(features):  # not the prompt of these images, an error of ``shorten``
            return VisualTokens([features], x)
        groups = [torch.arange(len(runs)).repeat_interleave(torch.tensor(runs)) for runs in images]
        return VisualTokens(features.split(sizes), x, None, torch.cat(groups).float(), output)

    def views(
        self, config: Any, inputs: dict[str, Any], modality: str, newlines: Sequence[Tensor]
    ) -> list[list[View]]:
        pixels = inputs["pixel_values"].flatten(0, 1)
        pixels = pixels[pixels.flatten(1).any(1)]  # without the padding of short rows
        size = sum(map(len, newlines)) // len(pixels)  # tokens of a view
        side = math.isqrt(size)
        remaining = iter(pixels)
        grids = [torch.arange(len(tokens)).view(-1, side, side) for tokens in newlines]
        return [[View(next(remaining), tokens) for tokens in grid] for grid in grids]


def image_runs(ids: Tensor, placeholder: int) -> list[list[int]]:
    """The lengths of the runs of placeholders of each image, from a prompt [B, L].

    The token before the last run of every image is the same: it announces the whole image. The
    crops before it follow other tokens, which tell their row and column.
    """
    images: list[list[int]] = []
    for row in ids:
        values, lengths = row.unique_consecutive(return_counts=True)
        runs = (values == placeholder).nonzero()[:, 0].tolist()
        whole = values[runs[-1] - 1] if runs else None
        crops: list[int] = []
        for run in runs:
            crops.append(int(lengths[run]))
            if values[run - 1] == whole:
                images.append(crops)
                crops = []
    return images
