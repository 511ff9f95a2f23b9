"""LLaVA-OneVision: stitched crops are scaled down beyond a limit, and their scores with them."""

from vllm.model_executor.models.llava_onevision import LlavaOnevisionForConditionalGeneration

from ..model import PrunedModel, pruned
from .stitching import STITCHED, Stitched


@pruned(STITCHED)
class LlavaOnevision(Stitched, PrunedModel, LlavaOnevisionForConditionalGeneration):
    pass
