"""Qwen3-VL: as Qwen2-VL, with features of earlier vision layers behind the tokens' own."""

from vllm.model_executor.models.qwen3_vl import Qwen3VLForConditionalGeneration

from ..layout import Layers, Layout
from ..model import EncoderGraphs, pruned
from ..positions import PrunedMRopeModel
from .qwen2_5_vl import QwenImages

QWEN3 = Layout("visual.merger", Layers("linear_fc1", "linear_fc2", norm="norm"), mrope=True)


@pruned(QWEN3)
class Qwen3VL(QwenImages, EncoderGraphs, PrunedMRopeModel, Qwen3VLForConditionalGeneration):
    pass
