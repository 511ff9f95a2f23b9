"""Situations from the field: what stands behind a projector's weights, and around the model."""

import copy
import pickle
import types
import warnings

import pytest
import torch
from torch import nn

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import zoprune  # noqa: E402
from zoprune import layers  # noqa: E402
from zoprune.adapters import zoo_prune  # noqa: E402
from zoprune.projector import Estimator, find_projector  # noqa: E402

from tests.hf.models import CASES, make, prompt  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
BY_NAME = {case.name: case for case in CASES}
CASE = BY_NAME["llava"]


@pytest.fixture(scope="module")
def shared():
    return make(CASE)


@pytest.fixture
def model(shared):
    yield shared
    zoprune.restore(shared)


@pytest.fixture
def clone(shared):
    return copy.deepcopy(zoprune.restore(shared))


@pytest.fixture
def inputs(model):
    return prompt(CASE, model, (1,))


@torch.no_grad()
def scores_of(model, inputs):
    model(**inputs)
    return zoprune.report(model).scores[0]


def hooks_of(model):
    """The hooks that are not those of transformers."""
    hooks = [
        f
        for m in model.modules()
        for f in (*m._forward_pre_hooks.values(), *m._forward_hooks.values())
    ]
    return [f for f in hooks if not f.__module__.startswith("transformers")]


def projector_of(model):
    return model.model.multi_modal_projector


# -- row 4: weights that change behind the version counter ----------------------------------------


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


# -- rows 5 and 6: layers that are no plain nn.Linear ---------------------------------------------


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
    with torch.no_grad():
        zero = layer(torch.zeros(1, 24 if layers.sizes(layer)[0] == 24 else 32))
        plain = nn.Linear(*layers.sizes(layer))
        plain.weight.copy_((layer(torch.eye(plain.in_features)) - zero).T)
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_after_prune(clone, inputs, dtype):
    zoprune.prune(clone, 6)
    scores = scores_of(clone, inputs)
    clone.to(dtype)
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    other = scores_of(clone, inputs)
    assert torch.corrcoef(torch.stack([scores, other]))[0, 1] > 0.99


# -- row 7: a prune that fails --------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(keep=0), "keep: expected"),
        (dict(keep=4, per="tile"), "per: expected 'image'"),
        (dict(keep=4, num_directions=0), "num_directions: expected a count >= 1"),
        (dict(keep=4, num_directions=2.5), "num_directions: expected a count >= 1"),
        (dict(keep=4, step=-1.0), "step: expected a finite number >= 0"),
        (dict(keep=4, step=float("nan")), "step: expected a finite number >= 0"),
        (dict(keep=4, step="x"), "step: expected a finite number >= 0"),
        (dict(keep=4, distribution="x"), "distribution: expected one of"),
        (dict(keep=4, seed=0.5), "seed: expected a whole number"),
        (dict(keep=4, through_norm="yes"), "through_norm: expected True or False"),
        (dict(keep=4, method="best"), "method: expected one of"),
        (dict(keep=4, max_similarity=7.0), "max_similarity: expected"),
        (dict(keep=4, tradeoff="x"), "tradeoff|zoprune"),
        (dict(keep=4, prompt_seeds=-1), "prompt_seeds: expected a count >= 0"),
        (dict(keep=4, prompt_seeds=1.5), "prompt_seeds: expected a count >= 0"),
        (dict(keep=4, positions="x"), "positions: expected one of"),
        (dict(keep=4, metric="/nowhere/metric"), "metric: expected a file in a folder"),
        (dict(keep=4, metric=__file__), "metric: expected a file that prune wrote"),
        (dict(keep=4, metric="m", estimator="directions"), "metric: expected None with estimator"),
        (dict(keep=4, metric="m", method="random"), "metric: expected None with method 'random'"),
    ],
)
def test_a_prune_that_fails_changes_nothing(model, inputs, arguments, message):
    before = set(vars(model)), set(vars(model.model))
    with pytest.raises(ValueError, match=message):
        zoprune.prune(model, **arguments)
    assert (set(vars(model)), set(vars(model.model))) == before
    assert not hooks_of(model)
    expected = zoprune.prune(model, 6)(**inputs).logits
    with pytest.raises(ValueError, match=message):
        zoprune.prune(model, **arguments)
    assert torch.equal(model(**inputs).logits, expected)


