"""LLaVA-1.5, and Pixtral in the same form, whose rows of tokens end in break tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm.model_executor.models.llava import LlavaForConditionalGeneration

from ..layout import Layers, Layout
from ..model import PrunedModel, pruned
from ..picking import Tokens
from .rows import break_token, breaks_as_placeholders, count_breaks, with_breaks

MLP = Layers(
    "linear_1", "linear_2", activation=lambda config: config.projector_hidden_act or "gelu"
)


def is_pixtral(config: Any) -> bool:
    return config.vision_config.model_type == "pixtral"


def _structure(info: Any, images: Any, index: int) -> int:
    if not is_pixtral(info.get_hf_config()):
        return 0
    from vllm.model_executor.models.pixtral import PixtralHFEncoderInfo

    return count_breaks(PixtralHFEncoderInfo(info.get_hf_config()), images, index)


def _placeholders(info: Any, details: Any) -> Any:
    if not is_pixtral(info.get_hf_config()):
        return details
    return breaks_as_placeholders(info, details)


def _fields(info: Any) -> Mapping[str, int]:
    return break_token(info) if is_pixtral(info.get_hf_config()) else {}


@pruned(
    Layout(
        "multi_modal_projector",
        MLP,
        structure=_structure,
        placeholders=_placeholders,
        fields=_fields,
    )
)
class Llava(PrunedModel, LlavaForConditionalGeneration):
    def tokens(self, item: Any, index: int, kwargs: dict[str, Any]) -> Tokens:
        tokens = super().tokens(item, index, kwargs)
        if not is_pixtral(self.config):
            return tokens
        return with_breaks(self, tokens, self.config.vision_config.patch_size, index, kwargs)
