"""LLaVA-1.5, Pixtral, VipLLaVA, DeepSeek-VL, Janus: a row of the projector is a visual token."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .base import Family, View, sized_views


class Llava(Family):
    models: tuple[str, ...] = ("LlavaForConditionalGeneration",)
    passed_on: tuple[str, ...] = ("image_sizes",)

    def views(
        self, config: Any, inputs: dict[str, Any], modality: str, newlines: Sequence[Tensor]
    ) -> list[list[View]]:
        if inputs.get("image_sizes") is None:
            return super().views(config, inputs, modality, newlines)
        return sized_views(inputs, config.vision_config.patch_size)


class VipLlava(Llava):
    """A LayerNorm over the features of several layers, then the MLP."""

    models: tuple[str, ...] = ("VipLlavaForConditionalGeneration",)

    def project(self, core: Any, inputs: dict[str, Any], modality: str) -> tuple[Any, Tensor]:
        """``forward`` takes the layers under their older name too."""
        layers = inputs.get("vision_feature_layers")
        if layers is not None:
            inputs = inputs | {"vision_feature_layer": layers}
        return super().project(core, inputs, modality)


class DeepseekVL(Llava):
    models: tuple[str, ...] = (
        "DeepseekVLForConditionalGeneration",
        "JanusForConditionalGeneration",
    )
    projector = "model.aligner"


class FastVlm(Llava):
    """A tower of convolutions, which need not be square and takes nothing beside the pixels."""

    models: tuple[str, ...] = ("FastVlmForConditionalGeneration",)
    inputs = {"image": ("pixel_values",)}  # noqa: RUF012
    passed_on = ()
