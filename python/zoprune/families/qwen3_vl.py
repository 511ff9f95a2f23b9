"""Qwen3-VL: as Qwen2-VL, and features of earlier vision layers for the first language layers."""

from typing import Any

import torch
from torch import Tensor

from .base import VisualTokens
from .qwen2_vl import Qwen2VL


class Qwen3VL(Qwen2VL):
    models = ("Qwen3VLForConditionalGeneration",)
    needs_encoder_outputs = True

    def shortened_output(self, tokens: VisualTokens, kept: Tensor) -> Any:
        counts = [len(features) for features in tokens.only(kept)]
        layers = [torch.cat(list(layer))[kept] for layer in tokens.output.deepstack_features]
        return type(tokens.output)(
            pooler_output=tokens.only(kept),
            deepstack_features=[layer.split(counts) for layer in layers],
        )
