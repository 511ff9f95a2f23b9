"""Step 3.7: an image is crops and a view of the whole after them; one linear layer."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Family, View, VisualTokens


class Step3p7(Family):
    models: tuple[str, ...] = ("Step3p7ForConditionalGeneration",)
    inputs = {  # noqa: RUF012
        "image": ("pixel_values", "pixel_values_local", "num_local_patches")
    }
    groups = "crop"  # the last one is the view of the whole image

    def encode(self, core: Any, inputs: dict[str, Any], modality: str) -> VisualTokens:
        """The projector sees all images as a whole first, then all crops."""
        tokens = super().encode(core, inputs, modality)
        images, area = tokens.output.last_hidden_state.shape[:2]
        whole, local = tokens.x[: images * area].split(area), tokens.x[images * area :]
        counts, pixels = crops(inputs), inputs.get("pixel_values_local")
        size = 0 if pixels is None else len(local) // len(pixels)  # tokens of a crop
        cropped = local[: sum(counts) * size].split([count * size for count in counts])
        tokens.x = torch.cat([x for pair in zip(cropped, whole, strict=True) for x in pair])
        views = [torch.tensor([size] * count + [area]) for count in counts]
        tokens.groups = torch.cat([torch.arange(len(v)).repeat_interleave(v) for v in views])
        tokens.groups = tokens.groups.float()
        return tokens

    def views(
        self, config: Any, inputs: dict[str, Any], modality: str, newlines: Sequence[Tensor]
    ) -> list[list[View]]:
        stride = 4 * config.vision_config.patch_size  # two convolutions halve the grid
        local, result, first = inputs.get("pixel_values_local"), [], 0
        for pixels, count in zip(inputs["pixel_values"], crops(inputs), strict=True):
            shown = [*([] if local is None else local[first : first + count]), pixels]
            sides = [math.ceil(picture.shape[-1] / stride) for picture in shown]
            starts = torch.tensor([0, *(side * side for side in sides)]).cumsum(0).tolist()
            result.append(
                [
                    View(picture, torch.arange(start, start + side * side).view(side, side))
                    for picture, start, side in zip(shown, starts, sides, strict=False)
                ]
            )
            first += count
        return result


def crops(inputs: dict[str, Any]) -> list[int]:
    """How many crops each image has."""
    counts = inputs.get("num_local_patches")
    return [0] * len(inputs["pixel_values"]) if counts is None else [int(n) for n in counts]
