"""Qwen2-VL: as Qwen2.5-VL, with a LayerNorm and without windows."""

from __future__ import annotations

from vllm.model_executor.models.qwen2_vl import Qwen2VLForConditionalGeneration

from ..model import EncoderGraphs, pruned
from ..positions import PrunedMRopeModel
from .qwen2_5_vl import QWEN2, QwenImages


@pruned(QWEN2)
class Qwen2VL(QwenImages, EncoderGraphs, PrunedMRopeModel, Qwen2VLForConditionalGeneration):
    pass
