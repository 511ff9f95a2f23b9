"""Qwen3-VL: as Qwen2-VL, and features of earlier vision layers for the first language layers.

transformers 4 takes no features that were computed before, only embeddings. There the earlier
layers' features travel behind the embedding's own channels, [B, L, (1 + layers) D], through all of
``generate`` up to the language model, where a hook takes them apart.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from .base import VisualTokens, accepts_encoder_outputs
from .qwen2_vl import Qwen2VL


class Qwen3VL(Qwen2VL):
    models = ("Qwen3VLForConditionalGeneration",)

    def hooks(self, model: Any) -> list[RemovableHandle]:
        hooks = super().hooks(model)
        if not accepts_encoder_outputs(model.__class__):
            language_model = model.model.language_model
            hooks.append(language_model.register_forward_pre_hook(unpack, with_kwargs=True))
        return hooks

    def encode(self, model: Any, inputs: dict[str, Any], modality: str) -> VisualTokens:
        tokens = super().encode(model, inputs, modality)
        if not accepts_encoder_outputs(model.__class__):
            tokens.features, _ = tokens.output  # transformers 4: (features, those of deepstack)
        return tokens

    def feed(
        self,
        model: Any,
        input_ids: Tensor,
        tokens: dict[str, VisualTokens],
        kept: dict[str, Tensor],
    ) -> dict[str, Any]:
        inputs = super().feed(model, input_ids, tokens, kept)
        if "inputs_embeds" not in inputs:
            return inputs
        embeds = inputs["inputs_embeds"]  # [B, L', D]
        for layer in range(len(model.model.visual.deepstack_merger_list)):
            deep = torch.zeros_like(inputs["inputs_embeds"])
            for modality, visual in tokens.items():
                slot = input_ids == self.token_id(model, modality)
                deep[slot] = visual.output[1][layer][kept[modality]].to(deep)
            embeds = torch.cat([embeds, deep], dim=-1)
        return {"inputs_embeds": embeds}

    def shortened_output(self, tokens: VisualTokens, kept: Tensor) -> Any:
        counts = [len(features) for features in tokens.only(kept)]
        layers = [torch.cat(list(layer))[kept] for layer in tokens.output.deepstack_features]
        return type(tokens.output)(
            pooler_output=tokens.only(kept),
            deepstack_features=[layer.split(counts) for layer in layers],
        )


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
