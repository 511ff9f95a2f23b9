"""The small model that answers: its pictures, its questions, and many questions at once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import zoprune_kernels
from zoprune_kernels import reference

pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
pytest.importorskip("transformers")

from benchmarks.accuracy import (
    evaluate,
    methods,
    questions,
    scenes,
    tower,
    train_answers,
    training,
)
from benchmarks.accuracy import model as small
from benchmarks.fidelity import report as fidelity
from benchmarks.fidelity.estimators import Tokens, estimators


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
    due = small.is_answer(targets[0])
    found = logits[0][due]
    assert targets[0][due].tolist() == [ids[q.answer] for q in asked]
    for row, question in zip(found, asked, strict=True):
        words = [1, *[small.IMAGE] * small.TOKENS, *(ids[w] for w in question.text.split())]
        prompt = torch.tensor([[*words, ids["answer:"]]])
        alone = model(input_ids=prompt, pixel_values=tower.pixels([scene])).logits[0, -1]
        torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_windows_end_attention_and_the_whole_grid_is_the_model():
    model = tower.build().eval()
    pixels = tower.pixels([scenes.draw(np.random.default_rng(0), "train")])
    whole = tower.look(model, pixels)
    torch.testing.assert_close(whole, model(pixel_values=pixels).last_hidden_state[:, 1:])
    changed = pixels.clone()
    changed[..., :112, 112:] = 0  # all but the first window of the first row of windows
    before, after = (tower.look(model, p, 8).reshape(24, 24, -1) for p in (pixels, changed))
    assert torch.equal(before[:8, :8], after[:8, :8])
    assert not torch.equal(before[:8, 8:], after[:8, 8:])


def test_training_goes_on_where_it_was_stopped(tmp_path):
    def train(folder, steps):
        torch.manual_seed(0)
        model = torch.nn.Sequential()
        model.layers = torch.nn.ModuleDict({"0": torch.nn.Linear(4, 4)})
        run = training.Training(folder, "stage", {"model": model}, 6, 0.1)
        for step in run:
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
            run.update((model.layers["0"](x) - x.flip(1)).square().mean(), {"seen": 1.0})
            if step == steps:
                run.save()
                break
        return model.layers["0"].weight.detach().clone(), run

    straight, _ = train(tmp_path / "a", 6)
    train(tmp_path / "b", 3)
    resumed, run = train(tmp_path / "b", 6)
    assert run.first == 3 and torch.equal(straight, resumed)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    shapes = ((24, 16), (24,), (12, 24), (12,))
    weights = [torch.randn(shape, generator=generator) / 4 for shape in shapes]
    x = torch.randn(576, 16, generator=generator)
    return methods.Picture(methods.Projector(*weights), x, 3)


def test_published_scores_are_the_papers_and_lose_digits_in_half_precision(tiny):
    w1, b1, w2, _ = (w.double() for w in tiny.projector.weights)
    u = zoprune_kernels.directions(64, 16, seed=5).double()
    truth = reference.paper_sensitivity(tiny.x.double(), w1, b1, w2, u, step=0.01)
    exact = tiny.projector.published(tiny.x, 5, torch.float32)
    torch.testing.assert_close(exact, truth.float(), rtol=1e-4, atol=0)
    error = [
        ((tiny.score(f"paper {dtype}", 5) - truth) / truth).abs().mean()
        for dtype in ("float16", "bfloat16")
    ]
    assert 1e-3 < error[0] < error[1]


def test_every_method_keeps_k_of_the_tokens_and_only_chance_changes_with_the_seed(tiny):
    question = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))
    for method in methods.methods(0.5, 0.9):
        kept = method.keep(tiny, 9, 0, question)
        assert kept.shape == (9, 12), method.name
        rows = (kept[:, None] == tiny.tokens).all(-1).any(1)
        assert rows.all() or method.merged, method.name
        again = [torch.equal(method.keep(tiny, 9, seed, question), kept) for seed in (1, 2, 3)]
        assert all(again) != method.chance, method.name


def test_shares_and_their_interval():
    right = [[True] * 3, [False], [True, False]] * 50
    low, high = evaluate.interval(right)
    assert evaluate.share(right) == pytest.approx(4 / 6) and low < 4 / 6 < high
    assert evaluate.interval([[True, True]] * 9) == (1, 1)


@torch.no_grad()
def test_one_question_at_a_time_gives_the_answers_of_all_at_once():
    torch.manual_seed(0)
    model = small.build().eval()
    split = evaluate.Split.of(model, "dev", 7, 2)
    closed = methods.methods(0.5, 0.9)[0]
    alone = replace(closed, by_question=True)
    assert evaluate.answer(model, split, closed, 16) == evaluate.answer(model, split, alone, 16)


# -- fidelity -------------------------------------------------------------------------------------


def test_fidelity_measures_estimators_against_the_truth():
    generator = torch.Generator().manual_seed(0)
    shapes = ((80, 16), (24, 16), (24,), (12, 24), (12,))
    tokens = Tokens(*(torch.randn(s, generator=generator).double() / 2 for s in shapes))
    truth = tokens.truth(2048)
    assert fidelity.agreement(3 * truth, truth, tokens.keys()) == pytest.approx((0, 1, 1, 1))
    found = {
        (e.name, e.dtype, e.m, e.step): fidelity.agreement(e.run(tokens, 0), truth, tokens.keys())
        for e in estimators()
    }
    assert found["closed form", "fp32", None, None][1] > 0.99
    assert (
        found["rewritten", "fp32", 4, 0.01][1]
        < found["rewritten", "fp32", 64, 0.01][1]
        < found["rewritten", "fp32", 256, 0.01][1]
    )
    assert found["paper-literal", "bf16", 64, 0.01][0] > 2 * found["rewritten", "bf16", 64, 0.01][0]
    assert found["paper-literal", "fp32", 64, 0.01] == pytest.approx(
        found["rewritten", "fp32", 64, 0.01], abs=1e-3
    )
