"""InternVL 3 in Hugging Face's form: tiles, each pixel-shuffled, a LayerNorm and the MLP."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models.interns1 import InternS1ForConditionalGeneration

from ..layout import Layers, Layout
from ..model import PrunedModel, pruned
from .tiles import Tiled


def _tile(config: Any) -> int:
    vision = config.vision_config
    (height, width), (down, across) = vision.image_size, vision.patch_size
    return int(height // down * (width // across) * config.downsample_ratio**2)


class TilesOfScores:
    """The model's own method takes the features' width for that of the language model."""

    def _process_vision_input(self: Any, image_input: Any) -> Any:
        if not self.pruning.scoring:
            return super()._process_vision_input(image_input)  # type: ignore[misc]
        pixels = image_input.get("pixel_values", image_input.get("pixel_values_flat"))
        features = self.extract_feature(pixels).flatten(0, -2)  # [T, D + columns]
        tiles = [int(count) for count in image_input["num_patches"]]
        return features.split([len(features) // sum(tiles) * count for count in tiles])


@pruned(
    Layout(
        "multi_modal_projector",
        Layers(
            "linear_1",
            "linear_2",
            norm="layer_norm",
            activation=lambda config: config.projector_hidden_act,
        ),
        unit=_tile,
    )
)
class InternVL(Tiled, TilesOfScores, PrunedModel, InternS1ForConditionalGeneration):
    counts = "image_num_patches"
