"""Situations from the field: who calls a pruned model, with which arguments.

The base is a tiny LLaVA, a prompt of 21 columns with one image of 16 tokens, 6 of them kept: 11.
"""

import asyncio
import copy
import types
import warnings

import pytest
import torch

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import numpy as np  # noqa: E402
import zoprune  # noqa: E402
from transformers import DynamicCache, StaticCache  # noqa: E402

from tests.hf.hand_pruned import hand_pruned, logits_of  # noqa: E402
from tests.hf.models import CASES, IMAGE, make, prompt  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
BY_NAME = {case.name: case for case in CASES}
CASE = BY_NAME["llava"]
GREEDY = dict(max_new_tokens=5, do_sample=False)
V4 = transformers.__version__ < "5"
V24 = "cache" in transformers.LlavaForConditionalGeneration.forward.__code__.co_varnames or (
    "cache" in __import__("inspect").signature(transformers.LlavaModel.forward).parameters
)
CACHE = "cache" if V24 else "past_key_values"


@pytest.fixture(scope="module")
def shared():
    return make(CASE)


@pytest.fixture
def model(shared):
    yield shared
    zoprune.restore(shared)


@pytest.fixture
def inputs(model):
    return prompt(CASE, model, (1,))


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def qwen(request):
    case = BY_NAME[request.param]
    return case, make(case)


def cache_of(output):
    return output[CACHE]


def hand_logits(model, inputs, case=CASE, positions="compact"):
    """Of a pruned model that was called: the logits [L', V] of each row, pruned by hand."""
    kept = zoprune.report(model).kept
    zoprune.restore(model)
    return [logits_of(model, row) for row in hand_pruned(case, model, inputs, kept, positions)]


# -- row 1: a forward stands on the instance ------------------------------------------------------


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


# -- row 2: callers below forward -----------------------------------------------------------------


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


# -- rows 3 and 17: caches, by type ---------------------------------------------------------------


def next_turn(sequences):
    longer = torch.cat([sequences, torch.tensor([[7, 8, 9]])], dim=1)
    return {"input_ids": longer, "attention_mask": torch.ones_like(longer)}


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
def test_a_pruned_generate_warns_of_nothing(model, inputs):
    zoprune.prune(model, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
        model.generate(**next_turn(output.sequences), **GREEDY, **{CACHE: cache_of(output)})
        model(**inputs)
        model.model(**inputs)


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


# -- rows 12 to 16: arguments with the prompt's columns -------------------------------------------


def test_the_caller_can_shorten_labels(model, inputs):
    clone = zoprune.prune(copy.deepcopy(model), 6)
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE, -100)
    expected = clone(**inputs, labels=labels).loss
    output = clone(**inputs)
    report = zoprune.report(clone)
    assert report.columns.sum() == 11 and report.columns.shape == (1, 21)
    short = report.shorten(labels)
    assert torch.equal(short, labels[report.columns][None])
    loss = torch.nn.functional.cross_entropy(output.logits[0, :-1], short[0, 1:])
    torch.testing.assert_close(loss, expected)


def test_shifted_labels_predict_the_next_kept_column(model, inputs):
    if V4:
        pytest.skip("transformers 4 has no shift_labels here")
    clone = zoprune.prune(copy.deepcopy(model), 6)
    labels = torch.randint(0, 90, (1, 21))
    labels = labels.masked_fill(inputs["input_ids"] == IMAGE, -100)
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    expected = clone(**inputs, labels=labels).loss
    loss = clone(**inputs, labels=labels, shift_labels=shifted).loss
    torch.testing.assert_close(loss, expected)


@torch.no_grad()
@pytest.mark.parametrize("layout", [((1,), "left"), ((1, 1), "left")])
def test_logits_to_keep_are_columns_of_the_full_prompt(model, layout):
    inputs = prompt(CASE, model, *layout)
    length = inputs["input_ids"].shape[1]
    zoprune.prune(model, 6)
    every = model(**inputs).logits
    columns = zoprune.report(model).columns
    places = columns.cumsum(1) - 1
    last = model(**inputs, logits_to_keep=2).logits
    torch.testing.assert_close(last, every[:, -2:])
    indices = torch.tensor([length - 1, length - 2])
    rows = model(**inputs, logits_to_keep=indices).logits
    torch.testing.assert_close(rows, every[:, [-1, -2]])
    assert torch.equal(model(**inputs, logits_to_keep=indices - length).logits, rows)
    if len(columns) == 1:
        rows = model(**inputs, logits_to_keep=torch.tensor([1, 20])).logits
        torch.testing.assert_close(rows, every[:, places[0, [1, 20]]])
    dropped = int((~columns[0]).nonzero()[0])
    with pytest.raises(ValueError, match="logits_to_keep: expected columns that are kept"):
        model(**inputs, logits_to_keep=torch.tensor([dropped]))
    with pytest.raises(ValueError, match="logits_to_keep: expected columns that are kept"):
        model(**inputs, logits_to_keep=length)
    with pytest.raises(ValueError, match="logits_to_keep: expected columns of the prompt"):
        model(**inputs, logits_to_keep=torch.tensor([length]))


