"""SwiftVLM (arXiv 2602.03134): tokens pruned at one layer may return at a later one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

import zoprune_kernels
from zoprune_kernels.reference.merge import first_argmax

from .common import check_count, check_tensors, cosine, fail, flags_at, indices_of


class Bypass(NamedTuple):
    """What waits for the next pruning layer; [...] is the batch or nothing."""

    hidden: Tensor  # [..., N, D] all visual tokens at the layer that pruned
    kept: Tensor  # [..., k] indices that went on, ascending
    centres: Tensor  # [..., g] index of each group's centre, ascending
    group: Tensor  # [..., N] the group of each token that did not
    merged: Tensor  # [..., g, D] the groups' means, which went on in their place


def prune_and_merge(
    hidden_states: Tensor, attention: Tensor, k: int, num_groups: int
) -> tuple[Tensor, Bypass]:
    """Keep the k tokens of the highest attention and the means of the others, in groups.

    Group centres are spaced evenly over the tokens that are not kept; each of these joins the
    centre of the highest cosine.

    Args:
        hidden_states: [N, D] or [B, N, D], the visual tokens; float32, float16 or bfloat16.
        attention: [N] or [B, N], from the last text token, averaged over heads.
        k: how many tokens each image keeps.
        num_groups: g, from 1 to N - k.

    Returns:
        (hidden states [..., k + g, D] for the next layers: the kept tokens, at indices
        ``bypass.kept``, then the means, at ``bypass.centres``; the bypass for :func:`readd`).

    Raises:
        ValueError: an argument that the above does not allow, named.
    """
    name = "prune_and_merge"
    tokens = check_tensors(
        name, hidden_states=(hidden_states, "... N D"), attention=(attention, "... N")
    )["N"]
    check_count(name, "k", k, tokens - 1, "tokens less one to merge")
    check_count(name, "num_groups", num_groups, tokens - k, "tokens that are not kept")
    kept = zoprune_kernels.select(attention, None, k, method="topk")
    dropped = ~flags_at(kept, tokens)
    order = torch.arange(num_groups, device=kept.device)
    centres = indices_of(dropped, tokens - k)[..., order * (tokens - k) // num_groups]
    centre_states = hidden_states.take_along_dim(centres[..., None], dim=-2)
    group = first_argmax(cosine(hidden_states, centre_states))  # [..., N]
    group = group.scatter(-1, centres, order.expand_as(centres))
    # As keys, the groups themselves: merging and re-adding cannot disagree about a close one.
    keys = F.one_hot(group, num_groups).to(hidden_states.dtype)
    merged, _ = zoprune_kernels.merge(hidden_states, keys, centres, valid=dropped)
    going_on = hidden_states.take_along_dim(kept[..., None], dim=-2)
    bypass = Bypass(hidden_states, kept, centres, group, merged)
    return torch.cat([going_on, merged], dim=-2), bypass


def readd(hidden_states: Tensor, bypass: Bypass) -> Tensor:
    """All visual tokens at a later layer, to be scored and pruned anew.

    A token that was bypassed moves as its group's mean has moved: h_i + (m_now - m_then). A kept
    one is what the layers made of it.

    Args:
        hidden_states: [..., k + g, D], what the layers made of :func:`prune_and_merge`'s states.
        bypass: what that function returned.

    Returns:
        [..., N, D] in the tokens' order and hidden_states' dtype.

    Raises:
        ValueError: an argument that the above does not allow, named.
    """
    k, groups = bypass.kept.shape[-1], bypass.centres.shape[-1]
    check_tensors("readd", hidden_states=(hidden_states, "... S D"))
    expected = [*bypass.hidden.shape[:-2], k + groups, bypass.hidden.shape[-1]]
    if list(hidden_states.shape) != expected:
        fail("readd", "hidden_states", f"shape {expected}", list(hidden_states.shape))
    kept, merged = hidden_states.split([k, groups], dim=-2)
    moved = merged.float() - bypass.merged.float()  # [..., g, D]
    aligned = bypass.hidden.float() + moved.take_along_dim(bypass.group[..., None], dim=-2)
    where = bypass.kept[..., None].expand_as(kept)
    return aligned.to(hidden_states.dtype).scatter(-2, where, kept)
