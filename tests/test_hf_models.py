"""Each architecture: a pruned model against its language model on hand-pruned embeddings."""

import pytest
import torch

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import zoprune  # noqa: E402
from zoprune.settings import pruning_of  # noqa: E402

from .hf_linear_models import VIEW  # noqa: E402
from .hf_mlp_models import IMAGE, VIDEO, VOCAB  # noqa: E402
from .hf_models import CASES, make, prompt  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
V4 = transformers.__version__ < "5"
LAYOUTS = {"one": ((1,), "left"), "left": ((2, 1), "left"), "right": ((1, 2), "right")}
layouts = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def family(request):
    """(case, model) of one family; restored after each use by ``pruned``."""
    return request.param, make(request.param)


@pytest.fixture
def case(family):
    yield family[0]
    zoprune.restore(family[1])
    assert not any(module._forward_pre_hooks for module in family[1].modules())


@pytest.fixture
def model(family, case):
    return family[1]


def hand_pruned(case, model, inputs, kept, positions="compact"):
    """The language model's inputs for each row, without dropped tokens and without padding.

    ``kept`` has the kept indices within each image. Written with loops over single tokens.
    """
    core = model.model
    names = {k: v for k, v in inputs.items() if k.startswith(("pixel", "image_", "video_"))}
    if V4 and case.name == "llava_onevision-video":
        layer, strategy = core.config.vision_feature_layer, "full"
        output = core.get_video_features(names["pixel_values_videos"], layer, strategy)
        newline = core.image_newline.expand(len(output), 1, -1)
        features = torch.cat([output, newline], 1)
    elif V4 and case.deepstack:
        features, deepstack = getattr(core, f"get_{case.modality}_features")(**names)
        deepstack = [layer.split([len(f) for f in features]) for layer in deepstack]
    else:
        output = getattr(core, f"get_{case.modality}_features")(**names)
        features = getattr(output, "pooler_output", output)
        deepstack = getattr(output, "deepstack_features", None)
    if case.views:
        sizes = [VIEW * views for views in case.views[: len(kept)]]
        features = torch.cat([f.flatten(0, -2) for f in features]).split(sizes)
    if case.mrope:
        arguments = {k: v for k, v in inputs.items() if not k.startswith("pixel")}
        full_positions = core.get_rope_index(**arguments)[0]
    image = -1
    rows = []
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        embeds, places, visual, deep = [], [], [], []
        left = 0  # tokens of the current image still to come
        for offset, column in enumerate(mask.nonzero()[:, 0].tolist()):
            is_visual = bool(ids[column] == case.placeholder)
            if is_visual:
                if left == 0:
                    image, index, left = image + 1, -1, len(features[image + 1])
                index, left = index + 1, left - 1
                if index not in kept[image].tolist():
                    continue
                embeds.append(features[image][index])
                if case.deepstack:
                    deep.append(torch.stack([layer[image][index] for layer in deepstack]))
            else:
                embeds.append(model.get_input_embeddings()(ids[column]))
            row = len(rows)
            places.append(full_positions[:, row, column] if case.mrope else torch.tensor(offset))
            visual.append(is_visual)
        place = torch.stack(places, -1)  # [3, L'] or [L']
        if not case.mrope and positions == "compact":
            place = torch.arange(len(embeds))
        rows.append(
            {"inputs_embeds": torch.stack(embeds)[None], "position_ids": place[..., None, :]}
        )
        if case.bidirectional:
            rows[-1]["blocks"] = blocks(case, torch.tensor(visual))
        if case.deepstack:
            rows[-1]["visual_pos_masks"] = torch.tensor(visual)[None]
            rows[-1]["deepstack_visual_embeds"] = list(torch.stack(deep, 1))
    return rows


def blocks(case, visual):
    """Which tokens [L'] attend to each other in both directions: same number, and not -1."""
    if case.bidirectional == "prompt":
        return torch.zeros(len(visual), dtype=torch.long)
    first = visual & ~torch.nn.functional.pad(visual, (1, 0))[:-1]
    return first.cumsum(0).masked_fill(~visual, 0) - 1


def attention_mask(model, block):
    """[1, 1, L', L'] for each kind of layer, True where a token attends to another."""
    places = torch.arange(len(block))
    distance = places[:, None] - places
    causal = distance >= 0
    both = (block[:, None] == block) & (block >= 0)
    full = (causal | both)[None, None]
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    if window is None:
        return full
    near = distance < window
    sliding = (causal & near) | both if V4 else (causal | both) & near
    return {"full_attention": full, "sliding_attention": sliding[None, None]}


