"""LLaVA-NeXT."""

from vllm.model_executor.models.llava_next import LlavaNextForConditionalGeneration

from ..model import PrunedModel, pruned
from .stitching import STITCHED, Stitched


@pruned(STITCHED)
class LlavaNext(Stitched, PrunedModel, LlavaNextForConditionalGeneration):
    pass