@torch.no_grad()
@pytest.mark.skipif(not V24, reason="masks and indices per row from transformers 5.24 on")
def test_logits_to_keep_per_row(model):
    inputs = prompt(CASE, model, (1, 1))
    zoprune.prune(model, 6)
    every = model(**inputs).logits
    length = inputs["input_ids"].shape[1]
    indices = torch.tensor([[length - 1, length - 2], [length - 2, length - 1]])
    rows = model(**inputs, logits_to_keep=indices).logits
    expected = torch.stack([every[0, [-1, -2]], every[1, [-2, -1]]])
    torch.testing.assert_close(rows, expected)
    mask = torch.zeros(2, length, dtype=torch.bool).scatter(1, indices, True)
    rows = model(**inputs, logits_to_keep=mask).logits
    torch.testing.assert_close(rows, every[:, -2:].flatten(0, 1))


@torch.no_grad()
@pytest.mark.parametrize("keep", [6, 1.0])
def test_packed_samples_are_as_alone(model, keep):
    if V4:
        pytest.skip("tested from transformers 5 on")
    pixels = torch.randn(2, 3, 28, 28)
    first = torch.tensor([[3, 4, *[IMAGE] * 16, 5, 6]])
    second = torch.tensor([[7, *[IMAGE] * 16, 8, 9, 10]])
    zoprune.prune(model, keep)
    alone = [
        model(input_ids=ids, pixel_values=pixels[i : i + 1]).logits
        for i, ids in enumerate((first, second))
    ]
    packed = torch.cat([first, second], dim=1)
    positions = torch.cat([torch.arange(20), torch.arange(20)])[None]
    output = model(input_ids=packed, position_ids=positions, pixel_values=pixels, use_cache=False)
    torch.testing.assert_close(output.logits, torch.cat(alone, dim=1), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_packed_samples_with_gaps_are_refused(model, inputs):
    zoprune.prune(model, 6, positions="original")
    positions = torch.arange(21)[None] % 11
    with pytest.raises(ValueError, match="positions: expected 'compact' with packed samples"):
        model(
            input_ids=inputs["input_ids"],
            pixel_values=inputs["pixel_values"],
            position_ids=positions,
        )


def test_offsets_of_packed_samples():
    from zoprune.hf.arguments import shorten_arguments, shorten_lengths
    from zoprune.hf.prompt import Shortening

    keep = torch.tensor([[1, 0, 1, 1, 0, 0, 1, 1]]).bool()
    offsets = torch.tensor([0, 3, 8], dtype=torch.int32)
    given = dict(cu_seq_lens_q=offsets, cu_seq_lens_k=offsets, max_length_q=5, max_length_k=None)
    short = shorten_arguments(given, Shortening.of(keep, None), 0)
    shorten_lengths(short)
    assert (
        short["cu_seq_lens_q"].tolist() == [0, 2, 5] and short["cu_seq_lens_q"].dtype == torch.int32
    )
    assert short["max_length_q"] == 3 and short["max_length_k"] is None
    with pytest.raises(ValueError, match="cu_seq_lens_q: expected one row of packed samples"):
        shorten_arguments(given, Shortening.of(keep.repeat(2, 1), None), 0)


@torch.no_grad()
def test_a_mask_with_four_dimensions(model, inputs):
    zoprune.prune(model, 6)
    expected = model(**inputs).logits
    mask = torch.ones(21, 21).tril().bool()[None, None]
    assert torch.allclose(model(**(inputs | {"attention_mask": mask})).logits, expected, atol=1e-5)
    bias = torch.zeros(1, 1, 21, 21).masked_fill(~mask, torch.finfo(torch.float32).min)
    assert torch.allclose(model(**(inputs | {"attention_mask": bias})).logits, expected, atol=1e-5)
    with pytest.raises(ValueError, match="attention_mask: expected"):
        model(**(inputs | {"attention_mask": mask[..., :20]}))


@torch.no_grad()
def test_an_unknown_argument_of_the_prompts_shape_is_refused(model, inputs):
    zoprune.prune(model, 6)
    with pytest.raises(ValueError, match="my_weights: expected no further argument"):
        model(**inputs, my_weights=torch.ones(1, 21))


@torch.no_grad()
def test_placeholders_are_counted_in_each_row(model):
    inputs = prompt(CASE, model, (1, 1))
    ids = inputs["input_ids"]
    zoprune.prune(model, 6)
    one = (ids[0] == IMAGE).nonzero()[:, 0]
    ids[0, one[:3]] = 5
    ids[1, :3] = IMAGE  # the totals agree
    with pytest.raises(ValueError, match=r"input_ids: expected image tokens .* in row 0 .*got 13"):
        model(**inputs)


@torch.no_grad()
def test_missing_token_types_are_as_unpruned(qwen):
    case, model = qwen
    inputs = prompt(case, model)
    if "mm_token_type_ids" not in inputs:
        pytest.skip("transformers 4 needs none")
    del inputs["mm_token_type_ids"]
    model.model.rope_deltas = None
    try:
        expected = model(**inputs).logits
    except ValueError as error:
        zoprune.prune(model, 1.0)
        with pytest.raises(ValueError, match=str(error)[:30].split("(")[0]):
            model(**inputs)
    else:
        zoprune.prune(model, 1.0)
        torch.testing.assert_close(model(**inputs).logits, expected)
    finally:
        zoprune.restore(model)


# -- row 21: budgets ------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(
    ("keep", "count"),
    [
        (np.int64(6), 6),
        (torch.tensor(6), 6),
        (np.float32(0.5), 8),
        (torch.tensor(0.5), 8),
        (1, 1),
        (1.0, 16),
        (np.float64(1), 16),
    ],
)
def test_scalars_of_any_library(model, inputs, keep, count):
    zoprune.prune(model, keep)
    model(**inputs)
    assert str(zoprune.report(model)) == f"{count} of 16"
    zoprune.prune(model, 2)
    with zoprune.keep(keep):
        model(**inputs)
    assert str(zoprune.report(model)) == f"{count} of 16"


