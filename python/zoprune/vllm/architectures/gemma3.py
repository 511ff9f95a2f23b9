"""Gemma 3: pooled patches, an RMSNorm and one linear layer, so only diversity decides."""

from vllm.model_executor.models.gemma3_mm import Gemma3ForConditionalGeneration

from ..layout import Layout
from ..model import EncoderGraphs, PrunedModel, pruned
from .tiles import Tiled


@pruned(Layout("multi_modal_projector", None, unit=lambda config: config.mm_tokens_per_image))
class Gemma3(Tiled, EncoderGraphs, PrunedModel, Gemma3ForConditionalGeneration):
    counts = "num_patches"
