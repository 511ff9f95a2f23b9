"""Qwen2.5-VL: an RMSNorm and a 2 x 2 merge in the projector, windows, multimodal positions."""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration

from ..layout import Layers, Layout
from ..model import EncoderGraphs, pruned
from ..positions import PrunedMRopeModel

QWEN2 = Layout("visual.merger", Layers("mlp.0", "mlp.2", norm="ln_q"), mrope=True)


class QwenImages:
    """Images are split where the pixels of all of them lie one after the other."""

    def part(self: Any, kwargs: dict[str, Any], indices: range) -> dict[str, Any]:
        part = self.select_encoder_cudagraph_items(kwargs, list(indices))
        return part | {"image_grid_thw": torch.as_tensor(part["image_grid_thw"])}


@pruned(QWEN2)
class Qwen25VL(QwenImages, EncoderGraphs, PrunedMRopeModel, Qwen2_5_VLForConditionalGeneration):
    pass
