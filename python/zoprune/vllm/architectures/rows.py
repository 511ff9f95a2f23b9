"""Pixtral and Mistral 3: each row of an image's tokens ends in a break token, the last in an end.

In vLLM's prompt the breaks are text, which tokens they stand between is known before the image is.
Not so with pruning: then they are placeholders too, and the encoder returns their embeddings among
the kept tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from vllm.multimodal.processing import PromptUpdateDetails

from ..picking import Tokens

BREAK = "zoprune_break"  # the id of the break token


def count_breaks(encoder_info: Any, images: Any, index: int) -> int:
    size = images.get_image_size(index)
    _, rows = encoder_info.get_patch_grid_size(image_width=size.width, image_height=size.height)
    return rows - 1


def breaks_as_placeholders(info: Any, details: Any) -> Any:
    image = info.get_hf_config().image_token_index
    *tokens, end = details.full
    return PromptUpdateDetails.select_token_id([image] * len(tokens) + [end], image)


def break_token(info: Any) -> Mapping[str, int]:
    processor = info.get_hf_processor()
    return {BREAK: info.get_tokenizer().get_vocab()[processor.image_break_token]}


def with_breaks(
    model: Any, tokens: Tokens, side: int, index: int, kwargs: dict[str, Any]
) -> Tokens:
    """The tokens of an image [rows columns, D], a break behind each row but the last."""
    height, width = kwargs["pixel_values"][index].shape[-2:]
    rows, columns = height // side, width // side
    device = tokens.features.device
    ids = torch.tensor([int(kwargs[BREAK].flatten()[index])], device=device)
    newline = model.get_language_model().embed_input_ids(ids).to(tokens.features)  # [1, D]
    features = tokens.features.view(rows, columns, -1)
    features = torch.cat([features, newline.expand(rows, 1, -1)], dim=1).flatten(0, 1)[:-1]
    structure = torch.zeros(rows, columns + 1, dtype=torch.bool)
    structure[:, -1] = True
    scores = _behind(tokens.scores.view(rows, columns)).flatten()[:-1]
    return Tokens(features, scores, tokens.units, structure.flatten()[:-1])


def _behind(scores: Tensor) -> Tensor:
    return torch.nn.functional.pad(scores, (0, 1))
