"""Going on from a cache that holds a shortened prompt.

The cache carries a note of what it does not hold. ``generate`` is given the conversation in full,
``forward`` what is new; a mask or positions that count the full prompt are shortened.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from . import compat
from .arguments import IGNORED, refuse
from .prompt import Shortening
from .settings import Pruning, pruning_of
from .shortening import shorten_text

_ATTRIBUTE = "_zoprune_turn"


@dataclass(frozen=True)
class Turn:
    """What a cache holds of the conversation so far; valid while it holds that much."""

    short: Shortening  # of the columns [B, L] of the full prompt, L' of which the cache holds
    positions: Tensor | None  # [.., B, L'] of what remains, where they are not 0 to L' - 1
    layout: str  # "compact" or "original", as the model was pruned then

    @classmethod
    def of(
        cls, short: Shortening, shortened: dict[str, Any], layout: str, cache: Any = None
    ) -> Turn:
        """The note on a cache that goes on from ``cache`` with a shortened prompt."""
        positions = shortened.get("position_ids")
        if cache is None or not compat.length_of(cache):
            return cls(short, positions, layout)
        before, length = turn_of(cache), compat.length_of(cache)
        held = Shortening.full(short.keep, length) if before is None else before.at(length).short
        if positions is not None:
            positions = torch.nn.functional.pad(positions, (length, 0))
        return cls(held.followed_by(short), positions, layout)

    @property
    def length(self) -> int:
        """L', how many columns the cache holds at least."""
        return self.short.columns.shape[1]

    def at(self, length: int) -> Turn:
        """The same with all that the cache holds now."""
        if length < self.length:
            expected = f"a cache that holds at least the {self.length} columns of its prompt"
            refuse("cache", expected, f"{length} (was it cropped?)")
        return replace(self, short=self.short.extended(length - self.length))

    def repeated(self, batch: int) -> Turn:
        """The same for several answers to each prompt."""
        rows = self.short.keep.shape[0]
        if batch == rows or batch % rows:
            return self
        positions = self.positions
        if positions is not None:
            positions = positions.repeat_interleave(batch // rows, positions.dim() - 2)
        return replace(self, short=self.short.repeated(batch // rows), positions=positions)


def note(output: Any, turn: Turn) -> None:
    """Note on the caches of an output which columns of the prompt they do not hold."""
    values = output.values() if isinstance(output, dict) else output
    for cache in compat.caches(values if not isinstance(values, Tensor) else ()):
        setattr(cache, _ATTRIBUTE, turn)


def turn_of(cache: Any) -> Turn | None:
    """The note on a cache; one that was emptied since has none."""
    turn = getattr(cache, _ATTRIBUTE, None)
    if turn is not None and compat.length_of(cache) == 0:
        delattr(cache, _ATTRIBUTE)
        return None
    return turn


def take(arguments: dict[str, Any]) -> tuple[Any, Turn | None]:
    """(the cache among the arguments, its note), taken off for as long as ``generate`` runs."""
    for cache in compat.caches(arguments.values()):
        turn = turn_of(cache)
        if turn is not None:
            delattr(cache, _ATTRIBUTE)
            return cache, turn
    return None, None


def laid_out(pruning: Pruning, arguments: dict[str, Any]) -> Pruning:
    """The settings with the positions that the cache among the arguments was begun with."""
    for cache in compat.caches(arguments.values()):
        turn = getattr(cache, _ATTRIBUTE, None)
        if turn is not None and turn.layout != pruning.positions:
            return replace(pruning, positions=turn.layout)
    return pruning


def go_on(core: Any, pruning: Pruning, arguments: dict[str, Any]) -> dict[str, Any] | None:
    """A later ``forward``: mask and positions of the full prompt, shortened; None: unchanged."""
    for cache in compat.caches(arguments.values()):
        if getattr(cache, _ATTRIBUTE, None) is not None:
            return _shorten_history(cache, laid_out(pruning, arguments), arguments)
    return None


@torch.compiler.disable
def _shorten_history(
    cache: Any, pruning: Pruning, arguments: dict[str, Any]
) -> dict[str, Any] | None:
    turn = turn_of(cache)
    ids, embeds = arguments.get("input_ids"), arguments.get("inputs_embeds")
    new = ids if embeds is None else embeds
    if turn is None or new is None:
        return None
    turn = turn.repeated(new.shape[0])
    held = compat.length_of(cache)
    short, count = turn.at(held).short, new.shape[1]
    full, changes = short.keep.shape[1], {}
    mask, given = arguments.get("attention_mask"), arguments.get("position_ids")
    if isinstance(mask, Tensor) and mask.dim() == 2 and held != full:
        if mask.shape[1] == full + count:
            old, own = mask.split([full, count], dim=1)
            changes["attention_mask"] = torch.cat([short.apply(old, 0), own], dim=1)
            if given is not None and pruning.positions == "compact":
                lost = (~short.keep).sum(1, keepdim=True)
                changes["position_ids"] = given - lost
        elif mask.shape[1] != held + count:
            expected = f"{held + count} columns, or {full + count} with those that were dropped"
            refuse("attention_mask", expected, mask.shape[1])
    steps = arguments.get("cache_position")
    if isinstance(steps, Tensor) and held != full and int(steps[0]) == full:
        changes["cache_position"] = steps - full + held
    if given is None and pruning.positions == "original" and not pruning.family.mrope:
        if turn.positions is not None:
            last = turn.positions[:, turn.length - 1 :] + held - turn.length
            steps = torch.arange(1, count + 1, device=last.device)
            changes["position_ids"] = last[:, :1] + steps
    return {**arguments, **changes} if changes else None


def resume(
    model: Any, cache: Any, turn: Turn, inputs: dict[str, Any], has_images: bool
) -> tuple[dict[str, Any], Shortening]:
    """``generate``: the next turn's inputs without what the first one dropped."""
    pruning, ids = pruning_of(model), inputs.get("input_ids")
    assert pruning is not None
    if has_images:
        raise ValueError(
            "zoprune: cache: expected one without a shortened prompt beside images; leave out the "
            "images that the cache holds, or the cache to see new ones"
        )
    if ids is None:
        refuse("input_ids", "the whole conversation beside a cache", None)
    turn = turn.repeated(ids.shape[0])
    batch, length = turn.short.keep.shape
    held = turn.at(compat.length_of(cache)).short.keep.shape[1]
    if ids.shape[0] != batch or ids.shape[1] <= held:
        expected = f"the whole conversation, [{batch}, more than {held}]"
        refuse("input_ids", expected, list(ids.shape))
    multimodal = turn.positions is not None and turn.positions.dim() == 3
    if multimodal and compat.COUNTS_POSITIONS:
        refuse("cache", "None for this model with transformers < 5", "a cache")
    short = turn.short.extended(ids.shape[1] - length)
    for name, filler in (("mm_token_type_ids", 0), ("labels", IGNORED)):
        given = inputs.get(name)
        if given is not None and given.shape[-1] < ids.shape[1]:  # those of the first turn
            more = (0, ids.shape[1] - given.shape[-1])
            inputs = inputs | {name: torch.nn.functional.pad(given, more, value=filler)}
    given, core = turn.positions if multimodal else None, compat.core_of(model)
    if given is None:
        pruning = replace(pruning, positions=turn.layout)
        return shorten_text(core, pruning, inputs, short, 0, True), short
    text = {name: value for name, value in inputs.items() if name != "position_ids"}
    compact = replace(pruning, positions="compact")
    shortened = shorten_text(core, compact, text, short, 0, True)
    steps = torch.arange(1, short.columns.shape[1] - given.shape[-1] + 1, device=ids.device)
    shortened["position_ids"] = torch.cat([given, given[..., -1:] + steps], dim=-1)
    return shortened, short