@pytest.mark.parametrize(
    "keep",
    [np.bool_(True), torch.tensor(True), "6", torch.tensor([6]), np.array([3]), 0, 2.0, None],
)
def test_other_budgets_are_refused(model, keep):
    with pytest.raises(ValueError, match=r"1 is one token, 1\.0 all of them"):
        zoprune.prune(model, keep)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen3_vl", "internvl", "gemma3"])
def test_a_budget_over_all_images_of_a_call(name):
    case = BY_NAME[name]
    model = make(case)
    inputs = prompt(case, model, (2, 1))
    zoprune.prune(model, 9, per="call")
    logits = model(**inputs).logits
    report = zoprune.report(model)
    structure = sum(int(lines.sum()) for lines in report.newlines)
    assert sum(len(kept) for kept in report.kept) == 9 + structure
    assert report.rows == [0, 0, 1] and str(report).startswith("row 0: ")
    for row, expected in enumerate(hand_logits(model, inputs, case, "compact")):
        torch.testing.assert_close(logits[row, -len(expected) :], expected, atol=1e-4, rtol=1e-4)


# -- rows 24 to 29b -------------------------------------------------------------------------------


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
@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_vl", "qwen3_vl", "paligemma"])
def test_masked_columns_anywhere_are_as_unpruned(name):
    """Also on placeholders, in the middle, and in every row."""
    case = BY_NAME[name]
    model = make(case)
    inputs = prompt(case, model, (1, 1))
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    if not case.mrope:  # whose positions are undefined then
        mask[0, (ids[0] == case.placeholder).nonzero()[2, 0]] = 0
    mask[:, -2] = 0
    mask[:, 0] = 0
    expected = model(**inputs).logits
    zoprune.prune(model, 1.0)
    logits = model(**inputs).logits
    assert logits.shape == expected.shape
    real = mask.bool()
    torch.testing.assert_close(logits[real], expected[real], atol=1e-5, rtol=1e-5)
    zoprune.prune(model, 3)
    assert model(**inputs).logits.isfinite().all()


@torch.no_grad()
def test_an_odd_grid_of_patches():
    case = BY_NAME["mistral3"]
    model = make(case)
    pixels = torch.randn(1, 3, 35, 49)  # 5 x 7 patches, 2 x 3 tokens
    ids = torch.tensor([[3, *[IMAGE] * 6, 4, 5]])
    inputs = dict(input_ids=ids, pixel_values=pixels, image_sizes=torch.tensor([[35, 49]]))
    expected = model(**inputs).logits
    zoprune.prune(model, 1.0)
    torch.testing.assert_close(model(**inputs).logits, expected)
    zoprune.prune(model, 4)
    assert model(**inputs).logits.shape[1] == 7


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


def test_a_report_of_a_call_in_another_thread(model, inputs):
    zoprune.prune(model, 6)

    @torch.no_grad()
    def call(keep):
        with zoprune.keep(keep):
            return model(**inputs)

    async def main():
        call(3)
        output = await asyncio.to_thread(call, 5)
        assert str(zoprune.report(output)) == "5 of 16"
        with pytest.raises(RuntimeError, match="another thread or task"):
            zoprune.report(model)
        call(2)
        assert str(zoprune.report(model)) == "2 of 16"
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, call, 4)
        with pytest.raises(RuntimeError, match="another thread or task"):
            zoprune.report(model)

    asyncio.run(main())


@torch.no_grad()
def test_a_report_of_an_output(model, inputs):
    zoprune.prune(model, 6)
    outputs = [model(**inputs), model.generate(**inputs, **GREEDY)]
    with zoprune.keep(3):
        model(**inputs)
    for output in outputs:
        assert str(zoprune.report(output)) == "6 of 16"
