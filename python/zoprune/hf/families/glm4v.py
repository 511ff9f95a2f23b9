"""GLM-4.1V, GLM-4.5V, GLM-4.6V and GLM-OCR: a layer, a norm and GELU before a gated MLP.

Sensitivity is that of the gated MLP: perturbations enter where its two first layers do. The frames
of a video stand apart in the prompt, between timestamps, under the placeholder of images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...gated import GatedProjector
from ...projector import Projector, activation_of
from .. import compat
from .base import VisualTokens
from .qwen2_vl import Qwen2VL

if TYPE_CHECKING:
    from ..shortening import Prompt


class Glm4V(Qwen2VL):
    models: tuple[str, ...] = (
        "Glm4vForConditionalGeneration",
        "Glm4vMoeForConditionalGeneration",
        "Glm46VForConditionalGeneration",
        "GlmOcrForConditionalGeneration",
    )

    def describe(self, *modules: Any) -> Projector:
        (merger,) = modules
        activation = activation_of(merger.act_fn)
        return GatedProjector(merger.up_proj, activation, merger.down_proj, gate=merger.gate_proj)

    def entry(self, core: Any) -> Any:
        return self.part(core, self.projector).gate_proj

    def token_id(self, core: Any, modality: str) -> int:
        return core.config.image_token_id

    def feed(
        self,
        core: Any,
        prompt: Prompt,
        tokens: dict[str, VisualTokens],
        kept: dict[str, Tensor],
    ) -> dict[str, Any]:
        """Frames alone go as images: beams and chunks of a prompt look for their placeholders."""
        inputs = super().feed(core, prompt, tokens, kept)
        if list(inputs.get(compat.FEATURES, {})) == ["video"]:
            inputs[compat.FEATURES] = {"image": inputs[compat.FEATURES]["video"]}
        return inputs
