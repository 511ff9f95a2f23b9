"""InternVL in its original form."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.model_executor.models.internvl import InternVLChatModel

from ..layout import Layers, Layout
from ..model import EncoderGraphs, PrunedModel, pruned
from .internvl import TilesOfScores
from .tiles import Tiled


def _tile(config: Any) -> int:
    side = config.force_image_size or config.vision_config.image_size
    return int((side // config.vision_config.patch_size) ** 2 * config.downsample_ratio**2)


@pruned(Layout("mlp1", Layers("1", "3", norm="0"), unit=_tile))
class InternVLChat(Tiled, TilesOfScores, EncoderGraphs, PrunedModel, InternVLChatModel):
    pixels = "pixel_values_flat"
    counts = "image_num_patches"

    # The model's own methods take the features' width for that of the language model.

    def encoder_cudagraph_forward(self, values: dict[str, Any], path: str = "default") -> Tensor:
        with self.scored():
            return self.extract_feature(values["pixel_values_flat"]).flatten(0, -2)

    def encoder_eager_forward(self, mm_kwargs: dict[str, Any], path: str = "default") -> Tensor:
        image = self.get_input_modality(mm_kwargs) == "image"
        pixels = mm_kwargs["pixel_values_flat" if image else "pixel_values_flat_video"]
        with self.scored():
            return self.extract_feature(pixels).flatten(0, -2)