# -- row 8: scores that are no numbers ------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("method", ["sads", "topk", "mmr", "dpp", "suppress", "coverage"])
def test_scores_that_are_no_numbers_rank_last(model, inputs, bad, method, monkeypatch):
    score = zoprune.projector.Projector.score

    def spoilt(self, x, estimator):
        return score(self, x, estimator).index_fill(0, torch.tensor([2, 7, 11]), bad)

    zoprune.prune(model, 4, method=method)
    monkeypatch.setattr(zoprune.projector.Projector, "score", spoilt)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model(**inputs)
    kept = zoprune.report(model).kept[0].tolist()
    assert len(kept) == 4
    if method != "coverage":  # goes by what the kept tokens stand for
        assert not {2, 7, 11} & set(kept)
    assert ["3 of 16" in str(w.message) for w in caught] == [True]
    with zoprune.keep(14), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model(**inputs)
    assert len(zoprune.report(model).kept[0]) == 14


# -- row 9: wrappers ------------------------------------------------------------------------------


class Wrapper(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.inside = nn.ModuleDict({"model": model})

    def forward(self, **inputs):
        return self.inside["model"](**inputs)


@torch.no_grad()
@pytest.mark.parametrize(
    "wrap",
    [
        Wrapper,
        nn.DataParallel,
        lambda m: torch.compile(m, backend="eager"),
        lambda m: Wrapper(Wrapper(m)),
    ],
    ids=["module", "parallel", "compile", "twice"],
)
def test_wrappers(clone, inputs, wrap):
    expected = zoprune.prune(copy.deepcopy(clone), 6)(**inputs).logits
    wrapped = wrap(clone)
    assert zoprune.prune(wrapped, 6) is wrapped
    torch.testing.assert_close(wrapped(**inputs).logits, expected)
    assert str(zoprune.report(wrapped)) == str(zoprune.report(clone)) == "6 of 16"
    with zoprune.keep(3):
        assert wrapped(**inputs).logits.shape[1] == 8
    assert zoprune.restore(wrapped) is wrapped
    assert wrapped(**inputs).logits.shape[1] == 21
    assert type(clone) is transformers.LlavaForConditionalGeneration


def test_what_cannot_be_unwrapped_is_named(clone):
    with pytest.raises(TypeError, match="expected one supported model, got ModuleList with 2"):
        zoprune.prune(nn.ModuleList([clone, copy.deepcopy(clone)]), 6)
    pipeline = types.SimpleNamespace(model=clone)
    for call in (lambda m: zoprune.prune(m, 6), zoprune.restore, zoprune.report):
        with pytest.raises(TypeError, match=r"got SimpleNamespace; its \.model is a LlavaFor"):
            call(pipeline)
        with pytest.raises(TypeError, match="got Linear"):
            call(nn.Linear(2, 2))


# -- rows 11, 18, 19 ------------------------------------------------------------------------------


def test_a_model_built_in_inference_mode(inputs):
    with torch.inference_mode():
        model = make(CASE)
    expected = zoprune.prune(make(CASE), 6)
    zoprune.prune(model, 6)
    with torch.no_grad():
        logits = expected(**inputs).logits
        assert torch.equal(model(**inputs).logits, logits)
    with torch.inference_mode():
        assert torch.equal(model(**inputs).logits, logits)
        assert torch.equal(expected(**inputs).logits, logits)
    output = expected(**inputs)  # a graph, after inference mode
    output.logits.sum().backward()


@torch.no_grad()
@pytest.mark.parametrize("name", ["llava", "internvl", "qwen2_vl", "mistral3"])
@pytest.mark.parametrize("options", [{}, dict(estimator="directions", num_directions=8)])
def test_autocast_changes_no_score(name, options):
    case = BY_NAME[name]
    model = make(case)
    inputs = prompt(case, model)
    zoprune.prune(model, 3, **options)
    settings = model._zoprune
    with torch.autocast("cpu", torch.bfloat16):
        tokens = settings.family.encode(model.model, inputs, case.modality)
        got = settings.projector(model.model).score(tokens.x, settings.estimator)
        model(**inputs)
    plain = zoprune.restore(copy.deepcopy(model))
    fresh = find_projector(plain.get_submodule(settings.family.projector))
    fresh.unfolded = settings.projector(model.model).unfolded
    assert torch.equal(got, fresh.score(tokens.x, settings.estimator))


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 500), (500, 1), (30, 60)])
def test_a_picture_of_a_thin_image(size):
    case = BY_NAME["llava_next"]
    model = make(case)
    ids = prompt(case, model)["input_ids"]
    inputs = {"pixel_values": torch.randn(1, 5, 3, 28, 28), "image_sizes": torch.tensor([size])}
    features = model.model.get_image_features(**inputs)
    tokens = len(getattr(features, "pooler_output", features)[0])
    inputs["input_ids"] = torch.tensor([[3, *[case.placeholder] * tokens, *ids[0, -2:].tolist()]])
    zoprune.prune(model, 4)
    model(**inputs)
    pytest.importorskip("PIL")
    assert zoprune.report(model).picture().width > 1


