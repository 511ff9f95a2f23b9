"""Projectors: ``find_projector``, scores through a norm, ``PrunedProjector``."""

import copy

import pytest
import torch
import zoprune
from torch import nn
from zoprune.projector import Estimator, activation_name, find_projector

pytestmark = pytest.mark.usefixtures("one_thread")


class Merger(nn.Module):
    """[norm of each patch] -> concatenation -> [merge] -> MLP, as in Qwen-VL and Mistral 3."""

    def __init__(self, norm, patches, channels=6, activation=nn.GELU, merge=False):
        super().__init__()
        self.patches, self.norm = patches, norm(channels)
        for parameter in self.norm.parameters():
            nn.init.normal_(parameter)
        width = patches * channels
        self.merge = nn.Linear(width, 9, bias=False) if merge else nn.Identity()
        self.linear_1 = nn.Linear(9 if merge else width, 10)
        self.act = activation()
        self.linear_2 = nn.Linear(10, 7)

    def forward(self, x):
        x = self.norm(x.unflatten(-1, (self.patches, -1))).flatten(-2)
        return self.linear_2(self.act(self.linear_1(self.merge(x))))


NORMS = {"layer": lambda c: nn.LayerNorm(c, eps=0.1), "rms": lambda c: nn.RMSNorm(c, eps=0.1)}


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("patches", [1, 4])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU])
def test_scores_through_the_norm_are_the_jacobian(norm, patches, merge, activation):
    module = Merger(NORMS[norm], patches, merge=merge, activation=activation)
    x = torch.randn(5, 6 * patches)
    scores = find_projector(module).score(x, Estimator())
    exact = copy.deepcopy(module).double()
    step = 1e-6
    columns = []  # central differences in float64, one input channel at a time
    for channel in torch.eye(6 * patches, dtype=torch.float64) * step:
        columns.append((exact(x.double() + channel) - exact(x.double() - channel)) / (2 * step))
    jacobian = torch.stack(columns, -1)  # [5, D, d]
    expected = (jacobian.square().sum((1, 2)) / (6 * patches)).sqrt()
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=0)


def test_scores_after_the_norm_differ_and_are_the_plain_ones():
    module = Merger(NORMS["rms"], 4)
    projector, x = find_projector(module), torch.randn(5, 24)
    after = projector.score(x, Estimator(through_norm=False))
    mlp = nn.Sequential(module.linear_1, module.act, module.linear_2)
    normalised = module.norm(x.view(5, 4, 6)).flatten(1)
    torch.testing.assert_close(after, find_projector(mlp).score(normalised, Estimator()))
    assert not torch.allclose(after, projector.score(x, Estimator()), rtol=0.05)


def test_directions_converge_to_the_closed_form():
    mlp = nn.Sequential(nn.Linear(16, 40), nn.GELU(), nn.Linear(40, 8))
    projector, x = find_projector(mlp), torch.randn(50, 16)
    sampled = projector.score(x, Estimator("directions", num_directions=256))
    closed = projector.score(x, Estimator())
    assert torch.corrcoef(torch.stack([sampled, closed]))[0, 1] > 0.99
    assert (sampled / closed).mean() < 1  # a mean of norms is below their root mean square


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nn.GELU(), "gelu"),
        (nn.GELU(approximate="tanh"), "gelu_tanh"),
        (nn.SiLU(), "silu"),
        (nn.ReLU(), "relu"),
        (nn.Tanh(), None),
        (nn.Identity(), None),
        (nn.Dropout(), None),
    ],
)
def test_activations_are_recognised_by_what_they_compute(module, name):
    assert activation_name(module) == name


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)),
        nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)),
        nn.Conv2d(3, 3, 1),
    ],
)
def test_other_modules_are_refused(module):
    with pytest.raises(ValueError, match=r"expected \[norm\] -> linear 1 -> activation"):
        find_projector(module)


@pytest.mark.parametrize("shape", [(63, 16), (3, 63, 16)])
@pytest.mark.parametrize("keep", [7, 0.25])
def test_pruned_projector_returns_the_kept_outputs(shape, keep):
    mlp = nn.Sequential(nn.Linear(16, 40), nn.GELU(), nn.Linear(40, 24))
    x = torch.randn(shape)
    tokens, kept = zoprune.PrunedProjector(mlp, keep)(x)
    count = 7 if keep == 7 else 16
    assert kept.shape == (*shape[:-2], count) and (kept.diff() > 0).all()
    torch.testing.assert_close(tokens, mlp(x).take_along_dim(kept[..., None], -2))
    if x.dim() == 3:
        for image, row in zip(x, kept, strict=True):
            assert torch.equal(zoprune.PrunedProjector(mlp, keep)(image)[1], row)


def test_pruned_projector_is_a_module():
    mlp = nn.Sequential(nn.Linear(16, 40), nn.GELU(), nn.Linear(40, 24))
    pruned = zoprune.PrunedProjector(mlp, 4)
    assert {p.data_ptr() for p in pruned.parameters()} == {p.data_ptr() for p in mlp.parameters()}
    tokens, _ = pruned(torch.randn(9, 16))
    tokens.sum().backward()
    assert mlp[0].weight.grad is not None
    clone = copy.deepcopy(pruned).to(torch.bfloat16)
    assert clone(torch.randn(9, 16).bfloat16())[0].dtype == torch.bfloat16


def test_pruned_projector_refuses_a_module_that_does_more():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))

        def forward(self, x):
            return x + self.mlp(x)

    with pytest.raises(ValueError, match="got one that does more than that"):
        zoprune.PrunedProjector(Residual(), 4)


def test_a_linear_projector_has_one_score():
    projector = find_projector(nn.Linear(8, 8))
    assert projector.is_linear
    assert torch.equal(projector.score(torch.randn(5, 8), Estimator()), torch.ones(5))
