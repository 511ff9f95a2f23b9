"""What runs on a GPU without a kernel of ours: no operation whose order of summation is open there.

The fallbacks run on meta tensors, which are elsewhere than on the CPU and have no values. A packed
twin reads its offsets, and runs on the CPU instead.
"""

import pytest
import torch
from torch._C import DispatchKey
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from zoprune_kernels.reference.merge import added_at
from zoprune_kernels.testing import operator_calls

CALLS = operator_calls(torch.float32)
# Operations that raise on CUDA under deterministic algorithms (documentation of
# torch.use_deterministic_algorithms); forward ones, of floating-point tensors.
RAISE = {"cumsum", "histc", "kthvalue", "median.dim", "nll_loss_forward", "put", "put_", "bincount"}
RAISE |= {"scatter_reduce", "scatter_reduce_", "nanmedian.dim", "cumprod"}
# And what differs there from run to run where they are not asked for.
VARY = {"index_add", "index_add_", "scatter_add", "scatter_add_", "_embedding_bag"}


class Fallbacks(TorchDispatchMode):
    """Runs our operators' fallbacks in place of any kernel, and refuses some of torch's."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace == "zoprune":
            with self:
                return func._op_dk(DispatchKey.CompositeExplicitAutograd, *args, **kwargs)
        tensors = [a for a in tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
        name = func._schema.name.split("::")[1]
        names = {name, f"{name}.{func._overloadname}"}
        refused = names & (RAISE | VARY if any(t.is_meta for t in tensors) else RAISE)
        if refused and any(t.is_floating_point() for t in tensors):
            raise AssertionError(f"{func}: the order of its sums is open on a GPU")
        return func(*args, **kwargs)


@pytest.mark.parametrize("name", CALLS)
def test_fallbacks_have_a_fixed_order_on_a_gpu(name):
    arguments, options = CALLS[name]
    if not name.endswith("_varlen"):
        arguments, options = tree_map_only(
            torch.Tensor, lambda tensor: tensor.to("meta"), (arguments, options)
        )
    if name == "directions":
        options = options | {"device": torch.device("meta")}
    with Fallbacks():
        getattr(torch.ops.zoprune, name)(*arguments, **options)


@pytest.mark.parametrize("operation", ["cumsum", "index_add"])
def test_an_open_order_is_refused(operation):
    rows = torch.randn(4, 3, device="meta")
    calls = {
        "cumsum": lambda: rows.cumsum(0),
        "index_add": lambda: rows.index_add(0, torch.zeros(4, dtype=torch.int64), rows),
    }
    with Fallbacks(), pytest.raises(AssertionError, match=f"aten.{operation}"):
        calls[operation]()


def test_merge_adds_in_the_same_order_everywhere():
    """index_put adds as index_add does, repeated indices included."""
    rows, index, added = torch.randn(5, 3), torch.randint(0, 5, (40,)), torch.randn(40, 3)
    want = rows.clone()
    for i, row in zip(index.tolist(), added, strict=True):
        want[i] += row
    assert torch.equal(added_at(rows, index, added), want)
    assert torch.equal(rows.index_put((index,), added, accumulate=True), want)
