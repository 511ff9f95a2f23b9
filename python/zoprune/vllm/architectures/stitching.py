"""LLaVA-NeXT and LLaVA-OneVision: a base view and a grid of crops, stitched with newlines."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

from ..columns import COLUMNS, from_columns, to_columns
from ..layout import Layers, Layout
from ..picking import Tokens


def count_newlines(info: Any, images: Any, index: int) -> int:
    """One newline for each row of the stitched crops."""
    size, encoder = images.get_image_size(index), info.get_vision_encoder_info()
    height, width = get_anyres_image_grid_shape(
        (size.height, size.width),
        info.get_hf_config().image_grid_pinpoints,
        encoder.get_image_size(),
    )
    return info._get_num_unpadded_features(
        original_height=size.height,
        original_width=size.width,
        npatches=encoder.get_patch_grid_length(),
        num_patch_height=height,
        num_patch_width=width,
    )[1]


STITCHED = Layout(
    "multi_modal_projector",
    Layers("linear_1", "linear_2", activation=lambda config: config.projector_hidden_act),
    structure=count_newlines,
)


class Stitched:
    """In front of ``PrunedModel``: what the model does to features, it does to their scores."""

    def _merge_image_patch_embeddings(
        self: Any, image_size: Tensor, patch_embeddings: Tensor, **options: Any
    ) -> Tensor:
        merge = super()._merge_image_patch_embeddings  # type: ignore[misc]
        if not self.pruning.scoring:
            return merge(image_size, patch_embeddings, **options)
        features, columns = patch_embeddings.split([self.pruning.width, COLUMNS], dim=-1)
        merged = merge(image_size, features, **options)
        scores = from_columns(columns, torch.float32)[..., None]  # [views, n, 1]
        scores = self._stitch(image_size, scores, scores.new_zeros(1))[:, 0]
        return torch.cat([merged, to_columns(scores, merged.dtype)], dim=-1)

    def _stitch(self: Any, image_size: Tensor, values: Tensor, newline: Tensor) -> Tensor:
        """values [views, n, C] and newlines [C], as the model stitches features [T, C]."""
        merge = super()._merge_image_patch_embeddings.__func__  # type: ignore[misc]
        options: dict[str, Any] = {"strategy": "spatial_unpad"}
        if "image_newline" in merge.__code__.co_varnames:
            options["image_newline"] = newline
        stand_in = SimpleNamespace(config=self.config, image_newline=newline)
        return merge(stand_in, image_size, values, **options)

    def tokens(self: Any, item: Tensor, index: int, kwargs: dict[str, Any]) -> Tokens:
        features, scores = self.split(item)
        size, vision = kwargs["image_sizes"][index], self.config.vision_config
        height, width = get_anyres_image_grid_shape(
            tuple(size.tolist()), self.config.image_grid_pinpoints, vision.image_size
        )
        patches = (vision.image_size // vision.patch_size) ** 2
        newlines = self._stitch(size, torch.zeros(1 + height * width, patches, 1), torch.ones(1))
        structure = newlines[:, 0] > 0
        return Tokens(features, scores, [len(features) - int(structure.sum())], structure)
