"""Going on from a cache that holds a shortened prompt: the next turn is given in full."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .families.base import accepts_encoder_outputs
from .prompt import Shortening
from .settings import pruning_of
from .shortening import positions_of, shorten_text

_ATTRIBUTE = "_zoprune_turn"


@dataclass(frozen=True)
class Turn:
    """What a cache holds of the conversation so far."""

    kept: Tensor  # [B, L] bool, the columns of the full prompt that remain
    positions: Tensor | None  # [3, B, L'] multimodal rotary positions of what remains


def remember(cache: Any, kept: Tensor, arguments: dict[str, Any]) -> None:
    """Note on a cache which columns of the prompt it does not hold."""
    positions = arguments.get("position_ids")
    multimodal = positions is not None and positions.dim() == 3
    setattr(cache, _ATTRIBUTE, Turn(kept, positions if multimodal else None))


def turn_of(arguments: dict[str, Any]) -> Turn | None:
    """The turn that the given cache holds, if its prompt was shortened."""
    return getattr(arguments.get("past_key_values"), _ATTRIBUTE, None)


def resume(
    model: Any, turn: Turn, inputs: dict[str, Any], has_images: bool
) -> tuple[dict[str, Any], Tensor]:
    """The next turn's inputs without what the first one dropped, and the columns [B, L] kept."""
    ids = inputs["input_ids"]
    batch, length = turn.kept.shape
    if has_images:
        raise ValueError(
            "zoprune: past_key_values: expected a cache without a shortened prompt beside images; "
            "leave out the images that the cache holds, or the cache to see new ones"
        )
    if ids.shape[0] != batch or ids.shape[1] <= length:
        raise ValueError(
            f"zoprune: input_ids: expected the whole conversation, [{batch}, more than {length}], "
            f"got {list(ids.shape)}"
        )
    if turn.positions is not None and not accepts_encoder_outputs(model.__class__.__base__):
        raise ValueError(
            "zoprune: past_key_values: expected None for this model with transformers < 5, "
            "got a cache"
        )
    kept = torch.nn.functional.pad(turn.kept, (0, ids.shape[1] - length), value=True)
    short = Shortening.of(kept, inputs.get("attention_mask"))
    shortened = shorten_text(model, inputs, short)
    pruning = pruning_of(model)
    if turn.positions is not None:
        new = shortened["input_ids"].shape[1] - turn.positions.shape[-1]
        steps = torch.arange(1, new + 1, device=ids.device)
        last = turn.positions[..., -1:]
        shortened["position_ids"] = torch.cat([turn.positions, last + steps], dim=-1)
    elif pruning is not None:
        shortened["position_ids"] = positions_of(model, inputs, short)
    return shortened, kept
