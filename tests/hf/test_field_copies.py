"""Situations from the field: several models that share parts, copies, files and threads."""

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import zoprune  # noqa: E402

from tests.hf.models import CASES, make, prompt  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
CASE = CASES[0]
GREEDY = dict(max_new_tokens=3, do_sample=False)


@torch.no_grad()
def length(model, inputs):
    """Columns of the language model's input: 21 unpruned, 11 with 6 tokens; alike in generate."""
    columns = model(**inputs).logits.shape[1]
    output = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
    cache = output["cache"] if "cache" in output else output["past_key_values"]
    assert cache.get_seq_length() == columns + 2
    return columns


def hooks_of(model):
    hooks = [h for m in model.modules() for h in (m._forward_pre_hooks, m._forward_hooks)]
    functions = [f for registered in hooks for f in registered.values()]
    return [f for f in functions if f.__module__.startswith("zoprune")]


@pytest.mark.parametrize("first", ["original", "copied"])
def test_a_shallow_copy_is_pruned_on_its_own(clone, inputs, first):
    copied = copy.copy(clone)
    pruned, plain = (clone, copied) if first == "original" else (copied, clone)
    zoprune.prune(pruned, 6)
    assert (length(pruned, inputs), length(plain, inputs)) == (11, 21)
    with pytest.raises(AttributeError), torch.no_grad():
        plain(**inputs, labels="x")  # what fails leaves no trace
    assert (length(pruned, inputs), length(plain, inputs)) == (11, 21)
    zoprune.prune(plain, 3)
    assert (length(pruned, inputs), length(plain, inputs)) == (11, 8)
    zoprune.restore(pruned)
    assert (length(pruned, inputs), length(plain, inputs)) == (21, 8)
    zoprune.restore(plain)
    assert (length(pruned, inputs), length(plain, inputs)) == (21, 21)
    assert not hooks_of(clone)


def test_a_shallow_copy_of_a_pruned_model(clone, inputs):
    copied = copy.copy(zoprune.prune(clone, 6))
    assert length(copied, inputs) == 11
    zoprune.restore(copied)
    assert (length(clone, inputs), length(copied, inputs)) == (11, 21)
    zoprune.prune(copied, 3)
    assert (length(clone, inputs), length(copied, inputs)) == (11, 8)
    zoprune.restore(clone)
    assert (length(clone, inputs), length(copied, inputs)) == (21, 8)
    zoprune.restore(copied)
    other = copy.copy(zoprune.prune(clone, 6))
    zoprune.restore(clone)  # the settings are those of the model that was copied
    assert (length(clone, inputs), length(other, inputs)) == (21, 21)
    zoprune.restore(other)
    assert not hooks_of(clone) and "_zoprune" not in vars(other) | vars(clone.model)


def test_two_outer_models_of_one_inner(clone, inputs):
    other = transformers.LlavaForConditionalGeneration(clone.config).eval()
    other.model, other.lm_head = clone.model, clone.lm_head
    other.generation_config = clone.generation_config
    zoprune.prune(clone, 6)
    zoprune.prune(other, 3)
    assert (length(clone, inputs), length(other, inputs)) == (11, 8)
    zoprune.restore(other)
    assert (length(clone, inputs), length(other, inputs)) == (11, 21)
    zoprune.restore(clone)
    assert (length(clone, inputs), length(other, inputs)) == (21, 21)
    assert not hooks_of(clone) and not hooks_of(other)


def test_the_inner_model_alone_is_refused(clone):
    with pytest.raises(TypeError, match=r"expected one of .* got LlavaModel"):
        zoprune.prune(clone.model, 6)


def save(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("through", [save, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_whole_models_in_files(clone, inputs, through):
    other = through(zoprune.prune(clone, 6))
    with torch.no_grad():
        assert torch.equal(other(**inputs).logits, clone(**inputs).logits)
    other.model.multi_modal_projector.linear_2.weight.data.mul_(-2)
    zoprune.restore(clone)
    assert (length(clone, inputs), length(other, inputs)) == (21, 11)
    zoprune.restore(other)
    assert length(other, inputs) == 21 and not hooks_of(other)


@torch.no_grad()
def test_a_checkpoint_of_a_pruned_model_is_an_ordinary_one(clone, inputs, tmp_path):
    zoprune.prune(clone, 6)
    clone.save_pretrained(tmp_path)
    loaded = type(clone).from_pretrained(tmp_path).eval()
    assert "zoprune" not in (tmp_path / "config.json").read_text() and not hooks_of(loaded)
    loaded.generation_config.eos_token_id = None
    assert length(loaded, inputs) == 21
    zoprune.prune(loaded, 6)
    torch.testing.assert_close(loaded(**inputs).logits, clone(**inputs).logits)
    assert set(clone.state_dict()) == set(loaded.state_dict())


@torch.no_grad()
def test_moved_and_loaded_after_prune(clone, inputs):
    other = make(CASE)
    for parameter in other.parameters():
        parameter.mul_(1.3)
    expected = zoprune.prune(copy.deepcopy(other), 6)(**inputs).logits
    zoprune.prune(clone, 6)(**inputs)
    clone.to("cpu", torch.float64).to(torch.float32)
    clone.load_state_dict(other.state_dict())
    torch.testing.assert_close(clone(**inputs).logits, expected, atol=1e-4, rtol=1e-4)


def test_threads_have_budgets_of_their_own(clone, inputs):
    zoprune.prune(clone, 6)

    @torch.no_grad()
    def call(keep):
        with zoprune.keep(keep):
            columns = clone(**inputs).logits.shape[1]
        return columns, str(zoprune.report(clone))

    budgets = [1, 3, 7, 16, 2, 9] * 3
    with ThreadPoolExecutor(4) as pool:
        for keep, got in zip(budgets, pool.map(call, budgets), strict=True):
            assert got == (5 + keep, f"{keep} of 16")


@torch.no_grad()
@pytest.mark.parametrize("rows", [(1,), (1, 2)])
def test_logits_in_the_columns_of_the_full_prompt(clone, rows):
    """Each column has the logits of the last kept column up to it."""
    inputs = prompt(CASE, clone, rows)
    zoprune.prune(clone, 4)
    short = clone(**inputs).logits
    columns = zoprune.report(clone).columns
    zoprune.prune(clone, 4, full_logits=True)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    output = clone(**inputs, labels=labels)
    assert output.logits.shape[:2] == inputs["input_ids"].shape
    assert output.logits is output["logits"]
    assert torch.equal(clone(**inputs, return_dict=False)[0], output.logits)
    assert torch.equal(clone(**inputs, labels=labels, return_dict=False)[1], output.logits)
    assert clone(**inputs, logits_to_keep=1).logits.shape[1] == 1
    for row in range(len(rows)):
        kept = (columns & (inputs["attention_mask"] == 1))[row].nonzero()[:, 0].tolist()
        padding = short.shape[1] - len(kept)
        for column in range(kept[0], columns.shape[1]):
            place = padding + sum(k <= column for k in kept) - 1
            assert torch.equal(output.logits[row, column], short[row, place])
    answer = clone.generate(**inputs, **GREEDY)
    zoprune.prune(clone, 4)
    assert torch.equal(clone.generate(**inputs, **GREEDY), answer)
    with pytest.raises(ValueError, match="full_logits: expected True or False, got 1"):
        zoprune.prune(clone, 4, full_logits=1)
