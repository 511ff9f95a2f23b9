"""The identities of docs/math.md, in float64: what every other test takes as the truth."""

import math

import pytest
import torch

from zoprune_kernels import philox, reference
from zoprune_kernels.checks import ACTIVATIONS, DISTRIBUTIONS
from zoprune_kernels.testing import projector

CPU = torch.device("cpu")


def relative_error(value: torch.Tensor, truth: torch.Tensor) -> float:
    return ((value.double() - truth.double()).abs() / truth.double().abs()).max().item()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_derivative_is_the_activations_derivative(activation):
    a = torch.linspace(-9, 9, 1001, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(reference.ACTIVATION[activation](a).sum(), a)
    torch.testing.assert_close(
        reference.derivative(activation, a), gradient, rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("step", [0.01, 1.0])
def test_rewriting_is_exact(activation, step):
    p = projector(2, 17).double()
    u = philox.directions(5, 32, "sphere", 1, CPU)
    options = {"step": step, "activation": activation}
    literal = reference.paper_sensitivity(p.x, p.w1, p.b1, p.w2, u, **options)
    rewritten = reference.sensitivity(p.x, p.w1, p.b1, p.w2, u, **options)
    assert relative_error(rewritten, literal) < 1e-11


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "quick_gelu", "silu"])
def test_step_zero_is_the_limit(activation):
    p = projector(63).double()
    u = philox.directions(5, 32, "sphere", 1, CPU)
    limit = reference.sensitivity(p.x, p.w1, p.b1, p.w2, u, step=0, activation=activation)
    for step in (1e-1, 1e-2):
        finite = reference.sensitivity(p.x, p.w1, p.b1, p.w2, u, step=step, activation=activation)
        assert relative_error(finite, limit) < 2 * step**2  # second order


def test_closed_form_of_a_direction_set_is_its_root_mean_square():
    p = projector(63).double()
    u = philox.directions(7, 32, "gaussian", 3, CPU)
    metric = reference.fold_metric(p.w1, p.w2, u)
    closed = reference.expected_sensitivity(p.x, p.w1, p.b1, metric)
    each = [reference.sensitivity(p.x, p.w1, p.b1, p.w2, row[None], step=0) for row in u]
    assert relative_error(closed, torch.stack(each).square().mean(0).sqrt()) < 1e-12


def test_closed_form_is_the_expectation():
    """A full orthonormal set averages to C = I / d exactly, so no sampling is needed to test it."""
    p = projector(63).double()
    u = philox.directions(32, 32, "orthogonal", 3, CPU)
    expected = reference.fold_metric(p.w1, p.w2)
    torch.testing.assert_close(expected, reference.fold_metric(p.w1, p.w2, u))
    torch.testing.assert_close(expected, expected.T)
    assert torch.linalg.eigvalsh(expected).min() > -1e-12


def test_half_precision_loses_the_literal_form_and_not_the_rewritten():
    """Why the library exists: in float16 the literal difference cancels (DESIGN section 2)."""
    p = projector(64, d=256, hidden=1024, out=256, dtype=torch.float16)
    u = philox.directions(8, 256, "sphere", 0, CPU)
    truth = reference.paper_sensitivity(*p.double().layers[:4], u)
    literal = torch.zeros(64)
    for row in u.half():
        both = [
            torch.nn.functional.gelu(torch.nn.functional.linear(x, p.w1, p.b1)) @ p.w2.T
            for x in (p.x + 0.01 * row, p.x - 0.01 * row)
        ]
        literal += (both[0] - both[1]).float().norm(dim=-1) / (2 * 0.01 * len(u))
    rewritten = reference.sensitivity(*p.layers[:4], u.float())
    assert relative_error(literal, truth) > 0.1
    assert relative_error(rewritten, truth) < 1e-5


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("num,dim", [(1, 1), (3, 5), (7, 64), (64, 63)])
def test_directions(distribution, num, dim):
    u = philox.directions(num, dim, distribution, 11, CPU)
    assert u.shape == (num, dim)
    assert torch.equal(u, philox.directions(num, dim, distribution, 11, CPU))
    assert (
        not torch.equal(u, philox.directions(num, dim, distribution, 2**40 + 11, CPU)) or dim == 1
    )
    assert torch.equal(
        u[: num // 2], philox.directions(num, dim, distribution, 11, CPU)[: num // 2]
    )
    if distribution in ("sphere", "orthogonal", "rademacher"):
        torch.testing.assert_close(u.norm(dim=1), torch.ones(num).double())
    if distribution == "orthogonal":
        for group in u.split(dim):
            torch.testing.assert_close(group @ group.T, torch.eye(len(group)).double())


def test_gaussian_directions_have_the_right_moments():
    u = philox.directions(512, 512, "gaussian", 0, CPU) * math.sqrt(512)
    assert abs(u.mean()) < 0.01
    assert abs(u.var() - 1) < 0.01
    assert abs((u**4).mean() - 3) < 0.05
    assert abs((u[:, 0::2] * u[:, 1::2]).mean()) < 0.01  # both halves of a Box-Muller pair


def test_select_follows_its_definition():
    keys = torch.eye(4)[[0, 0, 1, 2, 3]]
    scores = torch.tensor([1.0, 0.9, 0.5, 0.4, 0.0])
    pick = {"sort": False, "k": 4}
    assert reference.select(scores, keys, method="sads", **pick).tolist() == [0, 2, 3, 1]
    assert reference.select(scores, keys, method="maxmin", **pick).tolist() == [0, 2, 3, 4]
    assert reference.select(scores, None, method="topk", **pick).tolist() == [0, 1, 2, 3]
    close = {"method": "topk", "max_similarity": 0.5}
    assert reference.select(scores, keys, **close, **pick).tolist() == [0, 2, 3, 4]
    assert reference.select(scores, keys, 5, **close, sort=False).tolist() == [0, 2, 3, 4, 1]


def test_select_ranks_nan_then_padding_last():
    scores = torch.tensor([math.nan, 0.5, math.inf, -math.inf, 0.7])
    keys = torch.eye(5)
    assert reference.select(scores, keys, 5, sort=False, method="topk").tolist() == [2, 4, 1, 3, 0]
    valid = torch.tensor([True, True, False, True, True])
    kept = reference.select(scores, keys, 4, valid=valid, sort=False, method="topk")
    assert kept.tolist() == [4, 1, 3, 0]
    must_keep = torch.tensor([True, False, False, True, False])
    kept = reference.select(scores, keys, 3, must_keep, valid, sort=False)
    assert kept.tolist() == [0, 3, 1]
