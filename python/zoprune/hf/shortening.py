"""The inputs of a model call without the visual tokens that are dropped.

All of it is about the inner model, ``model.model``: the outer one has the same arguments and adds
labels and logits. So callers of either are served alike.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import calls, video
from ..selection import STRUCTURE, choose, warn_of_nonfinite
from . import compat, reports
from .arguments import refuse, shorten_arguments, shorten_lengths, shorten_mask
from .families.base import VisualTokens
from .prompt import Shortening, is_packed
from .settings import Pruning

SURROGATE = 1 << 32  # ids of columns that are given as embeddings begin here


@dataclass(frozen=True)
class Prompt:
    """A call's prompt [B, L], given as token ids or as embeddings."""

    ids: Tensor  # of embeddings: equal numbers for equal ones, the placeholders' own for theirs
    embeds: Tensor | None  # [B, L, D]

    @classmethod
    def of(cls, core: Any, pruning: Pruning, inputs: dict[str, Any]) -> Prompt:
        ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
        if embeds is None:
            if ids is None:
                refuse("input_ids", "the prompt beside the images", None)
            return cls(ids, None)
        family = pruning.family
        kinds = embeds.detach().flatten(0, 1).unique(dim=0, return_inverse=True)[1]
        numbers = kinds.view(embeds.shape[:2]) + SURROGATE
        lookup = core.get_input_embeddings()
        for modality in family.inputs:
            token = family.token_id(core, modality)  # None: the model was made without
            if token is not None and token < lookup.weight.shape[0]:
                place = lookup(torch.tensor([token], device=embeds.device)).to(embeds)
                numbers = numbers.masked_fill((embeds == place).all(-1), token)
        return cls(numbers, embeds)

    def embedded(self, core: Any, is_text: Tensor) -> Tensor:
        """Embeddings [B, L, D], where placeholders may lie outside of the vocabulary."""
        if self.embeds is not None:
            return self.embeds
        return core.get_input_embeddings()(self.ids.masked_fill(~is_text, 0))


