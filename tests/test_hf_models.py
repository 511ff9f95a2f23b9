"""Each architecture: a pruned model against its language model on hand-pruned embeddings."""

import pytest
import torch

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import zoprune  # noqa: E402

from .hf_models import CASES, make, prompt  # noqa: E402

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


@pytest.fixture
def model(family, case):
    return family[1]


def hand_pruned(case, model, inputs, kept, positions="compact"):
    """For each row: embeddings [1, L', D] and positions of the prompt without dropped tokens.

    ``kept`` has the kept indices within each image. Written with loops and no padding.
    """
    core, placeholder = model.model, case.placeholder
    names = {k: v for k, v in inputs.items() if k.startswith(("pixel", "image_", "video_"))}
    features = getattr(core, f"get_{case.modality}_features")(**names)
    features = getattr(features, "pooler_output", features)
    if case.mrope:
        index = {k: v for k, v in inputs.items() if not k.startswith("pixel")}
        full_positions = core.get_rope_index(**index)[0]
    image = 0
    rows = []
    for row in range(inputs["input_ids"].shape[0]):
        real = inputs["attention_mask"][row].nonzero()[:, 0]
        embeds, places = [], []
        feature = []
        for offset, column in enumerate(real.tolist()):
            token = inputs["input_ids"][row, column]
            place = full_positions[:, row, column] if case.mrope else offset
            if token != placeholder:
                embeds.append(model.get_input_embeddings()(token))
                places.append(place)
                continue
            if not feature:
                feature = [
                    value if i in kept[image].tolist() else None
                    for i, value in enumerate(features[image])
                ]
                image += 1
            value = feature.pop(0)
            if value is not None:
                embeds.append(value)
                places.append(place)
        if case.mrope:
            place = torch.stack(places, 1)[:, None]  # [3, 1, L']
        elif positions == "original":
            place = torch.tensor(places)[None]
        else:
            place = torch.arange(len(embeds))[None]
        rows.append((torch.stack(embeds)[None], place))
    return rows


def logits_of(model, embeds, positions):
    """[L', V] logits of the language model alone, without a cache."""
    mask = torch.ones(embeds.shape[:2], dtype=torch.long)
    hidden = model.model.language_model(
        inputs_embeds=embeds, position_ids=positions, attention_mask=mask, use_cache=False
    ).last_hidden_state
    return model.lm_head(hidden)[0]


def greedy(model, embeds, positions, steps):
    """Logits [steps, V] of greedy decoding, the whole sequence computed again at each step."""
    logits, ids = [], []
    for _ in range(steps):
        logits.append(logits_of(model, embeds, positions)[-1])
        ids.append(logits[-1].argmax())
        embeds = torch.cat([embeds, model.get_input_embeddings()(ids[-1])[None, None]], 1)
        positions = torch.cat([positions, positions[..., -1:] + 1], -1)
    return torch.stack(logits)


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
    expected = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    zoprune.prune(model, 1.0)
    assert torch.equal(model.generate(**inputs, max_new_tokens=5, do_sample=False), expected)


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
    assert logits.shape[1] == max(embeds.shape[1] for embeds, _ in hand)
    for row, (embeds, places) in enumerate(hand):
        expected = logits_of(model, embeds, places)
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
        max_new_tokens=6,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    kept = zoprune.report(model).kept
    zoprune.restore(model)
    length = inputs["input_ids"].shape[1]
    assert torch.equal(output.sequences[:, :length], inputs["input_ids"])
    for row, hand in enumerate(hand_pruned(case, model, inputs, kept, positions)):
        expected = greedy(model, *hand, 6)
        assert torch.equal(output.sequences[row, length:], expected.argmax(-1))
        logits = torch.stack([step[row] for step in output.logits])
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_cache_shrinks_with_the_prompt(case, model):
    inputs = prompt(case, model, (2,))
    full = model(**inputs).past_key_values.get_seq_length()
    zoprune.prune(model, 3)
    pruned = model(**inputs).past_key_values.get_seq_length()
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
