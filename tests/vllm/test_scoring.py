"""Scores from weights that were overheard equal the root mean square that the mathematics says."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from zoprune.vllm.layout import Layers
from zoprune.vllm.options import Options
from zoprune.vllm.scoring import Scorer, WeightTap

C, P, H, D = 6, 4, 11, 7  # channels of a patch, patches of a token, hidden and output channels
PLAIN = Layers("linear_1", "linear_2")
NORMED = Layers("mlp.0", "mlp.2", norm="ln_q")
MERGED = Layers("linear_1", "linear_2", norm="norm", merge="merger", unfolded=True)


def checkpoint(layers, kind):
    """A projector's weights by their names in a checkpoint, in fp64; and the function itself."""
    torch.manual_seed(0)
    inner = C * P if layers.merge is None else C
    parts = {"linear_1": nn.Linear(inner, H), "linear_2": nn.Linear(H, D)}
    if layers.merge is not None:
        parts["merge"] = nn.Linear(C * P, C, bias=False)
    if layers.norm is not None:
        parts["norm"] = nn.LayerNorm(C, 1e-5) if kind == "layer" else nn.RMSNorm(C, 1e-5)
        parts["norm"].weight.data.uniform_(0.5, 2)
        if kind == "layer":
            parts["norm"].bias.data.normal_()
    weights = {
        f"model.tower.projector.{getattr(layers, role)}.{name}": w.detach()
        for role, part in parts.items()
        for name, w in part.named_parameters()
    }

    def project(x):  # [d]
        if layers.norm is not None:
            x = parts["norm"].double()(x.view(P, C))
            x = x.T.flatten() if layers.unfolded else x.flatten()
        if layers.merge is not None:
            x = parts["merge"].double()(x)
        return parts["linear_2"].double()(nn.functional.gelu(parts["linear_1"].double()(x)))

    return weights, project


def scorer(layers, weights, **options):
    tap = WeightTap("projector", layers)
    passed = list(tap.listen(weights.items()))
    assert [name for name, _ in passed] == list(weights)  # the stream goes on unchanged
    result = Scorer(tap.weights, layers, SimpleNamespace(), Options(5, **options), 1e-5)
    result.use(result.fold())
    return result


@pytest.mark.parametrize(
    "layers, kind",
    [(PLAIN, None), (NORMED, "layer"), (NORMED, "rms"), (MERGED, "rms"), (MERGED, "layer")],
)
def test_closed_form_is_the_root_mean_square(layers, kind):
    weights, project = checkpoint(layers, kind)
    x = torch.randn(5, C * P)
    score = scorer(layers, weights)(x)
    jacobians = [torch.autograd.functional.jacobian(project, row.double()) for row in x]
    expected = torch.stack([(j.square().sum() / (C * P)).sqrt() for j in jacobians]).float()
    torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layers", [PLAIN, NORMED])
def test_directions_are_the_papers(layers):
    from zoprune_kernels import directions, sensitivity

    weights, _ = checkpoint(layers, "rms")
    x = torch.randn(5, C * P)
    score = scorer(layers, weights, estimator="directions", num_directions=7, seed=3)(x)
    w = {name.split("projector.")[1]: v for name, v in weights.items()}
    if layers.norm is not None:
        x = nn.functional.rms_norm(x.view(5, P, C), (C,), w["ln_q.weight"], 1e-5).flatten(1)
    first, second = layers.linear_1, layers.linear_2
    expected = sensitivity(
        x,
        w[f"{first}.weight"],
        w[f"{first}.bias"],
        w[f"{second}.weight"],
        directions(7, C * P, seed=3),
    )
    torch.testing.assert_close(score, expected)


@pytest.mark.parametrize(
    "name, weight, message",
    [
        ("projector.linear_1.weight", torch.zeros(3, dtype=torch.int8), "got torch.int8"),
        ("m.projector.linear_1.weight_scale", torch.ones(1), "got packed or scaled weights"),
        ("projector.linear_2.qweight", torch.zeros(2, dtype=torch.int32), "got packed"),
    ],
)
def test_quantised_projectors_are_refused_by_name(name, weight, message):
    with pytest.raises(ValueError, match=message) as error:
        list(WeightTap("projector", PLAIN).listen([(name, weight)]))
    assert name in str(error.value)


def test_a_projector_that_never_passed_is_named():
    with pytest.raises(ValueError, match=r"linear_1.weight: expected among the weights"):
        Scorer({}, PLAIN, SimpleNamespace(), Options(5), None)


def test_other_projectors_of_the_model_do_not_pass_for_it():
    tap = WeightTap("visual.merger", Layers("mlp.0", "mlp.2"))
    names = ["visual.deepstack_merger.mlp.0.weight", "other_visual.merger.mlp.0.weight"]
    for _ in tap.listen([(name, torch.ones(2)) for name in names]):
        pass
    assert not tap.weights
