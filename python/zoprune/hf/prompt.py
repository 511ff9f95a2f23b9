"""Shortening a prompt: every tensor that has one entry per token loses the same entries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shortening:
    """Which columns of a prompt [B, L] remain, and where: rows are padded to one length L'."""

    columns: Tensor  # [B, L'] int64, the original column of each position
    real: Tensor  # [B, L'] bool, False for padding

    @classmethod
    def of(cls, keep: Tensor, attention_mask: Tensor | None) -> Shortening:
        """Keep the flagged columns of [B, L] that are not padding, padded on the side they were.

        Without padding to go by, rows of different lengths are padded on the left, as generation
        needs.
        """
        if attention_mask is not None:
            keep = keep & attention_mask.bool()
            right = bool((~attention_mask[:, -1].bool() & attention_mask[:, 0].bool()).any())
        else:
            right = False
        lengths = keep.sum(1, keepdim=True)
        longest = int(lengths.max())
        position = torch.arange(longest, device=keep.device)
        if right:
            columns = (~keep).int().argsort(dim=1, stable=True)[:, :longest]
            return cls(columns, position < lengths)
        columns = keep.int().argsort(dim=1, stable=True)[:, -longest:]
        return cls(columns, position >= longest - lengths)

    def apply(self, tensor: Tensor, padding: int) -> Tensor:
        """Gather the last dimension: [B, L] or [R, B, L] -> the same with L'."""
        columns = self.columns.expand(*tensor.shape[:-1], -1)
        return tensor.gather(-1, columns).masked_fill(~self.real, padding)

    @property
    def attention_mask(self) -> Tensor:
        return self.real.long()

    def compact(self, position_ids: Tensor) -> Tensor:
        """Positions without gaps: each token moves back by the number removed before it."""
        removed = self.columns - torch.arange(self.columns.shape[1], device=self.columns.device)
        first = self.real.int().argmax(1, keepdim=True)  # left padding is no removal
        removed = removed - removed.gather(1, first)
        return self.apply(position_ids, 0).sub(removed).masked_fill(~self.real, 0)


def default_positions(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The positions [B, L] that transformers gives a prompt: padding is not counted."""
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    return (attention_mask.long().cumsum(-1) - 1).clamp_min(0)
