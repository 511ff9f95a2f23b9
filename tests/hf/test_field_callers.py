"""Situations from the field: who calls a pruned model, through what (rows 1, 2, 9, 23, 24)."""

import copy
import types

import pytest
import torch

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import zoprune  # noqa: E402
from torch import nn  # noqa: E402
from zoprune.hf import compat  # noqa: E402

from tests.hf.field import BY_NAME, GREEDY, V4, projector_of  # noqa: E402
from tests.hf.models import IMAGE, make, prompt  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def bind(model):
    model.forward = types.MethodType(type(model).forward, model)


def wrap(model):
    old = model.forward
    model.forward = lambda *args, **kwargs: old(*args, **kwargs)


@torch.no_grad()
@pytest.mark.parametrize("put", [bind, wrap])
@pytest.mark.parametrize("first", ["forward", "prune"])
def test_a_forward_on_the_instance(model, inputs, put, first):
    if V4 and put is wrap:
        pytest.skip("transformers 4 reads what generate passes off the forward's signature")
    clone = copy.deepcopy(model)
    expected = zoprune.prune(model, 6)(**inputs).logits
    answer = model.generate(**inputs, **GREEDY)
    if first == "forward":
        put(clone)
    zoprune.prune(clone, 6)
    if first == "prune":
        put(clone)
    assert torch.equal(clone(**inputs).logits, expected) and expected.shape[1] == 11
    assert torch.equal(clone.generate(**inputs, **GREEDY), answer)
    zoprune.restore(clone)
    assert clone(**inputs).logits.shape[1] == 21 and "forward" in vars(clone)


@torch.no_grad()
def test_a_forward_that_drops_the_features_is_refused(model, inputs):
    """It would see a prompt with placeholders and no image."""
    if transformers.__version__ < "5.18":
        pytest.skip("features travel as embeddings")
    old = model.forward
    zoprune.prune(model, 6)
    model.forward = lambda input_ids=None, attention_mask=None, pixel_values=None: old(
        input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixel_values
    )
    try:
        with pytest.raises(ValueError, match="expected a forward that takes mm_encoder_outputs"):
            model(**inputs)
    finally:
        del model.forward


@torch.no_grad()
@pytest.mark.parametrize("attribute", ["model", "base_model"])
def test_callers_below_forward(model, inputs, attribute):
    if getattr(model, attribute) is model:
        pytest.skip("transformers 4: the base model is the outer one")
    zoprune.prune(model, 6)
    expected = model(**inputs, output_hidden_states=True).hidden_states[-1]
    hidden = getattr(model, attribute)(**inputs)[0]
    assert hidden.shape[1] == 11
    torch.testing.assert_close(hidden, expected)
    rest = {k: v for k, v in inputs.items() if k != "input_ids"}
    assert torch.equal(model.model(inputs["input_ids"], **rest)[0], hidden)  # by position


def test_the_loss_through_a_fused_head(model, inputs):
    """As trl's trainer computes it: the outer forward is replaced, its head calls base_model."""
    if model.base_model is model:
        pytest.skip("transformers 4: the base model is the outer one")
    clone = zoprune.prune(copy.deepcopy(model), 6)
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE, -100)
    expected = clone(**inputs, labels=labels).loss

    def fused(self, *args, labels=None, **kwargs):
        hidden = self.base_model(*args, **kwargs)[0][:, :-1]
        logits = self.get_output_embeddings()(hidden)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())

    clone.forward = types.MethodType(fused, clone)
    torch.testing.assert_close(clone(**inputs, labels=labels), expected)


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


@torch.no_grad()
def test_images_beside_embeddings(model, inputs):
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    given = {k: v for k, v in inputs.items() if k != "input_ids"} | {"inputs_embeds": embeds}
    zoprune.prune(model, 6)
    expected, answer = model(**inputs).logits, model.generate(**inputs, **GREEDY)
    torch.testing.assert_close(model(**given).logits, expected)
    torch.testing.assert_close(model.model(**given)[0], model.model(**inputs)[0])
    assert torch.equal(model.generate(**given, **GREEDY), answer[:, 21:])


@torch.no_grad()
def test_images_without_a_prompt_are_refused_alike(model, inputs):
    zoprune.prune(model, 6)
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="input_ids: expected the prompt beside the images"):
            call(pixel_values=inputs["pixel_values"])


@torch.no_grad()
def test_features_computed_before_the_call_are_told_to_be_unpruned():
    """Idefics 3 takes them under a name, and in a form, that depend on the version."""
    case = BY_NAME["idefics3"]
    model = make(case)
    inputs = prompt(case, model)
    expected = model(**inputs).logits
    output = model.model.get_image_features(inputs.pop("pixel_values"))
    name, features = "mm_encoder_outputs", {"image": output}
    if not compat.FEEDS_FEATURES:
        name, features = "image_hidden_states", getattr(output, "pooler_output", output)
    zoprune.prune(model, 5)
    with pytest.warns(UserWarning, match=f"{name}: these features were computed before the call"):
        logits = model(**inputs, **{name: features}).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
