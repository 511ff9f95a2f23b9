"""One gather for all that a sequence carries: embeddings, ids, masks, positions."""

from __future__ import annotations

from torch import Tensor


def compact(tensors: list[Tensor], indices: Tensor, dims: list[int]) -> list[Tensor]:
    """Keep the tokens at ``indices`` [k] or [B, k] along dimension dims[i] of tensor i.

    With [B, k] the dimension before the tokens' is the batch.
    """
    return [_gather(tensor, indices, dim) for tensor, dim in zip(tensors, dims, strict=True)]


def _gather(tensor: Tensor, indices: Tensor, dim: int) -> Tensor:
    if indices.dim() == 1:
        return tensor.index_select(dim, indices)
    shape = [1] * tensor.dim()
    shape[dim - 1], shape[dim] = indices.shape
    return tensor.take_along_dim(indices.view(shape), dim)
