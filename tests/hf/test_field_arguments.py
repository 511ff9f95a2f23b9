"""Situations from the field: arguments with the prompt's columns (rows 12 to 16, 26, 27)."""

import copy

import pytest
import torch

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import zoprune  # noqa: E402

from tests.hf.field import BY_NAME, CACHE, CASE, V4, V24  # noqa: E402
from tests.hf.models import IMAGE, PAD, make, prompt  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def qwen(request):
    case = BY_NAME[request.param]
    return case, make(case)


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
@pytest.mark.parametrize("keep", [3, 1.0])
def test_packed_samples_with_multimodal_positions(qwen, keep):
    """[4, B, L]: columns of the samples, then time, height and width."""
    case, model = qwen
    if V4:
        pytest.skip("tested from transformers 5 on")
    samples = [prompt(case, model), prompt(case, model)]
    zoprune.prune(model, keep)
    alone = [model(**sample).logits for sample in samples]
    packed, positions = {}, []
    for name in samples[0]:
        dim = 0 if name.startswith(("pixel", "image")) else 1
        packed[name] = torch.cat([sample[name] for sample in samples], dim)
    for sample in samples:
        text = {k: v for k, v in sample.items() if not k.startswith("pixel")}
        places = model.model.get_rope_index(**text)[0]
        positions.append(torch.cat([torch.arange(places.shape[-1]).expand(1, 1, -1), places]))
    del packed["attention_mask"]
    packed |= {"position_ids": torch.cat(positions, -1), "use_cache": False}
    logits = model(**packed).logits
    torch.testing.assert_close(logits, torch.cat(alone, 1), atol=1e-4, rtol=1e-4)
    if keep == 1.0:
        zoprune.restore(model)
        torch.testing.assert_close(logits, model(**packed).logits, atol=1e-5, rtol=1e-5)


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
    inputs = prompt(CASE, model, (1, 1))
    inputs["pixel_values"] = inputs["pixel_values"][:1]
    for call in (model, model.generate):  # in words that trl looks for
        with pytest.raises(ValueError, match=r"32\. Image features and image tokens do not match"):
            call(**inputs)


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
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "gemma3"])
@pytest.mark.parametrize("where", ["model", "argument", "config"])
def test_generate_without_a_mask_sees_no_padding(name, where):
    """It infers the mask from the padding, of which shorter rows get more."""
    case = BY_NAME[name]
    model = make(case)
    inputs = prompt(case, model, (2, 1))
    options = dict(max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    options |= dict(output_logits=True)
    model.generation_config.pad_token_id = PAD if where == "model" else None
    zoprune.prune(model, 5)
    expected = model.generate(**inputs, **options, pad_token_id=PAD)
    del inputs["attention_mask"]
    if where == "config":
        config = copy.deepcopy(model.generation_config)
        config.update(**options, pad_token_id=PAD)
        options = {"generation_config": config}
    elif where == "argument":
        options["pad_token_id"] = PAD
    output = model.generate(**inputs, **options)
    assert torch.equal(output.sequences, expected.sequences)
    torch.testing.assert_close(output.logits, expected.logits)
    if name != "llava":
        return
    longer = torch.nn.functional.pad(output.sequences, (0, 2), value=7)
    again = model.generate(**(inputs | {"input_ids": longer}), **options)
    later = model.generate(input_ids=longer, **options, **{CACHE: output[CACHE]})
    torch.testing.assert_close(later.logits, again.logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_padding_that_ends_answers_is_seen(model):
    """As unpruned: then nothing tells it from the end of an answer."""
    inputs = prompt(CASE, model, (1, 2))
    options = dict(max_new_tokens=2, do_sample=False, pad_token_id=PAD, eos_token_id=[98, PAD])
    zoprune.prune(model, 5)
    seen = inputs | {"attention_mask": torch.ones_like(inputs["input_ids"])}
    expected = model.generate(**seen, **options)
    del inputs["attention_mask"]
    assert torch.equal(model.generate(**inputs, **options), expected)
