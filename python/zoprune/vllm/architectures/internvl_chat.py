"""InternVL in its original form."""

from __future__ import annotations

from typing import Any

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
