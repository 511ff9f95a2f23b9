"""Each architecture: a pruned model against its language model on hand-pruned embeddings."""

import copy

import pytest
import torch
from packaging.version import Version

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import zoprune  # noqa: E402
from zoprune.hf import compat  # noqa: E402
from zoprune.hf.compat import core_of  # noqa: E402
from zoprune.hf.settings import pruning_of  # noqa: E402

from tests.hf import flash as hf_flash  # noqa: E402
from tests.hf.flash import FLASH, uses_flash  # noqa: E402
from tests.hf.hand_pruned import V5_18, continued, hand_pruned, logits_of  # noqa: E402
from tests.hf.linear_models import VIEW  # noqa: E402
from tests.hf.mlp_models import IMAGE, VIDEO, VOCAB  # noqa: E402
from tests.hf.models import CASES, make, prompt  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
V4 = Version(transformers.__version__) < Version("5")
LAYOUTS = {"one": ((1,), "left"), "left": ((2, 1), "left"), "right": ((1, 2), "right")}
layouts = pytest.mark.parametrize("layout", LAYOUTS)
attentions = pytest.mark.parametrize("case", ["sdpa", FLASH], indirect=True)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def family(request):
    """(case, model) of one family; restored after each use by ``pruned``."""
    return request.param, make(request.param)


@pytest.fixture
def case(family, request, monkeypatch):
    case, model = family
    flash = getattr(request, "param", "sdpa") == FLASH
    if flash and not case.flash:
        pytest.skip("tested with sdpa only")
    if flash:
        hf_flash.install(monkeypatch)
        hf_flash.use(model, FLASH)
    yield case
    if flash:
        hf_flash.use(model, "sdpa")
    zoprune.restore(model)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.fixture
def model(family, case):
    return family[1]


def skip_positions(case, positions):
    if case.mrope and positions == "compact":
        pytest.skip("multimodal rotary positions are always the original ones")
    if case.by_columns and positions == "original":
        pytest.skip("its attention counts columns")


