"""The small model that answers: its pictures, its questions, and many questions at once."""

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
pytest.importorskip("transformers")

from benchmarks.accuracy import model as small
from benchmarks.accuracy import questions, scenes, tower, train_answers


def test_splits_share_no_sample_and_no_photograph():
    for name in scenes.DIGITS:
        rows = [scenes.handwriting(split)[name].reshape(-1, 64) for split in scenes.SPLITS]
        seen = [{row.tobytes() for row in part} for part in rows]
        assert not seen[0] & seen[2] and not seen[1] & seen[2] and not seen[0] & seen[1]
    names = [n for split in scenes.SPLITS for n in scenes.PHOTOGRAPHS[split]]
    assert len(names) == len(set(names))


def test_a_scene_is_its_seeds_and_its_questions_have_one_answer():
    for seed in range(20):
        one, two = (scenes.draw(np.random.default_rng(seed), "dev") for _ in range(2))
        assert (one.pixels == two.pixels).all() and one.objects == two.objects
        assert (
            len({o.name for o in one.objects})
            == len({o.colour for o in one.objects})
            == len(one.objects)
        )
        asked = questions.ask(one, np.random.default_rng(seed))
        answers = {q.text: q.answer for q in asked}
        assert all(answers[q.text] == q.answer for q in asked)
        assert all(set(f"{q.text} {q.answer}".split()) <= set(questions.VOCABULARY) for q in asked)


def test_labels_lie_under_their_objects():
    scene = scenes.draw(np.random.default_rng(3), "train", count=3)
    name, colour, middle = (part.reshape(24, 24) for part in tower.labels(scene))
    assert middle.sum() == len(scene.objects)
    for o in scene.objects:
        x, y = (int(c / tower.PATCH) for c in o.centre)
        assert scenes.NAMES[name[y, x]] == o.name and list(scenes.COLOURS)[colour[y, x]] == o.colour
        assert middle[y, x] == 1


def test_heads_of_the_first_layer_look_at_their_neighbours():
    model = tower.build().eval()
    model.set_attn_implementation("eager")
    pixels = tower.pixels([scenes.draw(np.random.default_rng(0), "train")])
    with torch.no_grad():
        attention = model(pixel_values=pixels, output_attentions=True).attentions[0][0]
    x = y = 10
    for head, (dx, dy) in enumerate(tower.NEIGHBOURS):
        row = attention[head, 1 + y * tower.GRID + x, 1:]
        assert row.argmax() == (y + dy) * tower.GRID + x + dx


@torch.no_grad()
def test_questions_of_one_picture_do_not_see_one_another():
    """What ``train_answers`` computes for all at once is what the model computes for each alone."""
    torch.manual_seed(0)
    model = small.build().eval()
    scene = scenes.draw(np.random.default_rng(5), "dev")
    asked = questions.ask(scene, np.random.default_rng(5))
    features = model.model.vision_tower(pixel_values=tower.pixels([scene])).last_hidden_state[:, 1:]
    packed = small.packed([(q.text, q.answer) for q in asked])
    logits, targets = train_answers.answers(model, features, [packed])
    ids = small.word_ids()
    found = logits[0][targets[0] >= 0]
    assert targets[0][targets[0] >= 0].tolist() == [ids[q.answer] for q in asked]
    for row, question in zip(found, asked, strict=True):
        words = [1, *[small.IMAGE] * small.TOKENS, *(ids[w] for w in question.text.split())]
        prompt = torch.tensor([[*words, ids["answer:"]]])
        alone = model(input_ids=prompt, pixel_values=tower.pixels([scene])).logits[0, -1]
        torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-4)
