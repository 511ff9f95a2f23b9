"""Qwen3.5, dense and with a mixture of experts: Qwen3-VL's vision tower, linear attention."""

from vllm.model_executor.models.qwen3_5 import (
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeForConditionalGeneration,
)

from ..model import EncoderGraphs, pruned
from ..positions import PrunedMRopeModel
from .qwen2_5_vl import QwenImages
from .qwen3_vl import QWEN3


@pruned(QWEN3)
class Qwen35(QwenImages, EncoderGraphs, PrunedMRopeModel, Qwen3_5ForConditionalGeneration):
    pass


@pruned(QWEN3)
class Qwen35Moe(QwenImages, EncoderGraphs, PrunedMRopeModel, Qwen3_5MoeForConditionalGeneration):
    pass
