"""Gated projectors: their score against the Jacobian in float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from zoprune.estimator import Estimator
from zoprune.gated import GatedProjector
from zoprune.projector import activation_of

from zoprune_kernels.reference import ACTIVATION

D, H, OUT, TOKENS = 9, 7, 11, 13


class Projector(nn.Module):
    def __init__(self, apart, norm, bias=True, activation="silu"):
        super().__init__()
        self.norm = norm
        self.linear_1 = nn.Linear(D, H if apart else 2 * H, bias=bias)
        self.gate = nn.Linear(D, H, bias=bias) if apart else None
        self.linear_2 = nn.Linear(H, OUT, bias=bias)
        self.activation = activation

    def forward(self, x):
        x = x if self.norm is None else self.norm(x)
        u, v = (self.linear_1(x), self.gate(x)) if self.gate else self.linear_1(x).chunk(2, -1)
        return self.linear_2(u * ACTIVATION[self.activation](v))

    def described(self):
        return GatedProjector(
            self.linear_1, self.activation, self.linear_2, norm=self.norm, gate=self.gate
        )


def jacobians(module, x):
    return torch.stack([torch.func.jacrev(module)(row) for row in x])  # [T, OUT, D]


NORMS = {"none": lambda: None, "layer": lambda: nn.LayerNorm(D), "rms": lambda: nn.RMSNorm(D, 1e-6)}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_the_closed_form_is_the_norm_of_the_jacobian(norm, apart, bias, activation):
    module = Projector(apart, NORMS[norm](), bias, activation)
    for p in module.parameters():
        nn.init.normal_(p, std=0.7)
    x = torch.randn(TOKENS, D)
    projector = module.described()
    scores = projector.score(x, Estimator())
    torch.testing.assert_close(projector.project(x), module(x))
    expected = jacobians(module.double(), x.double()).square().sum((1, 2)).div(D).sqrt()
    torch.testing.assert_close(scores.double(), expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("step", [0.0, 0.3])
@pytest.mark.parametrize("apart", [True, False])
def test_random_directions_are_the_papers_mean(step, apart):
    module = Projector(apart, NORMS["layer"]())
    x = torch.randn(TOKENS, D)
    how = Estimator("directions", num_directions=5, step=step, seed=3)
    scores = module.described().score(x, how)
    u = how.directions(D, x.device).double()
    module, normed = module.double(), F.layer_norm(x.double(), (D,))
    module.norm = None  # perturbed behind the norm
    if step:
        changes = [module(normed + step * v) - module(normed - step * v) for v in u]
        expected = torch.stack([c.norm(dim=-1) / (2 * step) for c in changes]).mean(0)
    else:
        expected = (jacobians(module, normed) @ u.T).norm(dim=1).mean(1)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-6)


def test_weights_that_change_are_folded_again():
    module = Projector(True, None)
    projector, x = module.described(), torch.randn(TOKENS, D)
    before = projector.score(x, Estimator())
    with torch.no_grad():
        module.gate.weight.mul_(2)
    after = projector.score(x, Estimator())
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, module.described().score(x, Estimator()))
    assert projector._fingerprint(x.dtype) != Projector(True, None).described()._fingerprint(
        x.dtype
    )


def test_one_line_and_flops():
    text = Projector(True, NORMS["layer"]()).described().describe()
    assert text == "LayerNorm(9) -> Linear(9 -> 7) * silu(Linear(9 -> 7)) -> Linear(7 -> 11)"
    assert Projector(False, None).described().flops() == 2 * 14 * 9 + 2 * 14 * 14


def test_an_activation_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match=r"activation: expected one of gelu, .*, got Tanh"):
        activation_of(nn.Tanh())
