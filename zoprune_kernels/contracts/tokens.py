"""Contracts of merge, merge_varlen, merge_bipartite, budget, compact and frame_change."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import Checker, Shape

MERGE_RULES = ("mean", "sum", "residual")
BUDGET_RULES = ("equal", "proportional", "softmax")


def merge(
    tokens: Tensor,
    keys: Tensor,
    indices: Tensor,
    weights: Tensor | None,
    valid: Tensor | None,
    rule: str,
) -> Shape:
    """Shape of the merged tokens; their sizes have it without the last dimension."""
    check = Checker("merge")
    _tokens(check, tokens)
    _keys(check, keys, tokens)
    lead = list(tokens.shape[:-2])
    check.shape("indices", indices, [*lead, "k"], "kept positions of each image of tokens")
    _indices(check, indices, tokens)
    _weights(check, weights, valid, tokens)
    check.one_of("rule", rule, MERGE_RULES)
    if indices.shape[-1] > tokens.shape[-2]:
        count = f"at most {tokens.shape[-2]} positions (the number of tokens)"
        check.fail("indices", count, indices.shape[-1])
    return [*lead, indices.shape[-1], tokens.shape[-1]]


def merge_varlen(
    tokens: Tensor,
    keys: Tensor,
    indices: Tensor,
    cu_tokens: Tensor,
    cu_keep: Tensor,
    weights: Tensor | None,
    valid: Tensor | None,
    rule: str,
) -> Shape:
    check = Checker("merge_varlen")
    check.shape("tokens", tokens, ["T", "D"], "images one after the other")
    _tokens(check, tokens)
    _keys(check, keys, tokens)
    check.shape("indices", indices, ["k"], "kept positions in the packed array")
    _indices(check, indices, tokens)
    check.segments(cu_tokens, cu_keep, indices.shape[0], tokens, "tokens")
    _weights(check, weights, valid, tokens)
    check.one_of("rule", rule, MERGE_RULES)
    return [indices.shape[0], tokens.shape[-1]]


def merge_bipartite(tokens: Tensor, keys: Tensor, count: int, sizes: Tensor | None) -> Shape:
    check = Checker("merge_bipartite")
    _tokens(check, tokens)
    _keys(check, keys, tokens)
    number = tokens.shape[-2]
    if not 0 <= count <= number // 2:
        check.fail("count", f"0 <= count <= {number // 2} (half the tokens)", count)
    if sizes is not None:
        _per_token(check, "sizes", sizes, tokens)
        check.float_dtype("sizes", sizes)
    return [*tokens.shape[:-2], number - count, tokens.shape[-1]]


def budget(
    weights: Tensor,
    total: int,
    capacity: Tensor | None,
    rule: str,
    temperature: float,
    minimum: int,
) -> Shape:
    check = Checker("budget")
    check.shape("weights", weights, ["B"], "one for each image, crop or frame")
    check.float_dtype("weights", weights)
    check.device("weights", weights, weights, "weights")
    images = weights.shape[0]
    if capacity is not None:
        check.shape("capacity", capacity, [images], "one for each of weights")
        check.dtype("capacity", capacity, torch.int32)
        check.device("capacity", capacity, weights, "weights")
    check.one_of("rule", rule, BUDGET_RULES)
    if not temperature > 0:
        check.fail("temperature", "a number > 0", f"{temperature:g}")
    if minimum < 0:
        check.fail("minimum", "an integer >= 0", minimum)
    if total < minimum * images or total < 0:
        check.fail("total", f"at least {minimum * images} (minimum for each of weights)", total)
    return [images + 1]


def compact(tensors: Sequence[Tensor], indices: Tensor, dims: Sequence[int]) -> list[Shape]:
    check = Checker("compact")
    if indices.dim() not in (1, 2):
        check.fail("indices", "shape [k] or [B, k]", _shape(indices.shape))
    check.dtype("indices", indices, torch.int64)
    check.device("indices", indices, indices, "indices")
    if len(dims) != len(tensors):
        check.fail("dims", f"{len(tensors)} dimensions (one for each tensor)", len(dims))
    shapes = []
    for i, (tensor, dim) in enumerate(zip(tensors, dims, strict=True)):
        name = f"tensors[{i}]"
        check.device(name, tensor, indices, "indices")
        first = indices.dim() - 1
        if not first <= dim < tensor.dim():
            check.fail(f"dims[{i}]", f"{first} <= dim < {tensor.dim()} ({name}'s rank)", dim)
        if indices.dim() == 2 and tensor.shape[dim - 1] != indices.shape[0]:
            batch = f"{indices.shape[0]} images in dimension {dim - 1}"
            check.fail(name, batch, _shape(tensor.shape))
        shapes.append([*tensor.shape[:dim], indices.shape[-1], *tensor.shape[dim + 1 :]])
    return shapes


def frame_change(x: Tensor) -> Shape:
    check = Checker("frame_change")
    if x.dim() not in (3, 4) or min(x.shape) < 1:
        check.fail("x", "shape [T, P, D] or [B, T, P, D]", _shape(x.shape))
    check.float_dtype("x", x)
    check.device("x", x, x, "x")
    return list(x.shape[:-1])


def check_indices(op: str, indices: Tensor, tokens: int) -> None:
    """Kept positions in range and distinct; only on the CPU, where reading them is free."""
    if indices.device.type != "cpu":
        return
    check = Checker(op)
    for row in indices.reshape(-1, indices.shape[-1]):
        if row.numel() and (int(row.min()) < 0 or int(row.max()) >= tokens):
            wrong = int(row.min()) if int(row.min()) < 0 else int(row.max())
            check.fail("indices", f"positions in [0, {tokens})", wrong)
        if op.startswith("merge") and row.unique().numel() < row.numel():
            repeated = int(row.sort().values[:-1][row.sort().values.diff() == 0][0])
            check.fail("indices", "distinct positions", f"{repeated} twice")


def check_capacity(capacity: Tensor | None, total: int, minimum: int) -> None:
    """Capacity for the total; only on the CPU, where reading it is free."""
    if capacity is None or capacity.device.type != "cpu":
        return
    if int(capacity.min()) < minimum:
        least = f"at least {minimum} (minimum) in each"
        Checker("budget").fail("capacity", least, int(capacity.min()))
    if int(capacity.sum()) < total:
        Checker("budget").fail("capacity", f"at least {total} (total) in all", int(capacity.sum()))


def _tokens(check: Checker, tokens: Tensor) -> None:
    if tokens.dim() not in (2, 3) or min(tokens.shape) < 1:
        check.fail("tokens", "shape [N, D] or [B, N, D]", _shape(tokens.shape))
    check.float_dtype("tokens", tokens)
    check.device("tokens", tokens, tokens, "tokens")


def _keys(check: Checker, keys: Tensor, tokens: Tensor) -> None:
    check.keys(keys, tokens.shape[:-1], tokens, "tokens")


def _indices(check: Checker, indices: Tensor, tokens: Tensor) -> None:
    check.dtype("indices", indices, torch.int64)
    check.device("indices", indices, tokens, "tokens")


def _weights(check: Checker, weights: Tensor | None, valid: Tensor | None, tokens: Tensor) -> None:
    if weights is not None:
        _per_token(check, "weights", weights, tokens)
        check.float_dtype("weights", weights)
    check.masks(None, valid, tokens.shape[:-1], tokens, "tokens")


def _per_token(check: Checker, argument: str, tensor: Tensor, tokens: Tensor) -> None:
    check.shape(argument, tensor, tokens.shape[:-1], "one for each token of tokens")
    check.device(argument, tensor, tokens, "tokens")


def _shape(shape: Sequence[int]) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"
