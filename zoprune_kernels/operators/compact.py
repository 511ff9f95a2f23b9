"""One gather for all that a sequence carries: compact."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..checks import Call, Output, shape_text
from ._register import operator


def _checks(call: Call) -> list[Output]:
    check, tensors, indices, dims = call.check, call.tensors, call.indices, call.dims
    if indices.dim() not in (1, 2):
        check.fail("indices", "shape [k] or [B, k]", shape_text(indices.shape))
    check.dtype("indices", indices, torch.int64)
    check.device("indices", indices, indices, "indices")
    if len(dims) != len(tensors):
        check.fail("dims", f"{len(tensors)} dimensions (one for each tensor)", len(dims))
    outputs = []
    for i, (tensor, dim) in enumerate(zip(tensors, dims, strict=True)):
        name = f"tensors[{i}]"
        check.device(name, tensor, indices, "indices")
        first = indices.dim() - 1
        if not first <= dim < tensor.dim():
            check.fail(f"dims[{i}]", f"{first} <= dim < {tensor.dim()} ({name}'s rank)", dim)
        if indices.dim() == 2 and tensor.shape[dim - 1] != indices.shape[0]:
            batch = f"{indices.shape[0]} images in dimension {dim - 1}"
            check.fail(name, batch, shape_text(tensor.shape))
        shape = [*tensor.shape[:dim], indices.shape[-1], *tensor.shape[dim + 1 :]]
        outputs.append(Output(shape, tensor.dtype, tensor.device))
    return outputs


def _values(call: Call) -> None:
    for tensor, dim in zip(call.tensors, call.dims, strict=True):
        call.check_indices(call.indices, tensor.shape[dim])


@operator(_checks, values=_values)
def compact(tensors: list[Tensor], indices: Tensor, dims: list[int]) -> list[Tensor]:
    """Keep the same tokens in everything a sequence carries, in one call.

    Args:
        tensors: of any dtype and rank: embeddings [B, N, D], ids and masks [B, N], three-row
            position ids [3, B, N], DeepStack features [N, D], ...
        indices: int64 [k] or [B, k] of the tokens to keep.
        dims: the tokens' dimension of each tensor. With [B, k] the dimension before it must be
            the batch.

    Returns:
        The tensors with k tokens each.

    Example:
        >>> ids, embeddings = torch.tensor([[5, 6, 7]]), torch.zeros(1, 3, 16)
        >>> ids, embeddings = zoprune_kernels.compact(
        ...     [ids, embeddings], torch.tensor([0, 2]), [1, 1]
        ... )
        >>> ids, embeddings.shape
        (tensor([[5, 7]]), torch.Size([1, 2, 16]))
    """
    return reference.compact(tensors, indices, dims)