def logits_of(model, row):
    """[L', V] logits of the language model alone, without a cache."""
    row = dict(row)
    block = row.pop("blocks", None)
    mask = torch.ones(row["inputs_embeds"].shape[:2], dtype=torch.long)
    if block is not None:
        mask = attention_mask(model, block)
    decoder = getattr(model.model, "text_model", None) or model.model.language_model
    outputs = decoder(**row, attention_mask=mask, use_cache=False)
    return model.lm_head(outputs.last_hidden_state)[0]


def continued(model, row, ids):
    """Logits [n, V] that precede each of the n generated ids, in one pass without a cache."""
    ids = ids[:-1]
    embeds = torch.cat([row["inputs_embeds"], model.get_input_embeddings()(ids)[None]], 1)
    steps = torch.arange(1, len(ids) + 1)
    positions = torch.cat([row["position_ids"], row["position_ids"][..., -1:] + steps], -1)
    longer = row | {"inputs_embeds": embeds, "position_ids": positions}
    if "blocks" in row:
        longer["blocks"] = torch.nn.functional.pad(row["blocks"], (0, len(ids)), value=-1)
    if "visual_pos_masks" in row:
        mask = row["visual_pos_masks"]
        longer["visual_pos_masks"] = torch.nn.functional.pad(mask, (0, len(ids)))
    return logits_of(model, longer)[-len(ids) - 1 :]


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
@layouts
@pytest.mark.parametrize("positions", ["compact", "original"])
def test_logits_are_those_of_hand_pruned_embeddings(case, model, layout, positions):
    if case.mrope and positions == "compact":
        pytest.skip("multimodal rotary positions are always the original ones")
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
@pytest.mark.parametrize("positions", ["compact", "original"])
def test_generation_is_that_of_hand_pruned_embeddings(case, model, positions):
    if case.mrope and positions == "compact":
        pytest.skip("multimodal rotary positions are always the original ones")
    inputs = prompt(case, model, (2, 1))
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


@torch.no_grad()
def test_guessed_tokens_and_beams_change_nothing(case, model):
    inputs = prompt(case, model, (1,))
    inputs["input_ids"][0, -1] = inputs["input_ids"][0, 0]  # a guess for the first step already
    options = dict(max_new_tokens=6, do_sample=False, suppress_tokens=[IMAGE, VIDEO])
    zoprune.prune(model, 5)
    expected = model.generate(**inputs, **options)
    lookup = dict(prompt_lookup_num_tokens=2, eos_token_id=VOCAB)
    assert torch.equal(model.generate(**inputs, **options, **lookup), expected)
    beams = dict(num_beams=2, num_return_sequences=2, return_dict_in_generate=True)
    output = model.generate(**inputs, **options, **beams, output_scores=True)
    kept = zoprune.report(model).kept
    (hand,) = hand_pruned(case, model, inputs, kept, pruning_of(model).positions)
    for ids, score in zip(output.sequences, output.sequences_scores, strict=True):
        answer = ids[-6:]
        chosen = continued(model, hand, answer).log_softmax(-1).gather(1, answer[:, None])
        torch.testing.assert_close(chosen.mean(), score, atol=1e-4, rtol=1e-4)


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
    tokens = settings.family.encode(model, inputs, case.modality)
    outputs = settings.projector.project(tokens.x)  # [R, D]
    if tokens.arrange is not None:
        outputs = tokens.arrange(outputs)
    newline = outputs.isnan().any(-1)
    features = torch.cat(list(tokens.features))
    if V4 and case.name == "paligemma":
        features = features * model.config.text_config.hidden_size**0.5
    torch.testing.assert_close(outputs[~newline], features[~newline], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_conversation_goes_on_from_the_cache(case, model):
    inputs = prompt(case, model, (2,))
    options = dict(max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    options["suppress_tokens"] = [case.placeholder]
    zoprune.prune(model, 5)
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
    if V4 and case.bidirectional == "prompt":
        pytest.skip("transformers 4: a token attends to all tokens that are given with it")
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
    if case.groups == "crop":
        assert [int((k < 16).sum()) for k in report.kept] == [2, 2]  # the base view
        assert all(k - s > 2 for k, s in zip(kept, structure, strict=True))
        return
    for tokens, scores, frames in zip(report.kept, report.scores, case.frames[:2], strict=True):
        area = int((~scores.isnan()).sum()) // frames
        in_frames = tokens[tokens < area * frames]
        assert (in_frames // area).bincount().tolist() == [2] * frames
    assert [k - s for k, s in zip(kept, structure, strict=True)] == [2 * f for f in case.frames[:2]]
