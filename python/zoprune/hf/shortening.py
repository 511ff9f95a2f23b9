"""The inputs of a model call without the visual tokens that are dropped."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from ..selection import STRUCTURE, choose
from . import reports
from .families.base import VisualTokens
from .prompt import Shortening, default_positions
from .settings import Pruning

PER_TOKEN = ("token_type_ids", "mm_token_type_ids")  # further inputs with one entry for each token


@torch.compiler.disable
def shorten(model: Any, inputs: dict[str, Any]) -> tuple[dict[str, Any], Tensor]:
    """The inputs of ``forward`` or ``generate`` without the visual tokens that are dropped.

    Also returns which columns [B, L] of the prompt were kept.
    """
    pruning: Pruning = model._zoprune
    family, ids = pruning.family, inputs.get("input_ids")
    if ids is None:
        raise ValueError("zoprune: input_ids: expected the prompt beside the images, got None")
    keep_columns = torch.ones_like(ids, dtype=torch.bool)
    visuals, kept, entries = {}, {}, []
    for modality, names in family.inputs.items():
        if inputs.get(names[0]) is None:
            continue
        tokens = family.encode(model, inputs, modality)
        slots = (ids == family.token_id(model, modality)).flatten().nonzero()[:, 0]  # [T]
        images = tokens.images
        if len(slots) != len(images):
            raise ValueError(
                f"zoprune: input_ids: expected {len(images)} {modality} tokens (as many as the "
                f"{modality}s have), got {len(slots)}"
            )
        picks, scores = select_tokens(model, tokens, ids, slots)
        keep_columns.view(-1)[slots] = False
        keep_columns.view(-1)[slots[picks]] = True
        visuals[modality], kept[modality] = tokens, picks
        given = {name: inputs[name] for name in names if name in inputs}
        views = functools.partial(family.views, model.config, given, modality)
        entries.append(reports.Visual(modality, images, picks.cpu(), scores.cpu(), views))
    reports.remember(model, entries)

    short = Shortening.of(keep_columns, inputs.get("attention_mask"))
    shortened = shorten_text(model, inputs, short)
    shortened["position_ids"] = positions_of(model, inputs, short)
    shortened |= family.feed(model, shortened["input_ids"], visuals, kept)
    return shortened, keep_columns


def shorten_text(model: Any, inputs: dict[str, Any], short: Shortening) -> dict[str, Any]:
    """All inputs but the visual ones; those with an entry for each token are shortened."""
    visual = {name for names in model._zoprune.family.inputs.values() for name in names}
    shortened = {name: value for name, value in inputs.items() if name not in visual}
    shortened["input_ids"] = short.apply(inputs["input_ids"], _padding(model))
    shortened["attention_mask"] = short.attention_mask
    for name in PER_TOKEN:
        if inputs.get(name) is not None:
            shortened[name] = short.apply(inputs[name], 0)
    if inputs.get("labels") is not None:
        shortened["labels"] = short.apply(inputs["labels"], -100)
    return shortened


def select_tokens(
    model: Any, tokens: VisualTokens, ids: Tensor, slots: Tensor
) -> tuple[Tensor, Tensor]:
    """Ascending indices of the tokens to keep, and every token's score [T] (NaN for newlines)."""
    pruning: Pruning = model._zoprune
    scores = tokens.arranged(pruning.projector.score(tokens.x, pruning.estimator))
    units = tokens.images
    if pruning.per == pruning.family.groups:
        groups = tokens.arranged(tokens.groups).nan_to_num(0).round().long()
        units = units * (int(groups.max()) + 1) + groups
    units = units.masked_fill(scores.isnan().cpu(), STRUCTURE)
    keys = torch.cat(list(tokens.features)).detach()
    relevance = _relevance(model, keys, ids, slots) if pruning.rule.prompt_seeds else None
    return choose(scores, keys, units, pruning.budget, pruning.rule, relevance), scores


def _relevance(model: Any, keys: Tensor, ids: Tensor, slots: Tensor) -> Tensor:
    """Cosine [T] of each visual token with the mean embedding of its prompt's text."""
    is_text = torch.ones_like(ids, dtype=torch.bool)
    for modality in model._zoprune.family.inputs:
        is_text &= ids != model._zoprune.family.token_id(model, modality)
    embeds = model.get_input_embeddings()(ids.masked_fill(~is_text, 0)).float()  # [B, L, D]
    mean = (embeds * is_text[..., None]).sum(1) / is_text.sum(1, keepdim=True)
    rows = slots // ids.shape[1]
    return torch.cosine_similarity(keys.float(), mean[rows], dim=-1)


def positions_of(model: Any, inputs: dict[str, Any], short: Shortening) -> Tensor | None:
    """Positions of the shortened prompt; None where the model's own default is right."""
    pruning: Pruning = model._zoprune
    given = inputs.get("position_ids")
    if given is None and pruning.positions == "compact":
        return None
    if given is None:
        given = pruning.family.positions(model, inputs)
    if given is None:
        given = default_positions(inputs["input_ids"], inputs.get("attention_mask"))
    return short.compact(given) if pruning.positions == "compact" else short.apply(given, 0)


def _padding(model: Any) -> int:
    return model.config.get_text_config().pad_token_id or 0
