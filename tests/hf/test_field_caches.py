"""Situations from the field: going on from a cache (rows 3, 17, 25, 29)."""

import warnings

import pytest
import torch

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import zoprune  # noqa: E402
from transformers import DynamicCache, StaticCache  # noqa: E402

from tests.hf.field import BY_NAME, CACHE, CASE, GREEDY, V4, cache_of, next_turn  # noqa: E402
from tests.hf.models import IMAGE, make, prompt  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def qwen(request):
    case = BY_NAME[request.param]
    return case, make(case)


@torch.no_grad()
@pytest.mark.parametrize("own", [False, True])
def test_a_next_turn_from_a_cache_of_any_name(model, inputs, own):
    zoprune.prune(model, 6)
    given = {CACHE: DynamicCache()} if own else {}
    first = model.generate(**inputs, **GREEDY, **given, return_dict_in_generate=True)
    cache = given[CACHE] if own else cache_of(first)
    turn = next_turn(first.sequences)
    expected = model.generate(**(inputs | turn), **GREEDY)
    assert torch.equal(model.generate(**turn, **GREEDY, **{CACHE: cache}), expected)


@torch.no_grad()
def test_a_pruned_generate_warns_of_nothing(model, inputs, monkeypatch):
    said = []
    logger = transformers.utils.generic.logger  # which says each thing once only
    monkeypatch.setattr(logger, "warning_once", lambda message, *_: said.append(message))
    zoprune.prune(model, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
        model.generate(**next_turn(output.sequences), **GREEDY, **{CACHE: cache_of(output)})
        model(**inputs)
        model.model(**inputs)
    assert not said


@torch.no_grad()
@pytest.mark.parametrize("given", [True, False])
def test_forward_fills_a_cache_and_generate_goes_on(model, inputs, given):
    zoprune.prune(model, 6)
    own = {CACHE: DynamicCache()} if given else {}
    output = model(**inputs, use_cache=True, **own)
    turn = next_turn(inputs["input_ids"])
    expected = model.generate(**(inputs | turn), **GREEDY)
    cache = own[CACHE] if given else cache_of(output)
    assert torch.equal(model.generate(**turn, **GREEDY, **{CACHE: cache}), expected)


@torch.no_grad()
def test_the_inner_model_fills_a_cache(model, inputs):
    zoprune.prune(model, 6)
    output = model.model(**inputs, use_cache=True)
    turn = next_turn(inputs["input_ids"])
    expected = model.generate(**(inputs | turn), **GREEDY)
    assert torch.equal(model.generate(**turn, **GREEDY, **{CACHE: cache_of(output)}), expected)


@torch.no_grad()
@pytest.mark.parametrize("positions", ["compact", "original"])
@pytest.mark.parametrize("mask", ["none", "short", "full"])
def test_a_loop_over_forward(model, inputs, mask, positions):
    """With the mask of the shortened prompt, of the full one, or none."""
    zoprune.prune(model, 6, positions=positions)
    expected = model.generate(**inputs, **GREEDY)[0, 21:]
    output, tokens, length = model(**inputs, use_cache=True), [], 11 if mask == "short" else 21
    for step in range(5):
        token = output.logits[:, -1:].argmax(-1)
        tokens.append(int(token))
        given = (
            {} if mask == "none" else {"attention_mask": torch.ones(1, length + step + 1).long()}
        )
        output = model(input_ids=token, **{CACHE: cache_of(output)}, use_cache=True, **given)
    assert tokens == expected.tolist()


@torch.no_grad()
def test_a_cache_that_was_emptied_has_no_note(model, inputs):
    zoprune.prune(model, 6)
    text = {"input_ids": torch.tensor([[3, 4, 5] * 6]), "attention_mask": torch.ones(1, 18).long()}
    expected = model.generate(**text, **GREEDY)
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=40)
    model(**inputs, use_cache=True, **{CACHE: cache})
    cache.reset()
    assert torch.equal(model.generate(**text, **GREEDY, **{CACHE: cache}), expected)


@torch.no_grad()
@pytest.mark.parametrize("keep", [1.0, 3])
def test_a_loop_over_forward_with_multimodal_positions(qwen, keep):
    """The model keeps the distance of positions to columns for the tokens that follow."""
    case, model = qwen
    inputs = prompt(case, model, (2,))
    zoprune.prune(model, keep)
    options = GREEDY | dict(suppress_tokens=[case.placeholder])
    expected = model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :]
    model.model.rope_deltas = None
    output, tokens = model(**inputs, use_cache=True), []
    length = output.logits.shape[1]
    for step in range(5):
        logits = output.logits[:, -1:]
        logits[..., case.placeholder] = -torch.inf
        token = logits.argmax(-1)
        tokens.append(int(token))
        given = {"cache_position": torch.tensor([length + step])} if V4 else {}
        output = model(input_ids=token, **{CACHE: cache_of(output)}, use_cache=True, **given)
    zoprune.restore(model)
    assert tokens == expected.tolist()


