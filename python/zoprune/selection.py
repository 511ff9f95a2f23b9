"""Which visual tokens to keep: budgets per image, crop, frame or call on the packed operators."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import zoprune_kernels
from zoprune_kernels.methods import OPTIONS, Selection, SelectOptions, in_python

from .budgets import is_count, tokens_of

STRUCTURE = -1  # the unit of a token that belongs to no image: newlines, always kept
NONFINITE = (
    "zoprune: the scores of {count} of {tokens} visual tokens are NaN or infinite; these are kept "
    "last. Are the model's inputs and weights finite in its dtype?"
)


@dataclass(frozen=True)
class Rule:
    """How tokens are picked: any method of ``zoprune_kernels.score_and_select`` and its options."""

    method: str = SelectOptions.method
    max_similarity: float = SelectOptions.max_similarity
    prompt_seeds: int = 0  # tokens per unit, most similar to the prompt, that are kept first
    options: Mapping[str, Any] = field(default_factory=dict)  # the method's other options

    def __post_init__(self) -> None:
        try:
            unknown = sorted(in_python(self.options).keys() - set(OPTIONS))
        except TypeError as error:
            raise ValueError(str(error)) from None
        if unknown:
            raise ValueError(
                f"zoprune: {unknown[0]}: expected one of the options {', '.join(OPTIONS)}"
            )
        x = torch.ones(2, 1)
        given = {"method": self.method, "max_similarity": self.max_similarity, **self.options}
        try:  # whatever the operators accept
            zoprune_kernels.score_and_select(x, x[:1], None, x[:1], None, 1, **given)
        except (RuntimeError, TypeError, ValueError) as error:
            message = str(error).splitlines()[0].replace("zoprune::score_and_select", "zoprune")
            prefix = "" if message.startswith("zoprune") else "zoprune: method: "
            raise ValueError(prefix + message) from None
        if not is_count(self.prompt_seeds, 0):
            raise ValueError(
                f"zoprune: prompt_seeds: expected a count >= 0, got {self.prompt_seeds!r}"
            )

    def pick(
        self,
        scores: Tensor,
        keys: Tensor,
        count: tuple[Tensor, Tensor, int],
        must_keep: Tensor | None = None,
    ) -> Tensor:
        """Ascending indices [K] into T packed tokens; count is (cu_tokens, cu_keep, total)."""
        chosen = {"method": self.method, "max_similarity": self.max_similarity}
        selection = Selection(chosen | dict(self.options))
        select = getattr(zoprune_kernels, f"{selection.method.operator}_varlen")
        return select(scores, keys, *count, must_keep=must_keep, **selection.arguments)

    @functools.cached_property
    def uses_scores(self) -> bool:
        """Whether other scores lead to other picks; if not, nothing is scored."""
        generator = torch.Generator().manual_seed(0)
        keys = torch.randn(64, 4, generator=generator)
        scores = torch.rand(2, 64, generator=generator)
        count = (_offsets([64], keys.device), _offsets([16], keys.device), 16)
        first, second = (self.pick(s, keys, count) for s in scores)
        return not torch.equal(first, second)


def choose(
    scores: Tensor,
    keys: Tensor,
    units: Tensor,
    keep: int | float,
    rule: Rule,
    relevance: Tensor | None = None,
) -> Tensor:
    """Ascending indices of the tokens to keep.

    scores [T] float32, those that are NaN or infinite rank last; keys [T, D]; units [T] int64 on
    the CPU, the image, crop or frame that a token's budget is taken from (``STRUCTURE``: kept on
    top of every budget); keep is a count per unit, or a ratio in (0, 1] of its tokens; relevance
    [T] is what ``Rule.prompt_seeds`` goes by.
    """
    order = units.argsort(stable=True)
    sizes = units[units != STRUCTURE].unique(return_counts=True)[1].tolist()
    structure = len(units) - sum(sizes)
    counts = [tokens_of(keep, size) for size in sizes]
    device = scores.device
    fixed, order = order[:structure].to(device), order[structure:].to(device)
    scores, keys = scores[order], keys[order]
    scores = scores.masked_fill(~scores.isfinite(), torch.nan)
    keys = keys.float() if keys.dtype == torch.float64 else keys
    picked = rule.pick(
        scores,
        keys,
        (_offsets(sizes, device), _offsets(counts, device), sum(counts)),
        None if relevance is None else _seeds(relevance[order], sizes, counts, rule.prompt_seeds),
    )
    return torch.cat([fixed, order[picked]]).sort().values


def warn_of_nonfinite(scores: Tensor) -> None:
    """One warning if some of a call's scores [T], on the CPU, are NaN or infinite."""
    count = int((~scores.isfinite()).sum())
    if count:
        warnings.warn(NONFINITE.format(count=count, tokens=len(scores)), stacklevel=2)


def _offsets(sizes: list[int], device: torch.device) -> Tensor:
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    return offsets.to(device, torch.int32)


def _seeds(relevance: Tensor, sizes: list[int], counts: list[int], seeds: int) -> Tensor:
    """Flags [T] of each unit's most relevant tokens."""
    flags = torch.zeros_like(relevance, dtype=torch.bool)
    start = 0
    for size, limit in zip(sizes, counts, strict=True):
        best = relevance[start : start + size].topk(min(seeds, limit)).indices
        flags[start + best] = True
        start += size
    return flags
