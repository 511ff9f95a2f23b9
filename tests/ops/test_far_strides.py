"""Tensors whose rows lie more than 2^31 elements apart, as in a slice of many features."""

import mmap

import pytest
import torch
from torch.utils import _pytree as tree

from zoprune_kernels import testing
from zoprune_kernels.namespace import operator

STRIDE = 2**31 + 24
NO_RESERVE = 0x4000  # mmap.MAP_NORESERVE of Python 3.13


def far_apart(tensor, dim):
    """The same values in memory of which only the pages that hold them exist."""
    strides = [0] * tensor.dim()
    within = 1
    for other in reversed(range(tensor.dim())):
        if other != dim:
            strides[other], within = within, within * tensor.shape[other]
    strides[dim] = STRIDE
    size = (tensor.shape[dim] - 1) * STRIDE + within
    memory = mmap.mmap(-1, size * tensor.itemsize, mmap.MAP_PRIVATE | NO_RESERVE)
    whole = torch.frombuffer(memory, dtype=tensor.dtype)
    return whole.as_strided(tensor.shape, strides).copy_(tensor)


@pytest.mark.parametrize("op", sorted(testing.operator_calls()))
def test_strides_beyond_32_bits(op):
    (call,) = testing.calls(torch.bfloat16, only=[op])
    leaves, spec = tree.tree_flatten(call.arguments)
    for i, leaf in enumerate(leaves):
        sizes = leaf.shape if isinstance(leaf, torch.Tensor) else ()
        for dim in (dim for dim, size in enumerate(sizes) if size > 1):
            moved = far_apart(leaf, dim)
            arguments = tree.tree_unflatten([*leaves[:i], moved, *leaves[i + 1 :]], spec)
            for run in (operator(op), getattr(testing.fallback, op)):
                checks = testing.certify(op, call.arguments, run(**arguments))
                assert all(check.passed for check in checks), (i, dim, *map(str, checks))