@torch.no_grad()
def test_a_next_turn_with_the_first_ones_token_types(qwen):
    case, model = qwen
    inputs = prompt(case, model)
    if "mm_token_type_ids" not in inputs:
        pytest.skip("transformers 4 needs none")
    zoprune.prune(model, 3)
    options = GREEDY | dict(return_dict_in_generate=True, suppress_tokens=[case.placeholder])
    first = model.generate(**inputs, **options)
    turn = next_turn(first.sequences)
    types = inputs["mm_token_type_ids"]
    more = turn["input_ids"].shape[1] - types.shape[1]
    longer = inputs | turn | {"mm_token_type_ids": torch.nn.functional.pad(types, (0, more))}
    expected = model.generate(**longer, **options).sequences
    given = turn | {"mm_token_type_ids": types, CACHE: cache_of(first)}
    assert torch.equal(model.generate(**given, **options).sequences, expected)
    zoprune.restore(model)


@torch.no_grad()
def test_a_loop_over_forward_goes_on_from_generate(qwen):
    """Without a mask, which these models do not take there, pruned or not."""
    case, model = qwen
    inputs = prompt(case, model)
    zoprune.prune(model, 3)
    options = dict(do_sample=False, suppress_tokens=[case.placeholder])
    expected = model.generate(**inputs, **options, max_new_tokens=5)[:, -2:]
    model.model.rope_deltas = None
    options |= dict(max_new_tokens=3, return_dict_in_generate=True)
    first = model.generate(**inputs, **options)
    cache, token, tokens = cache_of(first), first.sequences[:, -1:], []
    for _ in range(2):
        given = {"cache_position": torch.tensor([cache.get_seq_length()])} if V4 else {}
        output = model(input_ids=token, **{CACHE: cache}, use_cache=True, **given)
        logits = output.logits[:, -1:]
        logits[..., case.placeholder] = -torch.inf
        token = logits.argmax(-1)
        tokens.append(token)
    zoprune.restore(model)
    assert torch.equal(torch.cat(tokens, 1), expected)


@torch.no_grad()
def test_a_next_turn_with_the_first_ones_labels(model, inputs):
    zoprune.prune(model, 6)
    first = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
    turn = next_turn(first.sequences)
    expected = model.generate(**(inputs | turn), **GREEDY)
    given = turn | {"labels": inputs["input_ids"], CACHE: cache_of(first)}
    if not V4:  # which refuses labels in generate, pruned or not
        assert torch.equal(model.generate(**given, **GREEDY), expected)


@torch.no_grad()
@pytest.mark.parametrize("positions", ["compact", "original"])
@pytest.mark.parametrize("mask", ["none", "short", "full"])
def test_a_next_turn_of_forward_brings_another_image(model, mask, positions):
    """As the whole conversation at once, in a batch whose first row is padded."""
    rows = (2,) if mask == "none" else (2, 2)
    whole = prompt(CASE, model, rows)
    ids, seen = whole["input_ids"], whole["attention_mask"]
    cut = int((ids[0] == IMAGE).nonzero()[16, 0]) - 1
    pixels = whole["pixel_values"].unflatten(0, (len(rows), 2))
    zoprune.prune(model, 6, positions=positions)
    longer = torch.nn.functional.pad(ids, (0, 1), value=5)
    ones = torch.ones_like(longer[:, :1])
    expected = model(
        **(whole | {"input_ids": longer, "attention_mask": torch.cat([seen, ones], 1)})
    )
    first = model(
        input_ids=ids[:, :cut],
        attention_mask=seen[:, :cut],
        pixel_values=pixels[:, 0],
        use_cache=True,
    )
    held = zoprune.report(model).shorten(seen[:, :cut], 0) if mask == "short" else seen[:, :cut]
    turn = {"input_ids": ids[:, cut:], "pixel_values": pixels[:, 1]}
    given = torch.cat([held, seen[:, cut:]], 1)
    masks = {} if mask == "none" else {"attention_mask": given}
    second = model(**turn, **masks, **{CACHE: cache_of(first)}, use_cache=True)
    torch.testing.assert_close(second.logits[:, -2:], expected.logits[:, -3:-1])
    if mask == "short":
        held = zoprune.report(model).shorten(seen[:, cut:], 0)
        given = torch.cat([zoprune.report(first).shorten(seen[:, :cut], 0), held], 1)
    masks = {} if mask == "none" else {"attention_mask": torch.cat([given, ones], 1)}
    third = model(input_ids=longer[:, -1:], **masks, **{CACHE: cache_of(second)})
    torch.testing.assert_close(third.logits[:, -1], expected.logits[:, -1])


@torch.no_grad()
@pytest.mark.parametrize("before, after", [("compact", "original"), ("original", "compact")])
def test_a_cache_keeps_the_positions_that_it_was_begun_with(model, inputs, before, after):
    zoprune.prune(model, 6, positions=before)
    options = GREEDY | dict(return_dict_in_generate=True, output_logits=True)
    first = model.generate(**inputs, **options)
    again = model(**inputs, use_cache=True)
    turn = next_turn(first.sequences)
    expected = model.generate(**(inputs | turn), **options)
    text = torch.tensor([[7, 8, 9]])
    whole = torch.cat([inputs["input_ids"], text], 1)
    logits = model(**(inputs | {"input_ids": whole, "attention_mask": torch.ones_like(whole)}))
    zoprune.prune(model, 3, positions=after)
    output = model.generate(**turn, **options, **{CACHE: cache_of(first)})
    torch.testing.assert_close(output.logits, expected.logits, atol=1e-4, rtol=1e-4)
    later = model(input_ids=text, **{CACHE: cache_of(again)})
    torch.testing.assert_close(later.logits, logits.logits[:, -3:])