@torch.no_grad()
@layouts
def test_keeping_all_tokens_changes_nothing(case, model, layout):
    rows, padding = LAYOUTS[layout]
    inputs = prompt(case, model, rows, padding)
    expected = model(**inputs).logits
    zoprune.prune(model, 1.0)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(model(**inputs).logits[real], expected[real], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_keeping_all_tokens_generates_the_same(case, model):
    inputs = prompt(case, model, (2, 1))
    expected = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    zoprune.prune(model, 1.0)
    assert torch.equal(model.generate(**inputs, max_new_tokens=3, do_sample=False), expected)


@torch.no_grad()
@attentions
@layouts
@pytest.mark.parametrize("positions", ["compact", "original"])
def test_logits_are_those_of_hand_pruned_embeddings(case, model, layout, positions):
    skip_positions(case, positions)
    rows, padding = LAYOUTS[layout]
    inputs = prompt(case, model, rows, padding)
    zoprune.prune(model, 5, positions=positions)
    logits = model(**inputs).logits
    kept = zoprune.report(model).kept
    zoprune.restore(model)
    hand = hand_pruned(case, model, inputs, kept, positions)
    assert logits.shape[1] == max(row["inputs_embeds"].shape[1] for row in hand)
    for row, expected in enumerate(logits_of(model, row) for row in hand):
        where = slice(-len(expected), None) if padding == "left" else slice(0, len(expected))
        torch.testing.assert_close(logits[row, where], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@attentions
@pytest.mark.parametrize("layout", ["one", "left"])
@pytest.mark.parametrize("positions", ["compact", "original"])
def test_generation_is_that_of_hand_pruned_embeddings(case, model, layout, positions):
    skip_positions(case, positions)
    inputs = prompt(case, model, *LAYOUTS[layout])
    zoprune.prune(model, 5, positions=positions)
    output = model.generate(
        **inputs,
        max_new_tokens=3,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    kept = zoprune.report(model).kept
    zoprune.restore(model)
    length = inputs["input_ids"].shape[1]
    assert torch.equal(output.sequences[:, :length], inputs["input_ids"])
    for row, hand in enumerate(hand_pruned(case, model, inputs, kept, positions)):
        ids = output.sequences[row, length:]
        expected = continued(model, hand, ids)
        assert torch.equal(ids, expected.argmax(-1))
        logits = torch.stack([step[row] for step in output.logits])
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def sees_what_comes_with_it(case, model):
    """Whether a token attends to all that are given with it, drafts and a next turn too.

    So do those of PaliGemma, but for sdpa in transformers 5 and flash attention in 4.
    """
    return case.bidirectional == "prompt" and V4 != uses_flash(model)


def refuse_to_draft(model):
    if getattr(model, "_is_stateful", False):
        pytest.skip("transformers guesses no tokens for a model with a recurrent state")


@torch.no_grad()
@attentions
def test_guessed_tokens_change_nothing(case, model):
    if sees_what_comes_with_it(case, model):
        pytest.skip("drafts attend to each other")
    refuse_to_draft(model)
    inputs = prompt(case, model, (1,))
    inputs["input_ids"][0, -1] = inputs["input_ids"][0, 0]  # a guess for the first step already
    options = dict(max_new_tokens=6, do_sample=False, suppress_tokens=[IMAGE, VIDEO])
    zoprune.prune(model, 5)
    expected = model.generate(**inputs, **options)
    lookup = dict(prompt_lookup_num_tokens=2, eos_token_id=VOCAB)
    assert torch.equal(model.generate(**inputs, **options, **lookup), expected)


@torch.no_grad()
@attentions
def test_beams_of_a_batch(case, model):
    """Rows that keep different numbers of tokens: each beam has those of its own image."""
    if case.name == "llama4" or (case.name == "glm4v-video" and not V5_18):
        pytest.skip("transformers does not repeat these features, pruned or not")
    inputs = prompt(case, model, (1, 1))
    options = dict(max_new_tokens=4, do_sample=False, suppress_tokens=[IMAGE, VIDEO])
    options |= dict(num_beams=2, num_return_sequences=2, return_dict_in_generate=True)
    zoprune.prune(model, 9, per="call")
    output = model.generate(**inputs, **options, output_scores=True)
    kept, positions = zoprune.report(model).kept, pruning_of(model).positions
    zoprune.restore(model)
    hand = [row for row in hand_pruned(case, model, inputs, kept, positions) for _ in range(2)]
    answers = zip(hand, output.sequences, output.sequences_scores, strict=True)
    for row, ids, score in answers:
        answer = ids[-4:]
        chosen = continued(model, row, answer).log_softmax(-1).gather(1, answer[:, None])
        torch.testing.assert_close(chosen.mean(), score, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@attentions
def test_a_model_that_drafts_changes_nothing(case, model):
    if sees_what_comes_with_it(case, model):
        pytest.skip("drafts attend to each other")
    refuse_to_draft(model)
    inputs, assistant = prompt(case, model), copy.deepcopy(model)
    greedy = dict(max_new_tokens=5, do_sample=False, suppress_tokens=[IMAGE, VIDEO])
    zoprune.prune(model, 5)
    expected = model.generate(**inputs, **greedy)
    drafts = dict(assistant_model=assistant, eos_token_id=VOCAB)
    assert torch.equal(model.generate(**inputs, **greedy, **drafts), expected)


@torch.no_grad()
@attentions
def test_a_static_cache_changes_nothing(case, model):
    if uses_flash(model) and (V4 or (5, 18) <= compat.VERSION < (5, 21)):
        pytest.skip("this transformers' flash attention sees what of a cache is still empty")
    if case.name.startswith("inkling2"):
        pytest.skip("its attention takes no static cache, pruned or not")
    greedy = dict(max_new_tokens=3, do_sample=False)
    zoprune.prune(model, 6)
    inputs = prompt(case, model, (1,) if uses_flash(model) else (2, 1))
    expected = model.generate(**inputs, **greedy)
    output = model.generate(**inputs, **greedy, cache_implementation="static")
    assert torch.equal(output, expected)


@torch.no_grad()
def test_eager_attention_gives_the_same(case, model):
    inputs = prompt(case, model, (2, 1))
    before = model.config.get_text_config()._attn_implementation
    zoprune.prune(model, 5)
    expected = model(**inputs).logits
    hf_flash.use(model, "eager")
    logits = model(**inputs).logits
    hf_flash.use(model, before)
    real = zoprune.report(model).shorten(inputs["attention_mask"], 0).bool()
    torch.testing.assert_close(logits[real], expected[real], atol=1e-4, rtol=1e-4)


def test_loss_and_gradients(case, model):
    """Those of the unpruned model with all tokens, and with some, of the kept columns."""
    inputs = prompt(case, model, (2, 1))
    hidden = (inputs["input_ids"] == case.placeholder) | (inputs["attention_mask"] == 0)
    labels = inputs["input_ids"].masked_fill(hidden, -100)

    def trained():
        model.zero_grad()
        output = model(**inputs, labels=labels)
        output.loss.backward()
        return output, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    try:
        unpruned, expected = trained()
        zoprune.prune(model, 1.0)
        output, gradients = trained()
        torch.testing.assert_close(output.loss, unpruned.loss)
        torch.testing.assert_close(gradients, expected, atol=1e-5, rtol=1e-3)
        zoprune.prune(model, 5)
        output, gradients = trained()
        short = zoprune.report(model).shorten(labels)[:, 1:]
        loss = torch.nn.functional.cross_entropy(
            output.logits[:, :-1].flatten(0, 1), short.flatten()
        )
        torch.testing.assert_close(output.loss, loss)
        family = pruning_of(model).family
        parts = {p for m in family.modules(core_of(model)) for p in m.parameters()}
        names = [n for n, p in model.named_parameters() if p in parts]
        assert names and any(gradients[name].abs().sum() > 0 for name in names)
    finally:
        model.zero_grad()


@torch.no_grad()
def test_the_cache_shrinks_with_the_prompt(case, model):
    inputs = prompt(case, model, (2,))
    full = model(**inputs, use_cache=True).past_key_values.get_seq_length()
    zoprune.prune(model, 3)
    pruned = model(**inputs, use_cache=True).past_key_values.get_seq_length()
    report = zoprune.report(model)
    assert full - pruned == sum(report.tokens) - sum(len(kept) for kept in report.kept) > 0


@torch.no_grad()
def test_the_most_sensitive_token_of_each_image_is_kept(case, model):
    inputs = prompt(case, model, (1, 1))
    zoprune.prune(model, 2)
    model(**inputs)
    report = zoprune.report(model)
    for kept, scores in zip(report.kept, report.scores, strict=True):
        assert int(scores.nan_to_num(-1).argmax()) in kept
        if case.linear:
            assert scores.unique().numel() == 1
        else:
            assert scores[~scores.isnan()].unique().numel() > 1


@torch.no_grad()
def test_scores_are_of_the_right_tokens(case, model):
    """The described projector, on the rows that are scored, gives the model's own features."""
    inputs = prompt(case, model, (2,))
    zoprune.prune(model, 5)
    settings = pruning_of(model)
    tokens = settings.family.encode(core_of(model), inputs, case.modality)
    outputs = settings.projector(core_of(model)).project(tokens.x)  # [R, D]
    if tokens.arrange is not None:
        outputs = tokens.arrange(outputs, torch.nan)
    newline = outputs.isnan().any(-1)
    features = torch.cat(list(tokens.features))
    if V4 and case.name == "paligemma":
        features = features * model.config.text_config.hidden_size**0.5
    torch.testing.assert_close(outputs[~newline], features[~newline], atol=1e-5, rtol=1e-4)


@torch.no_grad()
@attentions
@pytest.mark.parametrize("positions", ["compact", "original"])
def test_a_conversation_goes_on_from_the_cache(case, model, positions):
    skip_positions(case, positions)
    inputs = prompt(case, model, (2,))
    options = dict(max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    options["suppress_tokens"] = [case.placeholder]
    zoprune.prune(model, 5, positions=positions)
    first = model.generate(**inputs, **options)
    longer = torch.cat([first.sequences, torch.tensor([[7, 8, 9]])], dim=1)
    turn = {"input_ids": longer, "attention_mask": torch.ones_like(longer)}
    cache = {"past_key_values": first.past_key_values}
    with pytest.raises(ValueError, match="beside images"):
        model.generate(**inputs, **cache)
    if V4 and case.mrope:
        with pytest.raises(ValueError, match="transformers < 5"):
            model.generate(**turn, **cache)
        return
    if sees_what_comes_with_it(case, model):
        pytest.skip("tokens of the next turn attend to each other")
    again = inputs | turn
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in inputs:
            more = longer.shape[1] - inputs[name].shape[1]
            value = int(case.bidirectional == "prompt")  # what follows the prompt
            again[name] = torch.nn.functional.pad(inputs[name], (0, more), value=value)
    expected = model.generate(**again, **options, output_logits=True)
    output = model.generate(**turn, **cache, **options, output_logits=True)
    assert torch.equal(output.sequences, expected.sequences)
    for got, want in zip(output.logits, expected.logits, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_budget_per_crop_or_frame(case, model):
    if case.groups is None:
        pytest.skip("the family has images only")
    inputs = prompt(case, model, (2,))
    zoprune.prune(model, 2, per=case.groups)
    model(**inputs)
    report = zoprune.report(model)
    structure = [int(scores.isnan().sum()) for scores in report.scores]
    kept = [len(k) for k in report.kept]
    if case.views:
        per_view = [(k // VIEW).bincount().tolist() for k in report.kept]
        assert per_view == [[2] * views for views in case.views[:2]]
        return
    if case.crops:
        for tokens, views in zip(report.kept, case.crops[:2], strict=True):
            ends = torch.tensor(views).cumsum(0)
            of_view = torch.bucketize(tokens, ends, right=True)
            assert of_view.bincount(minlength=len(views)).tolist() == [2] * len(views)
        return
    if case.groups == "crop":
        assert [int((k < 16).sum()) for k in report.kept] == [2, 2]  # the base view
        assert all(k - s > 2 for k, s in zip(kept, structure, strict=True))
        return
    for tokens, scores, frames in zip(report.kept, report.scores, case.frames[:2], strict=True):
        area = int((~scores.isnan()).sum()) // frames
        in_frames = tokens[tokens < area * frames]
        assert (in_frames // area).bincount().tolist() == [2] * frames
    assert [k - s for k, s in zip(kept, structure, strict=True)] == [2 * f for f in case.frames[:2]]
