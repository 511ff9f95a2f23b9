"""Perception LM: the MLP on each patch of a tile or frame, then a mean over neighbours."""

from typing import Any

from torch import Tensor

from ...projector import Projector, activation_of
from .base import Family, VisualTokens


class PerceptionLM(Family):
    models: tuple[str, ...] = ("PerceptionLMForConditionalGeneration",)
    inputs = {"image": ("pixel_values",), "video": ("pixel_values_videos",)}  # noqa: RUF012

    def describe(self, *modules: Any) -> Projector:
        (projector,) = modules
        activation = activation_of(projector.gelu)
        return Projector(projector.linear_1, activation, projector.linear_2)

    def encode(self, core: Any, inputs: dict[str, Any], modality: str) -> VisualTokens:
        pixels = inputs[self.inputs[modality][0]]  # [B, tiles or frames, 3, h, w]
        output, x = self.project(core, {"pixel_values": pixels}, "image")
        pooling = self.part(core, self.projector).pooling
        patches = len(x) // (pixels.shape[0] * pixels.shape[1])

        def arrange(rows: Tensor, fill: float) -> Tensor:
            return pooling(rows.unflatten(0, (-1, patches))).flatten(0, 1)

        return VisualTokens(output.pooler_output, x, arrange, None, output)

    def views(self, config: Any, inputs: dict[str, Any], modality: str, newlines: Any) -> Any:
        name = self.inputs[modality][0]
        tiles = {"pixel_values": inputs[name].flatten(0, 1)}
        return super().views(config, tiles, "image", newlines)