# -- rows 22, 23, 29a and around ------------------------------------------------------------------


def test_a_class_of_another_engine_with_the_same_name():
    class LlavaForConditionalGeneration(nn.Module):
        def __init__(self):
            super().__init__()
            self.multi_modal_projector = nn.Linear(2, 2)
            self.language_model = nn.Linear(2, 2)

    other = LlavaForConditionalGeneration()
    before = dict(vars(other))
    with pytest.raises(TypeError, match=r"lacks .*model\.multi_modal_projector"):
        zoprune.prune(other, 4)
    assert vars(other) == before and not other.multi_modal_projector._forward_hooks


@torch.no_grad()
def test_a_subclass_whose_forward_takes_anything(clone, inputs):
    class Mine(transformers.LlavaForConditionalGeneration):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    greedy = dict(max_new_tokens=4, do_sample=False, num_beams=2)
    zoprune.prune(clone, 6)
    expected = clone(**inputs).logits, clone.generate(**inputs, **greedy)
    zoprune.restore(clone)
    clone.__class__ = Mine
    zoprune.prune(clone, 6)
    assert torch.equal(clone(**inputs).logits, expected[0])
    if not transformers.__version__.startswith("4."):  # whose generate fails on it, pruned or not
        assert torch.equal(clone.generate(**inputs, **greedy), expected[1])
    rest = {k: v for k, v in inputs.items() if k != "input_ids"}
    assert torch.equal(clone(inputs["input_ids"], **rest).logits, expected[0])


def test_the_class_of_a_pruned_model_is_an_ordinary_one(model):
    zoprune.prune(model, 6)
    other = type(model)(model.config)
    assert type(other) is transformers.LlavaForConditionalGeneration
    zoprune.restore(zoprune.prune(other, 6))
    assert type(other) is transformers.LlavaForConditionalGeneration and "_zoprune" not in vars(
        other
    )


@torch.no_grad()
def test_an_inner_model_of_two_outer_ones(clone, inputs):
    other = transformers.LlavaForConditionalGeneration(clone.config).eval()
    other.model, other.lm_head = clone.model, clone.lm_head
    zoprune.prune(clone, 6)
    zoprune.prune(other, 3)
    shapes = [m(**inputs).logits.shape[1] for m in (clone, other)]
    assert shapes == [11, 8]
    zoprune.restore(other)
    assert clone(**inputs).logits.shape[1] == clone.model(**inputs)[0].shape[1] == 11
    zoprune.restore(clone)
    assert other(**inputs).logits.shape[1] == clone(**inputs).logits.shape[1] == 21
    assert not hooks_of(clone) and not hooks_of(other)


@torch.no_grad()
def test_somebody_elses_generate_stays(clone, inputs):
    greedy = dict(max_new_tokens=3, do_sample=False)
    calls = []

    def theirs(*args, **kwargs):
        calls.append(args)
        return type(clone).generate(clone, *args, **kwargs)

    expected = zoprune.prune(copy.deepcopy(clone), 6).generate(**inputs, **greedy)
    clone.generate = theirs
    zoprune.prune(zoprune.prune(clone, 5), 6)
    assert torch.equal(clone.generate(**inputs, **greedy), expected) and calls
    zoprune.restore(clone)
    assert clone.generate is theirs


@torch.no_grad()
def test_copies_hold_a_generate_of_their_own(inputs):
    greedy = dict(max_new_tokens=3, do_sample=False)
    clone = zoprune.prune(make(CASE), 6)
    pickled = pickle.dumps(clone)  # before a call: transformers adds hooks then
    expected = clone.generate(**inputs, **greedy)
    for other in (copy.deepcopy(clone), pickle.loads(pickled)):
        assert other.generate.model is other
        assert torch.equal(other.generate(**inputs, **greedy), expected)
        zoprune.restore(clone)
        assert str(zoprune.report(other)) == "6 of 16"
        assert other(**inputs).logits.shape[1] == 11
        zoprune.prune(clone, 6)


def test_gradient_checkpointing(clone, inputs):
    gradients = []
    for checkpoint in (False, True):
        trained = zoprune.prune(copy.deepcopy(clone).train(), 6)
        if checkpoint:
            trained.gradient_checkpointing_enable()
        trained(**inputs, labels=inputs["input_ids"]).loss.backward()
        gradients.append(projector_of(trained).linear_1.weight.grad)
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().sum() > 0
