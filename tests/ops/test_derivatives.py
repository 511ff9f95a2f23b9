"""No derivative is zero in silence: both modes raise, whichever way they are asked for."""

import pytest
import torch
from torch.autograd import forward_ad

from zoprune_kernels.operators import OPERATORS
from zoprune_kernels.testing import operator_calls

OPS = torch.ops.zoprune
CALLS = operator_calls(torch.float32)
INTEGERS = [name for name in OPERATORS if name.startswith("select")] + ["budget"]
FLOATS = [name for name in OPERATORS if name not in (*INTEGERS, "directions")]


def of_each_tensor(name):
    """(f, x): the operator as a function of one of its floating-point tensors, for each of them."""
    arguments, options = CALLS[name]
    first = arguments[0] if isinstance(arguments[0], list) else None
    flat = [*first, *arguments[1:]] if first else list(arguments)
    for place, x in enumerate(flat):
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            continue

        def call(x, place=place):
            given = [*flat[:place], x, *flat[place + 1 :]]
            given = [given[: len(first)], *given[len(first) :]] if first else given
            outputs = getattr(OPS, name)(*given, **options)
            return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)

        yield call, x.contiguous()


@pytest.mark.parametrize("name", FLOATS)
def test_every_operator_refuses_in_both_modes(name):
    refused = pytest.raises(RuntimeError, match=f"zoprune::{name}: inference-only")
    for f, x in of_each_tensor(name):
        with refused:
            torch.func.jvp(f, (x,), (x,))
        with refused, forward_ad.dual_level():
            f(forward_ad.make_dual(x, torch.ones_like(x)))
        with refused:
            torch.func.grad(lambda x, f=f: sum(out.sum() for out in f(x)))(x)
        with refused:
            sum(out.sum() for out in f(x.clone().requires_grad_())).backward()


@pytest.mark.parametrize("name", INTEGERS)
def test_indices_pass_through_every_transform(name):
    """They have no derivative; what is gathered with them has."""
    for f, x in of_each_tensor(name):
        expected = f(x)[0]

        def gather(x, f=f):
            indices = f(x)[0]
            assert not indices.requires_grad
            return x.flatten()[: 3 * len(indices)] * 2, indices

        (_, indices), (tangent, _) = torch.func.jvp(gather, (x,), (torch.ones_like(x),))
        assert torch.equal(indices, expected) and (tangent == 2).all()
        gradient = torch.func.grad(lambda x, g=gather: g(x)[0].sum())(x)
        assert gradient.sum() == 2 * gather(x)[0].numel()
        with forward_ad.dual_level():
            assert torch.equal(f(forward_ad.make_dual(x, x))[0], expected)


def scores(x):
    """[5] of x [5, 4]."""
    w1, w2, u = torch.ones(6, 4), torch.ones(3, 6), torch.ones(2, 4)
    return OPS.sensitivity(x, w1, None, w2, u)


def total(x):
    return scores(x).sum()


def row(x):
    return scores(x[None])[0]


WAYS = {
    "jacfwd": lambda x: torch.func.jacfwd(scores)(x),
    "jacrev": lambda x: torch.func.jacrev(scores)(x),
    "vjp": lambda x: torch.func.vjp(scores, x)[1](torch.ones(5)),
    "hessian": lambda x: torch.func.hessian(total)(x),
    "linearize": lambda x: torch.func.linearize(scores, x)[1](x),
    "vmap of grad": lambda x: torch.vmap(torch.func.grad(row))(x),
    "vmap of jvp": lambda x: torch.vmap(lambda r: torch.func.jvp(row, (r,), (r,)))(x),
    "grad of vmap": lambda x: torch.func.grad(lambda x: torch.vmap(row)(x).sum())(x),
    "jvp of vmap": lambda x: torch.func.jvp(torch.vmap(row), (x,), (x,)),
    "jvp of grad": lambda x: torch.func.jvp(torch.func.grad(total), (x,), (x,)),
    "grad of jvp": lambda x: torch.func.grad(lambda x: torch.func.jvp(total, (x,), (x,))[1])(x),
    "jvp of jvp": lambda x: torch.func.jvp(
        lambda x: torch.func.jvp(scores, (x,), (torch.ones_like(x),)), (x,), (x,)
    ),
    "functionalize": lambda x: torch.func.functionalize(torch.func.grad(total))(x),
    "no_grad": lambda x: torch.no_grad()(torch.func.jvp)(scores, (x,), (x,)),
    "functional.jvp": lambda x: torch.autograd.functional.jvp(scores, x, x),
    "forward-mode": lambda x: torch.autograd.functional.jacobian(
        scores, x, strategy="forward-mode", vectorize=True
    ),
    "gradcheck": lambda x: torch.autograd.gradcheck(
        scores, x.requires_grad_(), check_forward_ad=True, check_backward_ad=False
    ),
    "autograd.grad": lambda x: torch.autograd.grad(total(x.requires_grad_()), x),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_a_derivative_is_refused(way):
    with pytest.raises(RuntimeError, match="zoprune::sensitivity: inference-only"):
        WAYS[way](torch.rand(5, 4))


@pytest.mark.filterwarnings("ignore")
def test_what_asks_for_no_derivative_works():
    x = torch.rand(5, 4)
    expected = scores(x)
    assert torch.equal(torch.func.functionalize(scores)(x), expected)
    torch.testing.assert_close(torch.vmap(row)(x), expected)
    constant = torch.func.grad(lambda y: (scores(x) * y).sum())(torch.ones(5))
    assert torch.equal(constant, expected)
    _, tangent = torch.func.jvp(lambda y: scores(x) * y, (torch.ones(5),), (torch.ones(5),))
    assert torch.equal(tangent, expected)
    detached = torch.func.grad(lambda x: (scores(x).detach() * x.sum(1)).sum())(x)
    torch.testing.assert_close(detached, expected[:, None].expand(5, 4))
    with torch.inference_mode():
        assert torch.equal(scores(x.clone().requires_grad_()), expected)
