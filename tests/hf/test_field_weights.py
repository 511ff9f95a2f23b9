"""Situations from the field: what stands behind a projector's weights (rows 4, 5, 6)."""

import copy

import pytest
import torch

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import zoprune  # noqa: E402
from torch import nn  # noqa: E402
from zoprune import layers  # noqa: E402
from zoprune.adapters import zoo_prune  # noqa: E402
from zoprune.projector import Estimator, find_projector  # noqa: E402

from tests.hf.field import projector_of, scores_of  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def write_data(model):
    projector_of(model).linear_2.weight.data.mul_(3)


def write_first_bias(model):
    projector_of(model).linear_1.bias.data.add_(0.7)


def assign_state(model):
    state = {k: v.clone() for k, v in model.state_dict().items()}
    name = next(k for k in state if k.endswith("projector.linear_1.weight"))
    state[name] *= 1.5
    model.load_state_dict(state, assign=True)


def replace_layer(model):
    projector_of(model).linear_1 = nn.Linear(24, 32)


def replace_projector(model):
    new = copy.deepcopy(projector_of(model))
    nn.init.normal_(new.linear_2.weight)
    model.model.multi_modal_projector = new


def hook_output(model):
    def double(module, args, output):
        return 2 * output

    projector_of(model).linear_2.register_forward_hook(double)


def parametrize(model):
    torch.nn.utils.parametrizations.weight_norm(projector_of(model).linear_1)
    projector_of(model).linear_1.parametrizations.weight.original0.data.mul_(2)


CHANGES = [
    write_data,
    write_first_bias,
    assign_state,
    replace_layer,
    replace_projector,
    hook_output,
    parametrize,
]


