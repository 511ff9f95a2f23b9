"""What ``prune`` leaves intact around a model: generation modes, copies, files, threads, errors."""

import copy
import io
import threading

import pytest
import torch

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import zoprune  # noqa: E402

from tests.hf.mlp_models import TEXT  # noqa: E402
from tests.hf.models import CASES, IMAGE, make, prompt  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
CASE = CASES[0]
GREEDY = dict(max_new_tokens=5, do_sample=False)


def pruned_inputs(model, inputs, keep, **options):
    """The shortened prompt as inputs of the unpruned model, and the kept indices."""
    zoprune.prune(model, keep, **options)
    model(**inputs)
    kept = zoprune.report(model).kept[0]
    zoprune.restore(model)
    features = model.model.get_image_features(inputs["pixel_values"])
    features = getattr(features, "pooler_output", features)[0][kept]
    ids = inputs["input_ids"][0]
    start = int((ids == IMAGE).int().argmax())
    columns = torch.cat([torch.arange(start), start + kept, torch.arange(start + 16, len(ids))])
    embeds = model.get_input_embeddings()(ids[columns])
    embeds[ids[columns] == IMAGE] = features
    mask = torch.ones(1, len(columns), dtype=torch.long)
    return {"inputs_embeds": embeds[None], "input_ids": ids[columns][None], "attention_mask": mask}


@torch.no_grad()
@pytest.mark.parametrize(
    "mode",
    [
        dict(num_beams=3),
        dict(num_beams=2, num_return_sequences=2),
        dict(cache_implementation="static"),
        dict(repetition_penalty=1.3),
        dict(min_new_tokens=4),
    ],
    ids=lambda mode: "-".join(mode),
)
def test_generation_modes(model, inputs, mode):
    options = GREEDY | mode
    short = pruned_inputs(model, inputs, 6)
    expected = model.generate(**short, **options)[:, short["input_ids"].shape[1] :]
    zoprune.prune(model, 6)
    output = model.generate(**inputs, **options)
    length = inputs["input_ids"].shape[1]
    assert torch.equal(output[:, :length], inputs["input_ids"].expand(len(output), -1))
    assert torch.equal(output[:, length:], expected)


@torch.no_grad()
@pytest.mark.parametrize("positions", ["compact", "original"])
def test_drafted_tokens_change_nothing(model, inputs, positions, monkeypatch):
    monkeypatch.setitem(TEXT, "hidden_size", 64)
    wider = make(CASE)
    greedy = GREEDY | dict(max_new_tokens=12, eos_token_id=98)
    zoprune.prune(model, 6, positions=positions)
    expected = model.generate(**inputs, **greedy)
    output = model.generate(**inputs, **greedy, prompt_lookup_num_tokens=3)
    assert torch.equal(output, expected)
    for assistant in (zoprune.restore(copy.deepcopy(model)), wider):
        output = model.generate(**inputs, **greedy, assistant_model=assistant)
        assert torch.equal(output, expected)


@torch.no_grad()
def test_sampling_follows_the_seed(model, inputs):
    zoprune.prune(model, 6)
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        outputs.append(model.generate(**inputs, max_new_tokens=5, do_sample=True))
    assert torch.equal(*outputs)


@torch.no_grad()
def test_lengths_count_the_full_prompt(model, inputs):
    zoprune.prune(model, 6)
    length = inputs["input_ids"].shape[1]
    assert model.generate(**inputs, max_length=length + 4, do_sample=False).shape[1] == length + 4
    config = copy.deepcopy(model.generation_config)
    config.max_length = length + 3
    output = model.generate(**inputs, generation_config=config, do_sample=False)
    assert output.shape[1] == length + 3
    assert model.generate(**inputs, **GREEDY).shape[1] == length + 5


@torch.no_grad()
@pytest.mark.parametrize("as_list", [True, False])
def test_the_callers_own_criteria_count_the_full_prompt(model, inputs, as_list):
    """Those of transformers; what the caller wrote sees the shortened one."""
    length = inputs["input_ids"].shape[1]
    stop = [transformers.MaxLengthCriteria(length + 3)]
    least = [transformers.MinLengthLogitsProcessor(length + 3, 98)]
    seen = []

    class Own(transformers.StoppingCriteria):
        max_length = 7

        def __call__(self, ids, scores, **kwargs):
            seen.append((ids.shape[1], self.max_length))
            return torch.zeros(len(ids), dtype=torch.bool)

    stop.append(Own())
    if not as_list:
        stop = transformers.StoppingCriteriaList(stop)
        least = transformers.LogitsProcessorList(least)
    always = {98: 100.0}
    bias = dict(sequence_bias={(token,): value for token, value in always.items()})
    zoprune.prune(model, 6)
    given = dict(do_sample=False, stopping_criteria=stop)
    assert model.generate(**inputs, **given).shape[1] == length + 3
    assert seen == [(length - 10 + n, 7) for n in (1, 2, 3)]
    assert stop[0].max_length == length + 3
    given = dict(do_sample=False, eos_token_id=98, max_new_tokens=9, **bias)
    assert model.generate(**inputs, **given).shape[1] == length + 1
    output = model.generate(**inputs, **given, logits_processor=least)
    assert output.shape[1] == length + 4 and least[0].min_length == length + 3


