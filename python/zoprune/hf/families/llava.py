"""LLaVA-1.5, Pixtral, VipLLaVA, DeepSeek-VL, Janus: a row of the projector is a visual token."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .base import Family, View, sized_views


class Llava(Family):
    models: tuple[str, ...] = ("LlavaForConditionalGeneration",)
    passed_on = ("image_sizes",)

    def views(
        self, config: Any, inputs: dict[str, Any], modality: str, newlines: Sequence[Tensor]
    ) -> list[list[View]]:
        if inputs.get("image_sizes") is None:
            return super().views(config, inputs, modality, newlines)
        return sized_views(inputs, config.vision_config.patch_size)


class VipLlava(Llava):
    """A LayerNorm over the features of several layers, then the MLP."""

    models: tuple[str, ...] = ("VipLlavaForConditionalGeneration",)


class DeepseekVL(Llava):
    models: tuple[str, ...] = (
        "DeepseekVLForConditionalGeneration",
        "JanusForConditionalGeneration",
    )
    projector = "model.aligner"


class FastVlm(Llava):
    """A tower of convolutions: its pixels are those of each image's grid."""

    models: tuple[str, ...] = ("FastVlmForConditionalGeneration",)
    inputs = {"image": ("pixel_values",)}  # noqa: RUF012
