"""Llama 4: no inner model; its projector ends the vision tower's own MLP.

The tower ends in GELU(W2 GELU(W1 x)), and one linear layer follows: sensitivity is that of W2, GELU
and the linear layer.
"""

from typing import Any

from torch import Tensor

from ...projector import Projector, activation_of
from .. import compat
from .base import Family, VisualTokens


class Llama4(Family):
    models: tuple[str, ...] = ("Llama4ForConditionalGeneration",)
    inputs = {"image": ("pixel_values",)}  # noqa: RUF012
    projector = "multi_modal_projector"
    further = ("vision_model.vision_adapter.mlp",)
    language_model = "language_model.model"

    def describe(self, *modules: Any) -> Projector:
        projector, mlp = modules
        activation = activation_of(mlp.activation_fn)
        return Projector(mlp.fc2, activation, projector.linear_1)

    def entry(self, core: Any) -> Any:
        return core.vision_model.vision_adapter.mlp.fc2

    def encode(self, core: Any, inputs: dict[str, Any], modality: str) -> VisualTokens:
        output, x = self.project(core, inputs, modality)
        hidden = getattr(output, "last_hidden_state", output)
        return VisualTokens(core.multi_modal_projector(hidden), x, output=output)

    def shortened_output(self, tokens: VisualTokens, kept: Tensor) -> Any:
        hidden = tokens.output.last_hidden_state.flatten(0, -2)
        return compat.output_like(tokens.output, last_hidden_state=hidden[kept])
