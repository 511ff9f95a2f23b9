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


def small():
    return nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))


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


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU])
def test_scores_through_a_norm_between_the_layers_are_the_jacobian(norm, activation):
    inner = NORMS[norm](11)
    for parameter in inner.parameters():
        nn.init.normal_(parameter)
    mlp = nn.Sequential(nn.Linear(6, 11), activation(), inner, nn.Linear(11, 7))
    x = torch.randn(5, 6)
    exact = copy.deepcopy(mlp).double()
    rows = [torch.autograd.functional.jacobian(exact, row) for row in x.double()]
    expected = (torch.stack(rows).square().sum((1, 2)) / 6).sqrt()
    scores = find_projector(mlp).score(x, Estimator())
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=0)


def test_a_norm_like_gemmas_scales_by_one_plus_its_weight():
    class OneRMSNorm(nn.RMSNorm):
        def forward(self, x):
            return nn.functional.rms_norm(x, x.shape[-1:], 1 + self.weight, self.eps)

    mine, plain = OneRMSNorm(6, eps=0.1), nn.RMSNorm(6, eps=0.1)
    nn.init.normal_(mine.weight)
    plain.weight.data.copy_(1 + mine.weight.data)
    layers = nn.Linear(6, 11), nn.GELU(), nn.Linear(11, 7)
    x = torch.randn(5, 6)
    one, two = (
        find_projector(nn.Sequential(n, *layers)).score(x, Estimator()) for n in (mine, plain)
    )
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 4)),
        nn.Sequential(
            nn.LayerNorm(4), nn.Linear(4, 4), nn.GELU(), nn.LayerNorm(4), nn.Linear(4, 4)
        ),
    ],
)
def test_norms_elsewhere_are_refused(module):
    with pytest.raises(ValueError, match="or the norm before linear 2, got"):
        zoprune.PrunedProjector(module, 2)


@torch.no_grad()
@pytest.mark.parametrize("inner", [True, False])
@pytest.mark.parametrize("lead", [(), (1,), (2, 3), (2, 1, 2)])
def test_a_pruned_projector_takes_any_rank(lead, inner):
    middle = [nn.LayerNorm(40)] if inner else []
    mlp = nn.Sequential(nn.Linear(16, 40), nn.GELU(), *middle, nn.Linear(40, 24))
    x = torch.randn(*lead, 21, 16)
    tokens, kept = zoprune.PrunedProjector(mlp, 7)(x)
    assert tokens.shape == (*lead, 7, 24) and kept.shape == (*lead, 7)
    flat, alone = kept.reshape(-1, 7), zoprune.PrunedProjector(mlp, 7)
    for image, row in zip(x.reshape(-1, 21, 16), flat, strict=True):
        assert torch.equal(alone(image)[1], row)
    torch.testing.assert_close(tokens, mlp(x).take_along_dim(kept[..., None], -2))


@torch.no_grad()
def test_a_pruned_projector_has_the_keywords_of_prune(tmp_path):
    mlp = nn.Sequential(nn.Linear(16, 40), nn.GELU(), nn.Linear(40, 24))
    x = torch.randn(2, 30, 16)
    options = dict(method="mmr", tradeoff=0.7, metric=tmp_path / "metric.safetensors")
    pruned = zoprune.PrunedProjector(mlp, 5, **options)
    expected = pruned(x)[1]
    assert torch.equal(zoprune.PrunedProjector(mlp, 5, **options)(x)[1], expected)
    with zoprune.keep(8):
        assert pruned(x)[1].shape == (2, 8)
    with zoprune.keep(None):
        assert pruned(x)[1].shape == (2, 30)
    report = zoprune.report(pruned)
    assert str(report) == "30 of 30, 30 of 30" and report.scores[1].shape == (30,)
    pruned(x)
    assert torch.equal(torch.stack(zoprune.report(pruned).kept), expected)
    sampled = zoprune.PrunedProjector(mlp, 5, "directions", num_directions=8, seed=3)
    assert sampled(x)[1].shape == (2, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(keep=0), "keep: expected a count"),
        (dict(keep=4, method="best"), "method: expected one of"),
        (dict(keep=4, tradeof=1), "tradeof: expected one of the options"),
        (dict(keep=4, estimator="exact"), "estimator: expected 'closed'"),
        (dict(keep=4, step=-1), "step: expected a finite number"),
    ],
)
def test_a_pruned_projector_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        zoprune.PrunedProjector(
            nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)), **arguments
        )


@pytest.mark.parametrize(
    "x", [torch.randn(4), torch.randn(3, 5), torch.randn(0, 4), torch.ones(3, 4).int()]
)
def test_a_pruned_projector_refuses_other_inputs(x):
    pruned = zoprune.PrunedProjector(nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)), 2)
    with pytest.raises(ValueError, match="x: expected"):
        pruned(x)


def test_a_norm_between_the_layers_has_no_random_directions():
    mlp = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.LayerNorm(4), nn.Linear(4, 4))
    with pytest.raises(ValueError, match="estimator: expected 'closed' with a norm between"):
        zoprune.PrunedProjector(mlp, 2, "directions")


class Adapter(nn.Module):
    """A low-rank adapter, as peft puts it in the place of a layer."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x):
        return self.base_layer(x) + 5 * self.up(self.down(x))


@torch.no_grad()
@pytest.mark.parametrize("name", ["0", "2"])
def test_a_pruned_projector_whose_layers_are_replaced(name):
    mlp, x = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 16)), torch.randn(40, 12)
    pruned = zoprune.PrunedProjector(mlp, 6)
    pruned(x)
    before = zoprune.report(pruned).scores[0]
    setattr(mlp, name, Adapter(mlp[int(name)]))
    tokens, kept = pruned(x)
    scores = zoprune.report(pruned).scores[0]
    fresh = zoprune.PrunedProjector(mlp, 6)
    assert torch.equal(fresh(x)[1], kept) and torch.equal(tokens, mlp(x)[kept])
    torch.testing.assert_close(zoprune.report(fresh).scores[0], scores)
    assert not torch.allclose(scores, before, rtol=0.01)


class Unordered(nn.Module):
    """Layers defined in another order than they run in."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.act, self.up = nn.Linear(32, 12), nn.GELU(), nn.Linear(24, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.act(self.up(x)))


def test_layers_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"Unordered: .* got 32 -> 12, 24 -> 32"):
        zoprune.PrunedProjector(Unordered(), 4)
    with pytest.raises(ValueError, match="0 activations that are modules and one of gelu"):
        zoprune.PrunedProjector(
            nn.Sequential(nn.Linear(24, 32), nn.Softplus(), nn.Linear(32, 12)), 4
        )


def test_the_report_of_what_has_none():
    with pytest.raises(TypeError, match=r"report: expected a pruned model, or the output .* dict"):
        zoprune.report({})
