"""Qwen3-VL, Compass: as Qwen2-VL, and features of earlier vision layers for language layers.

Before 5.18, transformers takes no features that were computed before, only embeddings. There the
earlier layers' features travel behind the embedding's own channels, [B, L, (1 + layers) D], through
all of ``generate`` up to the language model, where a hook takes them apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import compat
from .base import VisualTokens
from .qwen2_vl import Qwen2VL

if TYPE_CHECKING:
    from ..shortening import Prompt


class Qwen3VL(Qwen2VL):
    models: tuple[str, ...] = (
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLMoeForConditionalGeneration",
        "CohereCompassForConditionalGeneration",
        "Cosmos3OmniForConditionalGeneration",
    )

    def hook(self, core: Any) -> None:
        super().hook(core)
        known = unpack in core.language_model._forward_pre_hooks.values()
        if not compat.FEEDS_FEATURES and not known:
            core.language_model.register_forward_pre_hook(unpack, with_kwargs=True)

    def encode(self, core: Any, inputs: dict[str, Any], modality: str) -> VisualTokens:
        tokens = super().encode(core, inputs, modality)
        if isinstance(tokens.output, tuple) and not hasattr(tokens.output, "pooler_output"):
            tokens.features, _ = tokens.output  # transformers 4: (features, those of deepstack)
        return tokens

    def feed(
        self,
        core: Any,
        prompt: Prompt,
        tokens: dict[str, VisualTokens],
        kept: dict[str, Tensor],
    ) -> dict[str, Any]:
        inputs = super().feed(core, prompt, tokens, kept)
        if "inputs_embeds" not in inputs:
            return inputs
        embeds = inputs["inputs_embeds"]  # [B, L', D]
        for layer in range(len(core.visual.deepstack_merger_list)):
            deep = torch.zeros_like(inputs["inputs_embeds"])
            for modality, visual in tokens.items():
                slot = prompt.ids == self.token_id(core, modality)
                deep[slot] = _deepstack(visual.output)[layer][kept[modality]].to(deep)
            embeds = torch.cat([embeds, deep], dim=-1)
        return {"inputs_embeds": embeds}

    def shortened_output(self, tokens: VisualTokens, kept: Tensor) -> Any:
        counts = [len(features) for features in tokens.only(kept)]
        layers = [torch.cat(list(layer))[kept] for layer in tokens.output.deepstack_features]
        return compat.output_like(
            tokens.output,
            pooler_output=tokens.only(kept),
            deepstack_features=[layer.split(counts) for layer in layers],
        )


def _deepstack(output: Any) -> list[Tensor]:
    """The features of earlier vision layers, [T, D] each, of all images together."""
    layers = getattr(output, "deepstack_features", None)
    layers = output[1] if layers is None else layers
    return [layer if isinstance(layer, Tensor) else torch.cat(list(layer)) for layer in layers]


def unpack(language_model: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
    """Embeddings with features behind them -> embeddings, and the features of every position."""
    embeds = kwargs.get("inputs_embeds")
    width = language_model.config.hidden_size
    if embeds is None or embeds.shape[-1] == width:
        return args, kwargs
    embeds, *layers = embeds.split(width, dim=-1)
    everywhere = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
    deepstack = {
        "visual_pos_masks": everywhere,
        "deepstack_visual_embeds": [layer.flatten(0, 1) for layer in layers],
    }
    return args, kwargs | {"inputs_embeds": embeds} | deepstack
