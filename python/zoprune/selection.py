"""Which visual tokens to keep: budgets per image, crop or frame on top of the packed operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import zoprune_kernels
from zoprune_kernels.checks import Checker
from zoprune_kernels.methods import OPTIONS, Selection, SelectOptions, in_python

STRUCTURE = -1  # the unit of a token that belongs to no image: newlines, always kept


@dataclass(frozen=True)
class Rule:
    """How tokens are picked: any method of ``zoprune_kernels.score_and_select`` and its options."""

    method: str = SelectOptions.method
    max_similarity: float = SelectOptions.max_similarity
    prompt_seeds: int = 0  # tokens per unit, most similar to the prompt, that are kept first
    options: Mapping[str, Any] = field(default_factory=dict)  # the method's other options

    def __post_init__(self) -> None:
        unknown = sorted(in_python(self.options).keys() - set(OPTIONS))
        if unknown:
            raise ValueError(
                f"zoprune: {unknown[0]}: expected one of the options {', '.join(OPTIONS)}"
            )
        try:
            self.selection.check(Checker("prune").fail)
        except RuntimeError as error:
            raise ValueError(str(error).replace("zoprune::prune", "zoprune")) from None
        if self.prompt_seeds < 0:
            raise ValueError(
                f"zoprune: prompt_seeds: expected a count >= 0, got {self.prompt_seeds}"
            )

    @property
    def selection(self) -> Selection:
        chosen = {"method": self.method, "max_similarity": self.max_similarity}
        return Selection(chosen | dict(self.options))


def choose(
    scores: Tensor,
    keys: Tensor,
    units: Tensor,
    keep: int | float,
    rule: Rule,
    relevance: Tensor | None = None,
) -> Tensor:
    """Ascending indices of the tokens to keep.

    scores [T] float32; keys [T, D]; units [T] int64 on the CPU, the image, crop or frame that a
    token's budget is taken from (``STRUCTURE``: kept on top of every budget); keep is a count per
    unit, or a ratio in (0, 1] of its tokens; relevance [T] is what ``Rule.prompt_seeds`` goes by.
    """
    order = units.argsort(stable=True)
    sizes = units[units != STRUCTURE].unique(return_counts=True)[1].tolist()
    structure = len(units) - sum(sizes)
    budgets = [budget(keep, size) for size in sizes]
    device = scores.device
    fixed, order = order[:structure].to(device), order[structure:].to(device)
    scores, keys = scores[order], keys[order]
    seeds = None
    if relevance is not None:
        seeds = _seeds(relevance[order], sizes, budgets, rule.prompt_seeds)
    selection = rule.selection
    select = getattr(zoprune_kernels, f"{selection.method.operator}_varlen")
    packing = (_offsets(sizes, device), _offsets(budgets, device), sum(budgets))
    picked = select(scores, keys, *packing, must_keep=seeds, **selection.arguments)
    return torch.cat([fixed, order[picked]]).sort().values


def budget(keep: int | float, tokens: int) -> int:
    """How many of a unit's tokens stay: a count, or a ratio of them; at least one."""
    count = keep if isinstance(keep, int) else round(keep * tokens)
    return min(max(count, 1), tokens)


def check_keep(keep: int | float) -> None:
    count = isinstance(keep, int) and not isinstance(keep, bool) and keep >= 1
    ratio = isinstance(keep, float) and 0 < keep <= 1
    if not count and not ratio:
        raise ValueError(
            f"zoprune: keep: expected a count >= 1 or a ratio in (0, 1] as a float, got {keep!r}"
        )


def _offsets(sizes: list[int], device: torch.device) -> Tensor:
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    return offsets.to(device, torch.int32)


def _seeds(relevance: Tensor, sizes: list[int], budgets: list[int], seeds: int) -> Tensor:
    """Flags [T] of each unit's most relevant tokens."""
    flags = torch.zeros_like(relevance, dtype=torch.bool)
    start = 0
    for size, limit in zip(sizes, budgets, strict=True):
        best = relevance[start : start + size].topk(min(seeds, limit)).indices
        flags[start + best] = True
        start += size
    return flags
