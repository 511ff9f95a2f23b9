"""The one table of arguments that are shaped by the prompt's columns, and how each is shortened.

``None`` stays ``None``. An argument that cannot be shortened is refused by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from .prompt import Shortening

IGNORED = -100  # a label that no loss counts


def shorten_arguments(arguments: dict[str, Any], short: Shortening, past: int) -> dict[str, Any]:
    """The arguments with an entry per column, without the dropped columns; the others are left.

    ``past`` counts the columns that a cache holds before the prompt [B, L].
    """
    result = dict(arguments)
    for name, value in arguments.items():
        if value is None or name in ("input_ids", "attention_mask", "position_ids"):
            continue
        if name in TABLE:
            result[name] = TABLE[name](name, value, short, past)
        elif _has_columns(value, short):
            refuse(name, "no further argument with one entry for each token", list(value.shape))
    return result


def refuse(name: str, expected: str, got: Any) -> NoReturn:
    raise ValueError(f"zoprune: {name}: expected {expected}, got {got}")


def _has_columns(value: Any, short: Shortening) -> bool:
    return isinstance(value, Tensor) and value.shape == short.keep.shape and value.numel() > 1


def _filled(padding: int) -> Callable[[str, Any, Shortening, int], Any]:
    """[.., B, L] -> [.., B, L'], with this value as padding."""

    def shorten(name: str, value: Tensor, short: Shortening, past: int) -> Tensor:
        rows, columns = short.keep.shape
        if value.shape[-1] != columns or (value.dim() > 1 and value.shape[-2] not in (1, rows)):
            refuse(name, f"one entry for each token, [{rows}, {columns}]", list(value.shape))
        if value.dim() == 1 or value.shape[-2] != rows:
            value = value.expand(rows, columns)
        return short.apply(value, padding)

    return shorten


def _shifted_labels(name: str, value: Tensor, short: Shortening, past: int) -> Tensor:
    """Labels of the next column: what a kept column is to predict is the next kept one."""
    before = torch.nn.functional.pad(value[:, :-1], (1, 0), value=IGNORED)  # those of the columns
    labels = _filled(IGNORED)(name, before, short, past)
    last = torch.where(short.real[:, -1], value[:, -1], IGNORED)
    return torch.cat([labels[:, 1:], last[:, None]], dim=1)


def _logits_to_keep(name: str, value: Any, short: Shortening, past: int) -> Any:
    """The same rows as of the full prompt: how many at its end, indices, or a mask."""
    rows, length = short.keep.shape
    if isinstance(value, Tensor) and value.dtype == torch.bool:
        if value.shape != short.keep.shape:
            refuse(name, f"a mask [{rows}, {length}]", list(value.shape))
        if bool((value & (short.places < 0)).any()):
            refuse(name, "columns that are kept", "some that pruning drops")
        return short.apply(value, False)
    if not isinstance(value, Tensor) or value.dim() == 0:
        count = int(value)
        if count <= 0 or (count == 1 and not short.changed):
            return value
        indices = torch.arange(max(length - count, 0), length, device=short.keep.device)
        places = _places(name, indices, short, value)
        whole = short.columns.shape[1] - len(indices) + torch.arange(len(indices)).to(places)
        padding = places < 0
        return value if bool((padding | (places == whole)).all()) else _alike(name, places)
    if value.dim() == 1:
        return _alike(name, _places(name, value, short, value.tolist())).to(value)
    return _places(name, value, short, value.tolist()).clamp_min(0)


def _places(name: str, indices: Tensor, short: Shortening, got: Any) -> Tensor:
    """Where columns [n] or [B, n] of the full prompt went in each row, [B, n]; -1 for padding."""
    rows, length = short.keep.shape
    if bool(((indices < -length) | (indices >= length)).any()):
        refuse(name, f"columns of the prompt, below {length}", got)
    indices = torch.where(indices < 0, indices + length, indices).expand(rows, -1)
    if not bool(short.keep.gather(1, indices).all()):
        refuse(name, "columns that are kept", f"{got}, of which pruning drops some")
    return short.places.gather(1, indices)


def _alike(name: str, places: Tensor) -> Tensor:
    """One row of indices, if all rows agree."""
    if not bool((places == places[:1]).all()):
        refuse(name, "columns that go to the same place in every row", "some that do not")
    return places[0].clamp_min(0)


def _offsets(name: str, value: Tensor, short: Shortening, past: int) -> Tensor:
    """Where packed samples begin, [n + 1], counted over the one row that holds them."""
    if short.keep.shape[0] != 1:
        refuse(name, "one row of packed samples", f"{short.keep.shape[0]} rows")
    counts = torch.nn.functional.pad(short.keep[0].long().cumsum(0), (1, 0))
    return counts[value.long()].to(value)


def _longest(name: str, value: Any, short: Shortening, past: int) -> Any:
    return value  # an upper bound; ``shorten_lengths`` makes it exact


def _steps(name: str, value: Tensor, short: Shortening, past: int) -> Tensor:
    """Consecutive columns, [L] -> [L']."""
    return value[: short.columns.shape[1]]


Shorten = Callable[[str, Any, Shortening, int], Any]
TABLE: dict[str, Shorten] = {
    "labels": _filled(IGNORED),
    "shift_labels": _shifted_labels,
    "token_type_ids": _filled(0),
    "mm_token_type_ids": _filled(0),
    "moe_mm_token_type_ids": _filled(0),
    "loss_mask": _filled(0),
    "seq_idx": _filled(0),
    "logits_to_keep": _logits_to_keep,
    "num_logits_to_keep": _logits_to_keep,
    "cache_position": _steps,
    "cu_seq_lens_q": _offsets,
    "cu_seq_lens_k": _offsets,
    "max_length_q": _longest,
    "max_length_k": _longest,
}


def shorten_lengths(arguments: dict[str, Any]) -> None:
    """The longest packed sample, from the offsets that were shortened; in place."""
    for side in ("q", "k"):
        offsets, name = arguments.get(f"cu_seq_lens_{side}"), f"max_length_{side}"
        if offsets is not None and arguments.get(name) is not None:
            longest = int(offsets.diff().max())
            given = arguments[name]
            arguments[name] = given.new_tensor(longest) if isinstance(given, Tensor) else longest


def shorten_mask(mask: Any, short: Shortening, past: int, needed: bool) -> Any:
    """The attention mask: [B, L], [B, past + L], [B, H, L, past + L], or one for each layer kind.

    None stays None unless rows were filled up, or ``needed`` says that positions have gaps.
    """
    if isinstance(mask, dict):
        return {kind: shorten_mask(m, short, past, needed) for kind, m in mask.items()}
    if mask is None:
        if not short.padded and not needed:
            return None
        ones = torch.ones(short.keep.shape[0], past, dtype=torch.long, device=short.keep.device)
        return torch.cat([ones, short.real.long()], dim=1)
    rows, columns = short.keep.shape
    if not isinstance(mask, Tensor) or mask.dim() not in (2, 4) or mask.shape[-1] != past + columns:
        expected = f"[{rows}, {past + columns}] or [{rows}, 1, {columns}, {past + columns}]"
        got = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        refuse("attention_mask", expected, got)
    held, own = mask.split([past, columns], dim=-1)
    if mask.dim() == 2:
        return torch.cat([held, short.apply(own, 0)], dim=1)
    return _square(held, own, short)


def _square(held: Tensor, own: Tensor, short: Shortening) -> Tensor:
    """[B, H, L, past], [B, H, L, L] -> [B, H, L', past + L']; padding sees itself only."""
    refused = False if own.dtype == torch.bool else torch.finfo(own.dtype).min
    allowed = True if own.dtype == torch.bool else 0
    heads = own.shape[1]
    across = short.columns[:, None, None].expand(-1, heads, own.shape[2], -1)
    own = own.expand(len(short.keep), -1, -1, -1).gather(3, across)
    own = own.masked_fill(~short.real[:, None, None], refused)
    both = torch.cat([held.expand(len(short.keep), -1, -1, -1), own], dim=-1)
    down = short.columns[:, None, :, None].expand(-1, heads, -1, both.shape[-1])
    both = both.gather(2, down)
    filler = ~short.real[:, None, :, None]
    past = held.shape[-1]
    itself = torch.eye(own.shape[-1], dtype=torch.bool, device=own.device)
    itself = torch.nn.functional.pad(itself, (past, 0))
    return both.masked_fill(filler & ~itself, refused).masked_fill(filler & itself, allowed)