@pytest.mark.parametrize("change", CHANGES)
def test_scores_are_of_the_weights_of_now(clone, inputs, change, tmp_path):
    zoprune.prune(clone, 6, metric=tmp_path / "metric.safetensors")
    before = scores_of(clone, inputs)
    change(clone)
    after = scores_of(clone, inputs)
    fresh = zoprune.prune(zoprune.restore(copy.deepcopy(clone)), 6)
    expected = scores_of(fresh, inputs)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=0)
    assert not torch.allclose(after, before, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("write", [lambda w: w.data.mul_(3), lambda w: w.mul_(3)])
def test_a_projector_and_the_adapters_see_new_weights(write):
    mlp = nn.Sequential(nn.Linear(130, 140), nn.GELU(), nn.Linear(140, 136))
    x = torch.randn(9, 130)
    pruned = zoprune.PrunedProjector(mlp, 4)
    pruned(x)
    before = zoprune.report(pruned).scores[0], zoo_prune.zoo_prune_get_sensitivity(x, mlp)
    crops = torch.randn(3, 9, 130)
    kept = zoo_prune.zoo_prune(crops, mlp, 0.005, compat=True)
    write(mlp[2].weight)
    pruned(x)
    torch.testing.assert_close(zoprune.report(pruned).scores[0], 3 * before[0], rtol=1e-4, atol=0)
    after = zoo_prune.zoo_prune_get_sensitivity(x, mlp)
    torch.testing.assert_close(after, 3 * before[1], rtol=1e-4, atol=0)
    mlp[0].weight.data.copy_(torch.randn(140, 130))
    again = zoo_prune.zoo_prune(crops, mlp, 0.005, compat=True)
    assert torch.equal(again, zoo_prune.zoo_prune(crops, copy.deepcopy(mlp), 0.005, compat=True))
    assert not torch.equal(again, kept)


def test_one_fold_for_each_state_of_the_weights(clone, inputs, caplog):
    caplog.set_level("INFO", logger="zoprune")
    zoprune.prune(clone, 6)
    weight = projector_of(clone).linear_2.weight
    for factor in (1, 1, 2, 0.5, 2, 0.5):  # as an adapter that is switched on and off
        weight.data.mul_(factor)
        scores_of(clone, inputs)
    assert len([r for r in caplog.records if "folded" in r.message]) == 2


class Packed(nn.Linear):
    """Weights as bytes and a scale, as quantisers store them."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        weight = linear.weight.detach()
        self.scale = weight.abs().amax(1, keepdim=True) / 127
        packed = (weight / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(packed, requires_grad=False)
        if linear.bias is not None:
            self.bias = nn.Parameter(linear.bias.detach())

    def forward(self, x):
        return nn.functional.linear(x, (self.weight * self.scale).to(x.dtype), self.bias)


class Adapted(nn.Module):
    """A low-rank adapter around a layer, as peft builds it."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.Linear(base.in_features, 2, bias=False)
        self.lora_B = nn.Linear(2, base.out_features, bias=False)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.base_layer(x) + self.lora_B(self.lora_A(self.dropout(x)))


class Foreign(nn.Module):
    """A linear layer of another library: sizes, and a forward."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.qweight = nn.Parameter(linear.weight.detach().T.contiguous(), requires_grad=False)
        self.shift = nn.Parameter(linear.bias.detach())

    def forward(self, x):
        return x @ self.qweight + self.shift


def dense(layer):
    """A plain layer of the weights that the other one computes with."""
    base = getattr(layer, "base_layer", layer)
    plain = nn.Linear(base.in_features, base.out_features)
    with torch.no_grad():
        zero = layer(torch.zeros(1, base.in_features))
        plain.weight.copy_((layer(torch.eye(base.in_features)) - zero).T)
        plain.bias.copy_(zero[0])
    return plain


@pytest.mark.parametrize("kind", [Packed, Adapted, Foreign])
@pytest.mark.parametrize(
    "options",
    [{}, dict(method="maxmin"), dict(estimator="directions", num_directions=4)],
    ids=["closed", "maxmin", "directions"],
)
@pytest.mark.parametrize("order", ["before", "after"])
def test_kept_tokens_of_what_the_layers_compute(clone, inputs, kind, options, order):
    plain = copy.deepcopy(clone)
    if order == "after":
        zoprune.prune(clone, 6, **options)
    for name in ("linear_1", "linear_2"):
        layer = kind(getattr(projector_of(clone), name)).eval()
        setattr(projector_of(clone), name, layer)
        setattr(projector_of(plain), name, dense(layer))
    if order == "before":
        zoprune.prune(clone, 6, **options)
    zoprune.prune(plain, 6, **options)
    expected = scores_of(plain, inputs)
    torch.testing.assert_close(scores_of(clone, inputs), expected, rtol=1e-3, atol=1e-6)
    assert torch.equal(zoprune.report(clone).kept[0], zoprune.report(plain).kept[0])


def test_an_adapter_in_training_is_scored_without_dropout(clone, inputs):
    projector_of(clone).linear_1 = Adapted(projector_of(clone).linear_1)
    zoprune.prune(clone, 6)
    x = torch.randn(5, 24)
    projector = find_projector(projector_of(clone))
    expected = projector.score(x, Estimator())
    clone.train()
    assert torch.equal(projector.score(x, Estimator()), expected)
    assert all(module.training for module in clone.modules())


def test_a_layer_that_cannot_run_is_named_at_prune(clone, inputs):
    class Broken(Packed):
        def forward(self, x):
            raise NotImplementedError("no kernel for int8 on this device")

    plain = projector_of(clone).linear_2
    expected = zoprune.prune(clone, 5)(**inputs).logits
    projector_of(clone).linear_2 = Broken(plain)
    message = r"Broken\(32 -> 32, torch.int8\): expected a linear layer that runs .* no kernel"
    with pytest.raises(ValueError, match=message):
        zoprune.prune(clone, 6)
    projector_of(clone).linear_2 = plain
    assert torch.equal(clone(**inputs).logits, expected)  # pruned as before
    zoprune.prune(clone, 6, method="random")


def test_a_layer_that_is_not_linear_is_named(clone):
    class Bent(nn.Linear):
        def forward(self, x):
            return super().forward(x).relu()

    projector_of(clone).linear_1 = Bent(24, 32)
    with pytest.raises(ValueError, match="got one that does more than that"):
        zoprune.prune(clone, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_effective_weight_of_a_layer_with_a_large_bias(dtype):
    layer = nn.Linear(64, 48).to(dtype)
    with torch.no_grad():
        layer.bias.mul_(20)
        layer.register_forward_hook(lambda *_: None)  # no longer plain
        weight, bias = layers.weights(layer, dtype)
    assert not layers.is_plain(layer) and weight.dtype == dtype
    error = (weight - layer.weight).abs().max() / layer.weight.abs().max()
    assert error < 40 * torch.finfo(dtype).eps
    torch.testing.assert_close(bias, layer.bias)
