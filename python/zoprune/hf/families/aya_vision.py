"""Aya Vision and Command A Vision: 2 x 2 patches to a token, then a gated MLP."""

from typing import Any

from ...gated import GatedProjector
from ...projector import Projector, activation_of
from .base import Family


class AyaVision(Family):
    models: tuple[str, ...] = (
        "AyaVisionForConditionalGeneration",
        "Cohere2VisionForConditionalGeneration",
    )
    inputs = {"image": ("pixel_values",)}  # noqa: RUF012

    def describe(self, *modules: Any) -> Projector:
        (module,) = modules
        activation = activation_of(module.act)
        norm = getattr(module, "layernorm", None)
        return GatedProjector(module.linear_1, activation, module.linear_2, norm=norm)

    def entry(self, core: Any) -> Any:
        module = self.part(core, self.projector)
        return getattr(module, "layernorm", module.linear_1)