@torch.no_grad()
def test_prompt_given_by_position_and_as_a_dict(model, inputs):
    zoprune.prune(model, 6)
    expected = model.generate(**inputs, **GREEDY)
    rest = {k: v for k, v in inputs.items() if k != "input_ids"}
    assert torch.equal(model.generate(inputs["input_ids"], **rest, **GREEDY), expected)
    output = model.generate(**inputs, **GREEDY, return_dict_in_generate=True, output_scores=True)
    assert torch.equal(output.sequences, expected) and len(output.scores) == 5
    logits = model(inputs["input_ids"], **rest).logits
    assert torch.equal(logits, model(**inputs).logits)


@torch.no_grad()
def test_text_only_calls_are_untouched(model, inputs):
    text = {"input_ids": torch.tensor([[3, 4, 5]]), "attention_mask": torch.ones(1, 3).long()}
    expected = model(**text).logits
    zoprune.prune(model, 6)
    assert torch.equal(model(**text).logits, expected)


@torch.no_grad()
def test_restore_leaves_no_trace(model, inputs):
    before = set(vars(model)), type(model), model(**inputs).logits
    zoprune.prune(model, 6)
    assert isinstance(model, before[1])
    model(**inputs)
    assert zoprune.restore(model) is model
    zoprune.restore(model)
    assert (set(vars(model)), type(model)) == before[:2]
    assert not model.model.multi_modal_projector._forward_hooks
    assert torch.equal(model(**inputs).logits, before[2])


@torch.no_grad()
def test_pruning_again_replaces_the_settings(model, inputs):
    zoprune.prune(zoprune.prune(model, 3), 0.5)
    model(**inputs)
    assert len(zoprune.report(model).kept[0]) == 8
    assert len(model.model.multi_modal_projector._forward_hooks) == 1
    zoprune.restore(model)
    assert type(model) is transformers.LlavaForConditionalGeneration


@torch.no_grad()
def test_copies_are_independent(model, inputs):
    buffer = io.BytesIO()
    torch.save(zoprune.prune(make(CASE), 6), buffer)  # before a call: transformers adds hooks then
    buffer.seek(0)
    expected = zoprune.prune(model, 6)(**inputs).logits
    for clone in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert torch.equal(clone(**inputs).logits, expected)
        zoprune.restore(clone)
        assert clone(**inputs).logits.shape[1] > expected.shape[1]
        assert torch.equal(model(**inputs).logits, expected)


@torch.no_grad()
def test_a_saved_model_loads_unpruned(model, inputs, tmp_path):
    full = model(**inputs).logits
    zoprune.prune(model, 6)
    pruned = model(**inputs).logits
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(**inputs).logits, full)
    torch.testing.assert_close(zoprune.prune(loaded, 6)(**inputs).logits, pruned)


@torch.no_grad()
def test_keep_overrides_the_budget_of_one_thread(model, inputs):
    zoprune.prune(model, 6)
    full = zoprune.restore(copy.deepcopy(model))(**inputs).logits

    def kept():
        model(**inputs)
        return len(zoprune.report(model).kept[0])

    with zoprune.keep(3):
        assert kept() == 3
        counts = []
        thread = threading.Thread(target=lambda: counts.append(kept()))
        thread.start()
        thread.join()
        assert counts == [6]
        with zoprune.keep(0.25):
            assert kept() == 4
        with zoprune.keep(None):
            torch.testing.assert_close(model(**inputs).logits, full, atol=1e-5, rtol=1e-5)
        assert kept() == 3
    assert kept() == 6


