"""Qwen3-VL with a mixture of experts."""

from vllm.model_executor.models.qwen3_vl_moe import Qwen3VLMoeForConditionalGeneration

from ..model import EncoderGraphs, pruned
from ..positions import PrunedMRopeModel
from .qwen2_5_vl import QwenImages
from .qwen3_vl import QWEN3


@pruned(QWEN3)
class Qwen3VLMoe(QwenImages, EncoderGraphs, PrunedMRopeModel, Qwen3VLMoeForConditionalGeneration):
    pass