@torch.compiler.disable
def shorten(
    core: Any, pruning: Pruning, inputs: dict[str, Any], generating: bool = False
) -> tuple[dict[str, Any], Shortening, reports.Report]:
    """The inputs of ``forward`` or ``generate`` without the visual tokens that are dropped."""
    family = pruning.family
    prompt = Prompt.of(core, pruning, inputs)
    keep_columns = torch.ones_like(prompt.ids, dtype=torch.bool)
    fixed = torch.zeros_like(keep_columns)
    visuals, kept, entries = {}, {}, []
    for modality, names in family.inputs.items():
        if inputs.get(names[0]) is None:
            continue
        with compat.loaded(core):
            tokens = family.encode(core, inputs | {"input_ids": prompt.ids}, modality)
        is_slot = prompt.ids == family.token_id(core, modality)
        images = tokens.images
        slots = _slots(is_slot, [len(f) for f in tokens.features], modality)
        if modality == "video" and pruning.video is not None:
            picks, scores = select_video_tokens(core, pruning, tokens)
        else:
            picks, scores = select_tokens(core, pruning, tokens, prompt, slots)
        keep_columns.view(-1)[slots] = False
        keep_columns.view(-1)[slots[picks]] = True
        fixed |= is_slot
        visuals[modality], kept[modality] = tokens, picks
        given = {name: inputs[name] for name in names if name in inputs}
        views = functools.partial(family.views, core.config, given, modality)
        rows = (slots // prompt.ids.shape[1]).cpu()
        scores = scores.cpu()
        newlines = None if tokens.newlines is None else tokens.newlines.cpu()
        entries.append(reports.Visual(modality, images, rows, picks.cpu(), scores, newlines, views))
        warn_of_nonfinite(scores if newlines is None else scores[~newlines])
    past = past_of(inputs, keep_columns, generating)
    mask = inputs.get("attention_mask")
    own = mask[:, past:] if isinstance(mask, Tensor) and mask.dim() == 2 else None
    if isinstance(mask, Tensor) and own is not None and own.shape != keep_columns.shape:
        batch, length = keep_columns.shape
        refuse("attention_mask", f"[{batch}, {past + length}]", list(mask.shape))
    short = Shortening.of(keep_columns, own, fixed)
    report = reports.Report(entries, short)
    calls.remember(core, report)
    shortened = shorten_text(core, pruning, inputs, short, past, generating)
    ids = short.apply(prompt.ids, _padding(core))
    embeds = None if prompt.embeds is None else short.apply_rows(prompt.embeds)
    shortened |= family.feed(core, Prompt(ids, embeds), visuals, kept)
    return shortened, short, report


def shorten_text(
    core: Any,
    pruning: Pruning,
    inputs: dict[str, Any],
    short: Shortening,
    past: int,
    generating: bool,
) -> dict[str, Any]:
    """All inputs but the visual ones; those with an entry for each token are shortened."""
    visual = {name for names in pruning.family.inputs.values() for name in names}
    shortened = {name: value for name, value in inputs.items() if name not in visual}
    shortened = shorten_arguments(shortened, short, past)
    shorten_lengths(shortened)
    if inputs.get("input_ids") is not None:
        shortened["input_ids"] = short.apply(inputs["input_ids"], _padding(core))
    if inputs.get("inputs_embeds") is not None:
        shortened["inputs_embeds"] = short.apply_rows(inputs["inputs_embeds"])
    positions = positions_of(core, pruning, inputs, short, past, generating)
    if positions is not None or "position_ids" in inputs:
        shortened["position_ids"] = positions
    mask = inputs.get("attention_mask")
    if mask is not None or not _is_packed(inputs.get("position_ids")):
        # without a mask, transformers takes gaps in the positions for the ends of packed samples
        gaps = pruning.positions == "original" and positions is not None
        gaps = gaps and not _is_multimodal(positions)
        mask = shorten_mask(mask, short, past, needed=gaps)
    if mask is not None or "attention_mask" in inputs:
        shortened["attention_mask"] = mask
    if positions is not None and inputs.get("position_ids") is None and not generating:
        pruning.family.settle(core, positions, mask)
    return shortened


def _slots(is_slot: Tensor, sizes: Sequence[int], modality: str) -> Tensor:
    """The flat columns [T] of the placeholders [B, L], which must be those of the images' tokens.

    An image lies within one row: rows end where images end.
    """
    ends = is_slot.sum(1).cumsum(0).tolist()
    # the words of transformers, by which trl knows that its max_length cut an image
    mismatch = f". {modality.capitalize()} features and {modality} tokens do not match"
    bounds = [0, *torch.tensor(sizes).cumsum(0).tolist()]
    if ends[-1] != bounds[-1]:
        refuse(
            "input_ids",
            f"{bounds[-1]} {modality} tokens (as many as the {modality}s have)",
            f"{ends[-1]}{mismatch}",
        )
    for row, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        if end not in bounds:
            whole = [b - start for b in bounds if b >= start]
            refuse(
                "input_ids",
                f"{modality} tokens of whole {modality}s in row {row} "
                f"({', '.join(map(str, whole))})",
                f"{end - start}{mismatch}",
            )
    return is_slot.flatten().nonzero()[:, 0]


def select_tokens(
    core: Any, pruning: Pruning, tokens: VisualTokens, prompt: Prompt, slots: Tensor
) -> tuple[Tensor, Tensor]:
    """Ascending indices of the tokens to keep, and every token's score [T] (NaN for newlines)."""
    family, rule = pruning.family, pruning.rule
    scores = _sensitivity(core, pruning, tokens)
    units = tokens.images
    if pruning.per == "call":
        units = torch.zeros_like(units)
    elif pruning.per == family.groups:
        groups = tokens.arranged(tokens.groups).round().long()
        units = units * (int(groups.max()) + 1) + groups
    if tokens.newlines is not None:
        newlines = tokens.newlines
        units = units.masked_fill(newlines.cpu(), STRUCTURE)
        scores = scores.masked_fill(newlines.to(scores.device), torch.nan)
    keys = torch.cat(list(tokens.features)).detach()
    relevance = _relevance(core, pruning, keys, prompt, slots) if rule.prompt_seeds else None
    return choose(scores, keys, units, pruning.budget, rule, relevance), scores


def select_video_tokens(core: Any, pruning: Pruning, tokens: VisualTokens) -> tuple[Tensor, Tensor]:
    """The same by ``pruning.video``; the scores are those that it goes by."""
    features = torch.cat(list(tokens.features)).detach()
    assert pruning.video is not None
    if tokens.frames is None:
        refuse("video", "None for videos of which parts were dropped before", repr(pruning.video))
    every = torch.arange(len(features), device=features.device)
    newlines = torch.zeros_like(every, dtype=torch.bool)
    if tokens.newlines is not None:
        newlines = tokens.newlines.to(features.device)
    own = every[~newlines]
    sizes = [(count, rows * columns) for count, rows, columns in tokens.frames]
    parts = features[own].split([count * area for count, area in sizes])
    videos = [part.unflatten(0, size) for part, size in zip(parts, sizes, strict=True)]
    picks, given = video.choose(
        pruning.video,
        videos,
        pruning.budget,
        pruning.per == "call",
        pruning.rule,
        lambda: _sensitivity(core, pruning, tokens)[own],
    )
    scores = torch.full(every.shape, torch.nan, device=features.device)
    scores[own] = given.float()
    return torch.cat([every[newlines], own[picks]]).sort().values, scores


def _sensitivity(core: Any, pruning: Pruning, tokens: VisualTokens) -> Tensor:
    """The score of every token [T]; ones where the method needs none."""
    if pruning.rule.uses_scores:
        return tokens.arranged(pruning.projector(core).score(tokens.x, pruning.estimator))
    return torch.ones(len(tokens.images), device=tokens.x.device)


def _relevance(core: Any, pruning: Pruning, keys: Tensor, prompt: Prompt, slots: Tensor) -> Tensor:
    """Cosine [T] of each visual token with the mean embedding of its prompt's text."""
    is_text = torch.ones_like(prompt.ids, dtype=torch.bool)
    for modality in pruning.family.inputs:
        is_text &= prompt.ids != pruning.family.token_id(core, modality)
    embeds = prompt.embedded(core, is_text).float()  # [B, L, D]
    mean = (embeds * is_text[..., None]).sum(1) / is_text.sum(1, keepdim=True)
    rows = slots // prompt.ids.shape[1]
    return torch.cosine_similarity(keys.float(), mean[rows], dim=-1)


def past_of(inputs: dict[str, Any], prompt: Tensor, generating: bool) -> int:
    """How many columns a cache holds before a prompt [B, L] that does not repeat them."""
    mask = inputs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.dim() == 2:
        return max(mask.shape[1] - prompt.shape[1], 0)
    if generating:  # the whole conversation
        return 0
    return max(map(compat.length_of, compat.caches(inputs.values())), default=0)


def positions_of(
    core: Any,
    pruning: Pruning,
    inputs: dict[str, Any],
    short: Shortening,
    past: int,
    generating: bool = False,
) -> Tensor | None:
    """Positions of the shortened prompt; None where the model's own default is right."""
    given = inputs.get("position_ids")
    compact = pruning.positions == "compact"
    if given is None and (compact or (not short.changed and not pruning.family.mrope)):
        return None
    rows = short.keep.shape[0]
    if given is None and inputs.get("input_ids") is not None:
        given = pruning.family.positions(core, inputs, generating)
    if given is None:
        given = default_positions(inputs.get("attention_mask"), short, past, generating)
    elif given.dim() == 1 or given.shape[-2] != rows:
        given = given.expand(*given.shape[:-2], rows, -1)
    if compact:
        return short.compact(given)
    if inputs.get("attention_mask") is None and _is_packed(inputs.get("position_ids")):
        if given.dim() == 3:  # the first of [4, B, L] only tells where samples begin
            return torch.cat([short.compact(given[0])[None], short.apply(given[1:], 0)])
        if not short.changed:
            return short.apply(given, 0)
        refuse("positions", "'compact' with packed samples and no attention_mask", "'original'")
    return short.apply(given, 0)


def default_positions(mask: Any, short: Shortening, past: int, generating: bool) -> Tensor:
    """The positions [B, L] that transformers gives a prompt: ``generate`` skips padding."""
    if generating and isinstance(mask, Tensor) and mask.dim() == 2:
        return (mask.long().cumsum(-1) - 1).clamp_min(0)[:, past:]
    columns = torch.arange(past, past + short.keep.shape[1], device=short.keep.device)
    return columns.expand(short.keep.shape)


def _is_packed(given: Tensor | None) -> bool:
    return given is not None and not _is_multimodal(given) and is_packed(given)


def _is_multimodal(positions: Any) -> bool:
    """[3, B, L], by which transformers does not look for packed samples, unlike [4, B, L]."""
    return positions.dim() == 3 and positions.shape[0] == 3


def _padding(core: Any) -> int:
    return core.config.get_text_config().pad_token_id or 0