def test_threads_do_not_see_each_other(model):
    zoprune.prune(model, 6)
    prompts = [prompt(CASE, model, (1 + i % 2,)) for i in range(6)]
    results = {}

    def call(index):
        with torch.no_grad(), zoprune.keep(index + 2):
            logits = [model(**prompts[index]).logits for _ in range(4)]
            results[index] = logits, zoprune.report(model).kept

    with torch.no_grad():
        threads = [threading.Thread(target=call, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for index, (logits, kept) in results.items():
            assert [len(k) for k in kept] == [index + 2] * (1 + index % 2)
            with zoprune.keep(index + 2):
                expected = model(**prompts[index]).logits
            for result in logits:
                torch.testing.assert_close(result, expected)
    assert len(results) == 6


def test_a_report_belongs_to_the_thread_of_the_call(model, inputs):
    zoprune.prune(model, 6)
    errors = []

    def ask():
        try:
            zoprune.report(model)
        except RuntimeError as error:
            errors.append(str(error))

    with torch.no_grad():
        model(**inputs)
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert "has not been called in this thread" in errors[0]
    assert str(zoprune.report(model)) == "6 of 16"


@torch.no_grad()
def test_compiled_forward(model, inputs):
    zoprune.prune(model, 6)
    expected = model(**inputs).logits
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(**inputs).logits, expected)
    with zoprune.keep(3):
        assert compiled(**inputs).logits.shape[1] == expected.shape[1] - 3


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        dict(estimator="directions", num_directions=8),
        dict(estimator="directions", num_directions=8, step=0, distribution="orthogonal", seed=4),
        dict(method="maxmin"),
        dict(method="topk", max_similarity=0.5),
        dict(method="random"),
        dict(method="dpp"),
        dict(method="coverage"),
        dict(method="suppress", rule="hard", threshold=0.8),
        dict(method="mmr", tradeoff=0.7, first="isolated"),
        dict(prompt_seeds=2),
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_every_estimator_and_method_keeps_the_budget(model, inputs, options):
    zoprune.prune(model, 6, **options)
    model(**inputs)
    kept = zoprune.report(model).kept[0]
    assert len(kept) == 6 and kept.unique().numel() == 6 and 0 <= kept.min() <= kept.max() < 16


@torch.no_grad()
def test_prompt_seeds_are_the_tokens_most_like_the_text(model, inputs):
    zoprune.prune(model, 3, prompt_seeds=3)
    model(**inputs)
    features = model.model.get_image_features(inputs["pixel_values"])
    features = getattr(features, "pooler_output", features)[0]
    ids = inputs["input_ids"][0]
    text = model.get_input_embeddings()(ids[ids != IMAGE]).mean(0)
    best = torch.cosine_similarity(features, text[None], dim=-1).topk(3).indices
    assert set(zoprune.report(model).kept[0].tolist()) == set(best.tolist())


@torch.no_grad()
def test_half_precision(model, inputs):
    half = copy.deepcopy(model).to(torch.bfloat16)
    zoprune.prune(half, 6)
    logits = half(**{**inputs, "pixel_values": inputs["pixel_values"].bfloat16()}).logits
    assert logits.dtype == torch.bfloat16 and logits.isfinite().all()


def test_changed_weights_fold_a_new_metric(model, inputs):
    clone = copy.deepcopy(model)
    zoprune.prune(clone, 6)
    with torch.no_grad():
        clone(**inputs)
        before = zoprune.report(clone).scores[0]
        clone.model.multi_modal_projector.linear_2.weight.mul_(3)
        clone(**inputs)
    torch.testing.assert_close(zoprune.report(clone).scores[0], 3 * before, rtol=1e-3, atol=0)


@torch.no_grad()
def test_a_saved_metric_is_loaded_and_checked(model, inputs, tmp_path):
    file = tmp_path / "metric.safetensors"
    expected = zoprune.prune(model, 6, metric=file)(**inputs).logits
    clone = zoprune.restore(copy.deepcopy(model))
    assert torch.equal(zoprune.prune(clone, 6, metric=file)(**inputs).logits, expected)
    clone.model.multi_modal_projector.linear_1.weight.add_(1)
    with pytest.raises(ValueError, match="a metric of this projector's weights"):
        zoprune.prune(clone, 6, metric=file)


@torch.no_grad()
def test_labels_are_shortened_too(model, inputs):
    zoprune.prune(model, 6)
    output = model(**inputs, labels=inputs["input_ids"])
    assert output.loss.isfinite() and output.logits.shape[1] == inputs["input_ids"].shape[1] - 10


def test_gradients_reach_the_projector(model, inputs):
    clone = zoprune.prune(copy.deepcopy(model), 6)
    clone(**inputs).logits.sum().backward()
    assert clone.model.multi_modal_projector.linear_1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        (ValueError, dict(keep=0), "keep: expected a count >= 1 or a ratio in"),
        (ValueError, dict(keep=1.5), "keep: expected a count >= 1 or a ratio in"),
        (ValueError, dict(keep=True), "got True"),
        (ValueError, dict(keep=4, per="frame"), "per: expected 'image', got 'frame'"),
        (ValueError, dict(keep=4, estimator="exact"), "estimator: expected 'closed'"),
        (ValueError, dict(keep=4, positions="gaps"), "positions: expected one of compact"),
        (ValueError, dict(keep=4, method="best"), "method: expected one of sads.*, coverage"),
        (
            ValueError,
            dict(keep=4, method="dpp", max_similarity=0.5),
            "expected 1 with method 'dpp'",
        ),
        (ValueError, dict(keep=4, tradeof=0.5), "tradeof: expected one of the options centre, "),
    ],
)
def test_wrong_arguments(model, error, arguments, message):
    with pytest.raises(error, match=message):
        zoprune.prune(model, **arguments)
    assert type(model) is transformers.LlavaForConditionalGeneration


def test_an_unsupported_model_names_what_is_supported():
    with pytest.raises(TypeError) as caught:
        zoprune.prune(torch.nn.Linear(2, 2), 4)
    for part in ("got Linear", "LlavaForConditionalGeneration", "zoprune.PrunedProjector"):
        assert part in str(caught.value)


def test_prompt_and_images_must_match(model, inputs):
    zoprune.prune(model, 4)
    with pytest.raises(ValueError, match=r"expected 32 image tokens .*, got 16"):
        model(**{**inputs, "pixel_values": torch.randn(2, 3, 28, 28)})
