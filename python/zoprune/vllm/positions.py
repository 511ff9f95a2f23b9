"""Multimodal rotary positions: a kept token keeps its own, text goes on behind the whole image.

vLLM asks for positions before it has encoded the image. So ``get_mrope_input_positions`` puts the
text right from the start, by way of the whole prompt, and gives an image's tokens where the image
begins. The kept tokens' rows and columns travel in trailing columns of the features;
``recompute_mrope_positions`` fills them in, as often as it is called and from wherever it starts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .columns import COLUMNS, from_columns, to_columns
from .model import PrunedModel
from .options import KEEP

SHIFT = 16  # row and column of a token, below 65536 each, in one value


class PrunedMRopeModel(PrunedModel):
    """``PrunedModel`` for images laid out in ``image_grid_thw``, encoded by ``visual``."""

    supports_multimodal_pruning = True
    visual: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        _open_gate(vllm_config.model_config.multimodal_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        # vLLM's own pruning, of videos, stays off: it would add columns of its own
        self.is_multimodal_pruning_enabled = False
        if self.layout.layers is not None and self.pruning.projector is not None:
            self.visual.out_hidden_size = self.pruning.width + COLUMNS

    def widths(self) -> tuple[int, int]:
        """Features of earlier layers (deepstack) come behind those that tokens are compared by."""
        vision = self.config.vision_config
        width = getattr(vision, "out_hidden_size", vision.hidden_size)
        levels = len(getattr(vision, "deepstack_visual_indexes", None) or ())
        return width, getattr(self.visual, "out_hidden_size", width * (1 + levels))

    def finish(
        self, kept: list[Tensor], picks: list[Tensor], kwargs: dict[str, Any]
    ) -> list[Tensor]:
        merge = self.config.vision_config.spatial_merge_size
        grids = kwargs["image_grid_thw"]
        grids = grids.tolist() if isinstance(grids, Tensor) else grids
        result = []
        for features, rows, (_, _, width) in zip(kept, picks, grids, strict=True):
            columns = width // merge
            places = (rows // columns << SHIFT) + rows % columns
            result.append(torch.cat([features, to_columns(places.int(), features.dtype)], dim=-1))
        return result

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[Any]
    ) -> tuple[Tensor, int]:
        merge = self.config.vision_config.spatial_merge_size
        whole: list[int] = []  # the prompt with every token of every image
        columns: list[int] = []  # of the whole prompt, for each token of the real one
        features, images = [], []
        start = 0
        for feature in sorted(mm_features, key=lambda f: f.mm_position.offset):
            at, length = feature.mm_position.offset, feature.mm_position.length
            columns += range(len(whole), len(whole) + at - start)
            whole += input_tokens[start:at]
            size = length
            if feature.modality == "image" and KEEP in feature.data:
                _, height, width = feature.data["image_grid_thw"].data.tolist()
                size = height * width // merge**2
                images.append((at, length, len(whole)))
            position = dataclasses.replace(feature.mm_position, offset=len(whole), length=size)
            features.append(dataclasses.replace(feature, mm_position=position))
            columns += range(len(whole), len(whole) + length)
            whole += [*input_tokens[at : at + length], *([input_tokens[at]] * (size - length))]
            start = at + length
        columns += range(len(whole), len(whole) + len(input_tokens) - start)
        whole += input_tokens[start:]
        positions, _ = super().get_mrope_input_positions(whole, features)  # type: ignore[misc]
        delta = int(positions.max()) + 1 - len(input_tokens)
        result = positions[:, torch.tensor(columns)]
        for at, length, begin in images:
            result[:, at : at + length] = positions[0, begin]  # all of an image is at one time
        return result, delta

    def recompute_mrope_positions(
        self,
        input_ids: list[int] | Tensor,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[list[Tensor], Tensor, int]:
        """The features without the trailing columns, the positions [3, N] and their lead over N."""
        embeddings = list(multimodal_embeddings)
        if any(e.shape[-1] > self.pruning.width for e in embeddings):
            ids = torch.as_tensor(input_ids, device=mrope_positions.device)
            image, video = self.config.image_token_id, self.config.video_token_id
            slots = ((ids == image) | (ids == video)).nonzero()[:, 0]
            slots = slots[slots >= num_computed_tokens]
            mrope_positions = mrope_positions.clone()
            for i, embedding in enumerate(embeddings):
                here, slots = slots[: len(embedding)], slots[len(embedding) :]
                if embedding.shape[-1] == self.pruning.width:
                    continue  # a video, or features that the request brought along
                places = from_columns(embedding[:, self.pruning.width :], torch.int32)
                places = places.to(mrope_positions)
                begin = mrope_positions[0, here]
                mrope_positions[1, here] = begin + (places >> SHIFT)
                mrope_positions[2, here] = begin + (places & ((1 << SHIFT) - 1))
                embeddings[i] = embedding[:, : self.pruning.width]
        delta = int(mrope_positions.max()) + 1 - mrope_positions.shape[1]
        return embeddings, mrope_positions, delta


def _always() -> bool:
    return True


def _open_gate(multimodal_config: Any) -> None:
    """Make vLLM's runners call ``recompute_mrope_positions``, and its rotary caches long enough."""
    object.__setattr__(multimodal_config, "is_multimodal_pruning_enabled", _always)
    from vllm.platforms import current_platform

    if current_platform.is_cpu():  # its runner never looks at the gate
        from vllm.v1.worker.cpu_model_runner import CPUModelRunner

        CPUModelRunner.is_multimodal_pruning_enabled = property(
            _gate_is_open, lambda runner, value: None
        )


def _gate_is_open(runner: Any) -> bool:
    model = getattr(runner, "model", None)
    config = runner.model_config.multimodal_config
    return (
        getattr(model, "supports_multimodal_pruning", False)
        and config is not None
        and config.is_multimodal_pruning_enabled()
    )
