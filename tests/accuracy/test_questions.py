"""The small model's questions, and many of them at once."""

import pytest
import torch

pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
pytest.importorskip("transformers")

from benchmarks.accuracy import compose, names, questions, scenes, tower
from benchmarks.accuracy import model as small
from tests.accuracy.layouts import drawn


def truths(objects, question):
    """All that could be answered, from the objects' boxes."""
    words = question.text.split()

    def centre(o):
        return (o.box[0] + o.box[2]) / 2, (o.box[1] + o.box[3]) / 2

    if question.kind in ("digit", "shape", "word"):
        return [o.name for o in objects if o.kind == words[1] and o.colour == words[3]]
    if question.kind == "colour":
        return [o.colour for o in objects if o.name == words[-2]]
    if question.kind == "there":
        return ["yes" if words[-2] in [o.name for o in objects] else "no"]
    if question.kind == "count":
        group = words[2].removesuffix("s")
        number = sum(group in ("object", o.kind) for o in objects)
        return [questions.COUNTS[number]]
    if question.kind == "corner":
        right, low = "right" in words, "lower" in words
        half = names.SIDE / 2
        inside = [
            o.name
            for o in objects
            if (centre(o)[0] > half) == right and (centre(o)[1] > half) == low
        ]
        return inside or ["nothing"]
    (o,) = (o for o in objects if o.name == words[-2])
    dx, dy = questions.SIDES[words[2]]
    return [
        other.name
        for other in objects
        if (centre(other)[0] - centre(o)[0]) * dx + (centre(other)[1] - centre(o)[1]) * dy > 0
    ]


def test_questions_have_one_answer_and_it_is_right():
    layout = drawn(11, 128)
    asked = questions.ask(layout, torch.Generator().manual_seed(0))
    kinds = set()
    for objects, of in zip(scenes.objects(layout), questions.texts(asked), strict=True):
        assert len({q.text for q in of}) == len(of)
        for question in of:
            assert truths(objects, question) == [question.answer], question
            kinds.add(question.kind)
        assert sum(q.kind == "colour" for q in of) == len(objects)
    assert kinds == set(questions.KINDS)


def test_rows_of_questions_are_their_texts_packed():
    asked = questions.ask(drawn(2, 3), torch.Generator().manual_seed(0))
    for row, targets, of in zip(asked.words, asked.targets, questions.texts(asked), strict=True):
        words, _, want = small.packed(of)
        assert torch.equal(row[row != questions.PAD], words)
        assert torch.equal(targets[row != questions.PAD], want)
        assert (targets[row == questions.PAD] == -100).all()


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_questions_of_one_picture_do_not_see_one_another(attention):
    """What training computes for all at once is what the model computes for each alone."""
    torch.manual_seed(0)
    model = small.build().eval()
    model.model.language_model.set_attn_implementation(attention)
    layout = drawn(5, 1)
    asked = questions.ask(layout, torch.Generator().manual_seed(5))
    pixels = tower.scaled(compose.render(layout))
    features = model.model.vision_tower(pixel_values=pixels).last_hidden_state[:, 1:]
    images = model.model.multi_modal_projector(features)
    logits = small.ask(model, images, asked.words, asked.starts[None])
    found = logits[0][small.is_answer(asked.targets[0])]
    (of,) = questions.texts(asked)
    assert len(of) == len(found)
    for row, question in zip(found, of, strict=True):
        text = [questions.IDS[word] for word in question.text.split()]
        prompt = torch.tensor([[1, *[small.IMAGE] * small.TOKENS, *text, questions.ANSWER]])
        alone = model(input_ids=prompt, pixel_values=pixels).logits[0, -1]
        torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_attention_starts_between_tokens_that_are_alike_and_copies():
    torch.manual_seed(0)
    model = small.build().eval().model.language_model
    model.set_attn_implementation("eager")
    x = torch.randn(1, 30, 192)
    x[0, 29] = x[0, 4] + x[0, 20]
    seen = model(inputs_embeds=x, output_attentions=True).attentions[0][0].mean(0)[29]
    assert set(seen[:29].topk(2).indices.tolist()) == {4, 20}
    attention = model.layers[0].self_attn
    copied = attention.o_proj(attention.v_proj(x))
    torch.testing.assert_close(copied, x / 4, rtol=1e-4, atol=1e-4)
