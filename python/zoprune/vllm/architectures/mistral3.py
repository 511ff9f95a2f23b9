"""Mistral 3: an RMSNorm, a linear 2 x 2 merge, the MLP; rows end in break tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.mistral3 import Mistral3ForConditionalGeneration

from ..layout import Layers, Layout
from ..model import PrunedModel, pruned
from ..picking import Tokens
from .rows import break_token, breaks_as_placeholders, count_breaks, with_breaks


@pruned(
    Layout(
        "multi_modal_projector",
        Layers(
            "linear_1",
            "linear_2",
            norm="norm",
            merge="patch_merger.merging_layer",
            unfolded=True,
            activation=lambda config: config.projector_hidden_act or "gelu",
        ),
        structure=lambda info, images, index: count_breaks(
            info.get_vision_encoder_info(), images, index
        ),
        placeholders=breaks_as_placeholders,
        fields=break_token,
    )
)
class Mistral3(PrunedModel, Mistral3ForConditionalGeneration):
    def score_inputs(self, *args: Any) -> Tensor:
        """Patches of all images [T, c] -> the patches of each merged token, side by side."""
        patches, sizes = args
        side, merge = self.config.vision_config.patch_size, self.config.spatial_merge_size
        grids = [(int(height) // side, int(width) // side) for height, width in sizes]
        images = patches.flatten(0, -2).split([height * width for height, width in grids])
        return torch.cat([_blocks(x, *g, merge) for x, g in zip(images, grids, strict=True)])

    def tokens(self, item: Tensor, index: int, kwargs: dict[str, Any]) -> Tokens:
        side = self.config.vision_config.patch_size * self.config.spatial_merge_size
        return with_breaks(self, super().tokens(item, index, kwargs), side, index, kwargs)


def _blocks(x: Tensor, height: int, width: int, merge: int) -> Tensor:
    """Patches [h w, c] -> [h w / m^2, m^2 c]; a row or column too many is left out."""
    rows, columns = height // merge, width // merge
    x = x.view(height, width, -1)[: rows * merge, : columns * merge]
    x = x.reshape(rows, merge, columns, merge, -1)
    return x.permute(0, 2, 1, 3, 4).reshape(rows * columns, -1)
