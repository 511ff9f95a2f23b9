"""peft: adapters on attention and on the projector; before, after, merged, disabled."""

import copy

import pytest
import torch
import zoprune

peft = pytest.importorskip("peft", reason="pip install 'zoprune_kernels[toolchain]'")

pytestmark = pytest.mark.usefixtures("one_thread")
PROJECTOR = ["linear_1", "linear_2"]


def lora(**options):
    return peft.LoraConfig(
        r=2, lora_alpha=8, target_modules=PROJECTOR, init_lora_weights=False, **options
    )


def merged_scores(tiny, model):
    """Of the plain weights base + delta."""
    merged = copy.deepcopy(model).merge_and_unload()
    return tiny.scores_of(zoprune.prune(zoprune.restore(merged), 6))


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-3, atol=0)


@pytest.mark.parametrize("order", ["before", "after"])
def test_an_adapter_on_the_projector(tiny, order):
    model = tiny.copy()
    if order == "before":
        zoprune.prune(model, 6)
        tiny.scores_of(model)
    model = peft.get_peft_model(model, lora()).eval()
    if order == "after":
        assert zoprune.prune(model, 6) is model
    expected = merged_scores(tiny, model)
    close(tiny.scores_of(model), expected)
    assert not torch.allclose(expected, tiny.scores, rtol=0.01)
    with model.disable_adapter():
        close(tiny.scores_of(model), tiny.scores)
    model.merge_adapter()
    close(tiny.scores_of(model), expected)
    model.unmerge_adapter()
    close(tiny.scores_of(model), expected)
    with torch.no_grad():
        assert model.generate(**tiny.inputs, **tiny.greedy).shape[1] == 25
    zoprune.restore(model)
    assert model(**tiny.inputs).logits.shape[1] == 21


@pytest.mark.parametrize(
    "config",
    [
        lora(use_dora=True),
        peft.IA3Config(target_modules=["linear_1"], feedforward_modules=[]),
        peft.LoHaConfig(r=2, target_modules=PROJECTOR, init_weights=False),
        peft.VeraConfig(r=2, target_modules=["linear_2"], init_weights=False),
    ],
    ids=lambda config: config.peft_type.value,
)
def test_other_adapters(tiny, config):
    model = zoprune.prune(peft.get_peft_model(tiny.copy(), config).eval(), 6)
    close(tiny.scores_of(model), merged_scores(tiny, model))


@pytest.mark.parametrize("order", ["before", "after"])
@torch.no_grad()
def test_a_projector_that_is_trained_as_a_whole(tiny, order):
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["multi_modal_projector"]
    )
    model = tiny.copy()
    if order == "before":
        zoprune.prune(model, 6)
        tiny.scores_of(model)
    model = peft.get_peft_model(model, config).eval()
    zoprune.prune(model, 6)
    wrapper = model.base_model.model.model.multi_modal_projector
    wrapper.modules_to_save["default"].linear_2.weight.data.mul_(3)
    close(tiny.scores_of(model), 3 * tiny.scores)
    with model.disable_adapter():
        close(tiny.scores_of(model), tiny.scores)


def test_an_adapter_on_attention_trains(tiny):
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = zoprune.prune(peft.get_peft_model(tiny.copy(), config), 6)
    output = model(**tiny.inputs, labels=tiny.labels)
    output.loss.backward()
    assert output.logits.shape[1] == 11
    adapters = [p for n, p in model.named_parameters() if "lora_B" in n and "language" in n]
    assert adapters and all(p.grad.abs().sum() > 0 for p in adapters)
