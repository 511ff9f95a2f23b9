"""Gemma 3: pooled patches, an RMSNorm and one linear layer, held as a bare matrix."""

from typing import Any

from torch import Tensor, nn

from ...projector import Projector
from .base import Family, VisualTokens


class Gemma3(Family):
    models: tuple[str, ...] = ("Gemma3ForConditionalGeneration",)
    inputs = {"image": ("pixel_values",)}  # noqa: RUF012

    def describe(self, *modules: Any) -> Projector:
        (module,) = modules
        weight = module.mm_input_projection_weight  # [d, D]
        channels, width = weight.shape
        linear = nn.Linear(channels, width, bias=False, device="meta")
        linear.weight = nn.Parameter(weight.detach().T, requires_grad=False)  # a view
        return Projector(linear, "identity", None, norm=module.mm_soft_emb_norm)

    def encode(self, core: Any, inputs: dict[str, Any], modality: str) -> VisualTokens:
        tokens = super().encode(core, inputs, modality)
        tokens.x = self.pooled(self.part(core, self.projector), tokens.x)
        return tokens

    def pooled(self, module: Any, x: Tensor) -> Tensor:
        """Patches [R, d] -> one row for each visual token, as the projector averages them."""
        side = module.patches_per_image
        images = x.view(-1, side, side, x.shape[-1]).permute(0, 3, 1, 2)  # [B, d, side, side]
        return module.avg_pool(images).flatten(2).transpose(1, 2).flatten(0, 1)
