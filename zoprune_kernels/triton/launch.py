"""What every launcher needs: tile shapes, tensor descriptors and padded workspace."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

_ROW_ALIGNMENT = 64  # elements: every BLOCK_K divides it, and it is a multiple of TMA's 16 bytes


class Tile(NamedTuple):
    """One matrix-product tile: m rows by n columns, k deep; warps per program; pipeline stages.

    ``tma``: the tensor memory accelerator of sm_90 and later copies the tiles.
    """

    m: int
    n: int
    k: int
    warps: int
    stages: int
    tma: bool = True


Window: TypeAlias = TensorDescriptor | tuple[Tensor, int, int, int]


def window(matrix: Tensor, rows: int, columns: int, tma: bool) -> Window:
    """What ``numerics.tile`` reads [rows, columns] of: a TMA descriptor, or pointer and extents."""
    if tma:
        return TensorDescriptor.from_tensor(matrix, [rows, columns])
    return matrix, *matrix.shape, matrix.stride(0)


def aligned(matrix: Tensor) -> Tensor:
    """The matrix, or a copy whose rows start at multiples of 16 bytes, as descriptors require."""
    rows_apart = matrix.stride(0) * matrix.element_size()
    if (
        matrix.stride(1) == 1
        and matrix.stride(0) >= matrix.shape[1]
        and rows_apart % 16 == 0
        and matrix.data_ptr() % 16 == 0
    ):
        return matrix
    return padded(matrix, matrix.shape[0], matrix.shape[1], matrix.dtype).copy_(matrix)


def padded(like: Tensor, rows: int, columns: int, dtype: torch.dtype | None) -> Tensor:
    """Uninitialised [rows, columns] on ``like``'s device, each row padded to the alignment."""
    stride = -(-columns // _ROW_ALIGNMENT) * _ROW_ALIGNMENT
    return like.new_empty((rows, stride), dtype=dtype)[:, :columns]
