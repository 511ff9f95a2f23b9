"""Every operator on a GPU: against the CPU, under opcheck, in CUDA graphs and compiled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils import _pytree as tree

from zoprune_kernels.testing import DTYPES, operator_calls

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

OPERATORS = sorted(operator_calls(torch.float32))
# With kernels of their own; the others run as their PyTorch reference, which may synchronise.
CAPTURED = (
    "sensitivity",
    "expected_sensitivity",
    "fold_metric",
    "select",
    "select_varlen",
    "score_and_select",
    "project_and_select",
)
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}


def to_gpu(value: Any) -> Any:
    return tree.tree_map_only(torch.Tensor, lambda tensor: tensor.cuda(), value)


def call(op: str, dtype: torch.dtype):
    """The operator and one good call's arguments, on the CPU and on the GPU."""
    arguments, options = operator_calls(dtype)[op]
    gpu_options = to_gpu(options) | ({"device": "cuda"} if op == "directions" else {})
    return (
        getattr(torch.ops.zoprune, op).default,
        (arguments, options),
        (to_gpu(arguments), gpu_options),
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPERATORS)
def test_the_gpu_agrees_with_the_cpu(op, dtype):
    """Floating-point outputs to their dtype's rounding; picks up to near ties in their gains."""
    operator, (arguments, options), (gpu_arguments, gpu_options) = call(op, dtype)
    want = tree.tree_leaves(operator(*arguments, **options))
    got = tree.tree_leaves(operator(*gpu_arguments, **gpu_options))
    for mine, theirs in zip(got, want, strict=True):
        assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
        if mine.dtype == torch.int64:
            same = torch.isin(mine.cpu(), theirs).double().mean()
            assert same > 0.8
        elif "project" not in op:  # its tokens are those of the picks
            error = (mine.cpu().double() - theirs.double()).norm() / theirs.double().norm()
            assert error < TOLERANCE[dtype]


@pytest.mark.parametrize("op", OPERATORS)
def test_opcheck(op):
    operator, _, (arguments, options) = call(op, torch.bfloat16)
    torch.library.opcheck(operator, arguments, options)


@pytest.mark.parametrize("op", CAPTURED)
def test_a_graph_replays_the_same_bits(op):
    operator, _, (arguments, options) = call(op, torch.bfloat16)
    want = tree.tree_leaves(operator(*arguments, **options))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = tree.tree_leaves(operator(*arguments, **options))
    for _ in range(2):
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(captured, want, strict=True))


@pytest.mark.parametrize("op", CAPTURED)
def test_no_synchronisation(op):
    operator, _, (arguments, options) = call(op, torch.bfloat16)
    operator(*arguments, **options)  # compiles its kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        operator(*arguments, **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_compiles_as_a_whole():
    """All in one function: most of the time is torch.compile's own."""
    calls = {op: call(op, torch.bfloat16) for op in CAPTURED}

    def everything():
        return [operator(*given[0], **given[1]) for operator, _, given in calls.values()]

    want = everything()
    got = torch.compile(everything, fullgraph=True)()
    for op, ours, theirs in zip(calls, got, want, strict=True):
        pairs = zip(tree.tree_leaves(ours), tree.tree_leaves(theirs), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), op
