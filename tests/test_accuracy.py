"""The small model that answers: its pictures, its questions, and many questions at once."""

import json
import time
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

import zoprune_kernels
from zoprune_kernels import reference

pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
pytest.importorskip("transformers")

from benchmarks.accuracy import (
    album,
    compose,
    evaluate,
    methods,
    muon,
    names,
    questions,
    scenes,
    tower,
    train,
    train_answers,
    train_tower,
    training,
)
from benchmarks.accuracy import model as small
from benchmarks.fidelity import report as fidelity
from benchmarks.fidelity.estimators import Tokens, estimators


def test_splits_share_no_sample_and_no_photograph():
    for name in names.DIGITS:
        rows = [compose.handwriting(split)[name].flatten(1) for split in compose.SPLITS]
        seen = [{row.numpy().tobytes() for row in part} for part in rows]
        assert not seen[0] & seen[2] and not seen[1] & seen[2] and not seen[0] & seen[1]
    photographs = [n for split in compose.SPLITS for n in compose.PHOTOGRAPHS[split]]
    assert len(photographs) == len(set(photographs))


def drawn(seed, size=4, split="dev", **options):
    return scenes.draw(torch.Generator().manual_seed(seed), split, size, **options)


def pasted(layout, b):
    """Picture b of a layout, object by object, on its canvas."""
    atlas = compose.atlas(layout.split)
    tiles = atlas.cover.view(-1, names.TILE, names.TILE, 2)
    wide = names.SIDE + 2 * names.TILE
    picture = torch.zeros(3, wide, wide, dtype=torch.float64)
    side = slice(names.TILE, names.TILE + names.SIDE)
    picture[:, side, side] = compose.canvases(layout)[b].double()
    for k in range(layout.name.shape[1]):
        if layout.name[b, k] < 0:
            continue
        x, y = (layout.box[b, k, :2] - names.MARGIN + names.TILE).tolist()
        x0, y0, x1, y1 = (layout.region[b, k] + names.TILE).tolist()
        mask, shadow = (tiles[layout.tile[b, k]].double() / 255).unbind(-1)
        tone = torch.tensor(list(names.COLOURS.values()))[layout.colour[b, k]]
        tone = tone.double() * layout.tone[b, k]
        inside = torch.zeros(wide, wide, dtype=torch.bool)
        inside[y0:y1, x0:x1] = True
        box = (slice(y, y + names.TILE), slice(x, x + names.TILE))
        for channel in range(3):
            under = picture[channel][box]
            made = under + shadow * (compose.DARK - under)
            made = made + mask * (tone[channel] - made)
            picture[channel][box] = made.where(inside[box], under)
    return picture[:, side, side].clamp(0, 255)


@pytest.mark.parametrize("kind", ["draw", "crowd"])
def test_pictures_are_their_objects_pasted_one_by_one(kind):
    make = scenes.draw if kind == "draw" else scenes.crowd
    layout = make(torch.Generator().manual_seed(3), "dev", 2)
    pixels = compose.render(layout)
    for b in range(2):
        assert layout.there[b].any()
        assert (pixels[b].double() - pasted(layout, b)).abs().max() < 0.51 + 1e-3


def test_canvases_are_crops_of_photographs():
    """Against Pillow's own crop and scaling; colours are off by what antialiasing changes."""
    layout = drawn(5, 6)
    photos, frames = compose.photographs("dev")
    for b, found in enumerate(compose.canvases(layout)):
        top, width, height = frames[layout.photo[b]].tolist()
        photo = photos[0, :, top : top + height, :width].permute(1, 2, 0).byte().numpy()
        x, y, share = layout.crop[b].tolist()
        side = share * min(width, height)
        x, y = x * (width - side), y * (height - side)
        crop = Image.fromarray(photo).resize(
            (names.SIDE, names.SIDE), Image.Resampling.BILINEAR, (x, y, x + side, y + side)
        )
        want = torch.from_numpy(np.array(crop)).permute(2, 0, 1).float()
        want = want.flip(2) if layout.mirrored[b] else want
        contrast, brightness = layout.light[b]
        assert (found - (want * contrast + brightness)).abs().mean() < 4


def test_a_layout_is_its_seed_and_its_objects_do_not_touch():
    one, two = drawn(7, 64), drawn(7, 64)
    assert all(torch.equal(getattr(one, n), getattr(two, n)) for n in ("name", "box", "tile"))
    found = scenes.objects(one)
    assert {len(objects) for objects in found} == {1, 2, 3, 4, 5, 6}
    for objects in found:
        assert len({o.name for o in objects}) == len({o.colour for o in objects}) == len(objects)
        for i, o in enumerate(objects):
            assert min(o.box) >= names.MARGIN and max(o.box) <= names.SIDE - names.MARGIN
            for x0, y0, x1, y1 in (other.box for other in objects[:i]):
                assert x0 >= o.box[2] or x1 <= o.box[0] or y0 >= o.box[3] or y1 <= o.box[1]


def test_objects_lie_anywhere_and_sizes_differ_unless_held_to_the_grid():
    box = drawn(1, 256).box[drawn(1, 256).there]
    assert len(box[:, 0].remainder(names.PATCH).unique()) == names.PATCH
    height = box[:, 3] - box[:, 1]
    assert height.min() < 12 and height.max() == 36
    layout = drawn(1, 64, loose=0.0)
    digits = layout.box[layout.there & (layout.name < 10)]
    assert (digits.remainder(names.PATCH) == 0).all()
    crowd = scenes.crowd(torch.Generator().manual_seed(0), "dev", 64)
    assert 20 < crowd.there.sum(1).float().mean() < 35
    kinds = [o.kind for objects in scenes.objects(crowd) for o in objects]
    assert kinds.count("digit") / len(kinds) == pytest.approx(0.4, abs=0.05)


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


def test_labels_lie_under_their_objects():
    layout = drawn(3, 1, count=3)
    name, colour, middle = (part.view(24, 24) for part in tower.labels(layout))
    (objects,) = scenes.objects(layout)
    assert middle.sum() == len(objects)
    for o in objects:
        x, y = ((o.box[i] + o.box[i + 2]) / 2 for i in (0, 1))
        at = int(y / names.PATCH), int(x / names.PATCH)
        assert names.NAMES[name[at]] == o.name and list(names.COLOURS)[colour[at]] == o.colour
        assert middle[at] == 1
    assert ((name == tower.NONE) == (colour == -100)).all() and (name == tower.NONE).sum() > 500


def test_heads_of_the_first_layer_look_at_their_neighbours():
    model = tower.build().eval()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        found = model(pixel_values=torch.zeros(1, 3, 336, 336), output_attentions=True)
    x = y = 10
    for head, (dx, dy) in enumerate(tower.NEIGHBOURS):
        row = found.attentions[0][0][head, 1 + y * tower.GRID + x, 1:]
        assert row.argmax() == (y + dy) * tower.GRID + x + dx


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


def test_an_album_shows_patches_of_objects_and_asks_again():
    eyes = tower.build()
    pages = [album.page(eyes, drawn(seed, 2)) for seed in range(4)]
    generator = torch.Generator().manual_seed(0)
    kept = pages[0].shown(60, generator)
    for b in range(2):
        objects = pages[0].name[b] != tower.NONE
        assert (kept.name[b] != tower.NONE).sum() == objects.sum() > 0
        at = ((kept.place[b] + 1) * 23 / 2).round().long()
        index = at[:, 1] * tower.GRID + at[:, 0]
        assert (index.diff() > 0).all() and len(index) == 60
        for one, all_of_it in zip(kept.parts, pages[0].parts, strict=True):
            assert torch.equal(one[b], all_of_it[b, index])
    book = album.Album(3)
    for new in pages:
        book.add(new)
    some = book.some(2, 7)
    assert len(some.name) == 4 and torch.equal(some.features[2:], pages[3].features)
    older = [torch.equal(some.features[:2], old.features) for old in pages]
    assert older[1:3].count(True) == 1 and torch.equal(some.layout.box[2:], pages[3].layout.box)
    assert len(book.some(99, 7).name) == 6


def test_visual_tokens_are_aligned_with_the_words_for_what_they_show():
    layout = drawn(3, 2)
    name, colour, _ = tower.labels(layout)
    place = tower.places(name.device).expand(2, -1, -1)
    of = album.Page(layout, torch.zeros(2, 576, 192), name, colour, place)
    words = torch.nn.init.orthogonal_(torch.empty(len(questions.IDS), 192))
    tokens = torch.zeros(2, 576, 192)
    for b, patch in (name != tower.NONE).nonzero().tolist():
        named = (names.NAMES[name[b, patch]], list(names.COLOURS)[colour[b, patch]])
        tokens[b, patch] = sum(words[questions.IDS[word]] for word in named)
    alignment = train_answers.Alignment()
    loss, found = alignment(tokens, 9 * words, of)
    assert found["named"] == found["coloured"] == 1
    assert loss < alignment(-tokens, 9 * words, of)[0]


def test_the_last_word_of_a_question_knows_its_answer():
    asked = questions.ask(drawn(2, 3), torch.Generator().manual_seed(0))
    early = train_answers.early(asked, 2)
    answers = asked.targets[small.is_answer(asked.targets)]
    assert torch.equal(early[early != -100], answers)
    last = asked.words[early != -100].tolist()
    mark = questions.IDS["?"]
    after = asked.words[:, 1:][early[:, :-1] != -100]
    assert (after == mark).all() and mark not in last and questions.IDS["corner"] in last


def trained(folder, seconds, light=False, broken=()):
    torch.manual_seed(0)
    model = torch.nn.Sequential()
    model.layers = torch.nn.ModuleDict({"0": torch.nn.Linear(4, 4)})
    run = training.Training(folder, "stage", {"model": model}, seconds, 0.1, light=light)
    losses = []
    for step in run:
        x = torch.randn(64, 4, generator=torch.Generator().manual_seed(step))
        loss = (model.layers["0"](x) - x.flip(1)).square().mean()
        run.update(loss * (float("nan") if step in broken else 1), {"seen": 1.0})
        losses.append(loss.item())
    return model.layers["0"].weight.detach().clone(), run, losses


def test_muon_of_many_matrices_is_torchs_of_each():
    generator = torch.Generator().manual_seed(0)
    shapes = ((8, 8), (6, 12), (12, 6), (8, 8))
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    found, want = ([torch.nn.Parameter(s.clone()) for s in start] for _ in range(2))
    options = {"weight_decay": muon.DECAY, "adjust_lr_fn": "match_rms_adamw"}
    ours = muon.Muon([{"params": found, "lr": 0.1}])
    theirs = torch.optim.Muon(want, lr=0.1, **options)
    for _ in range(3):
        for one, two in zip(found, want, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            two.grad = one.grad.clone()
        ours.step()
        theirs.step()
    for one, two in zip(found, want, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0.01)  # they compute in bfloat16
        assert (one - two).norm() < 0.01 * two.norm()


@pytest.mark.parametrize("light", [False, True])
def test_training_ends_with_its_time_and_goes_on_where_it_was_stopped(tmp_path, light):
    weight, first, losses = trained(tmp_path, 0.5, light)
    assert losses[-1] < 0.1 * losses[0] and first.done == 1
    state = torch.load(tmp_path / "stage.pt", weights_only=True)
    saved = state["model"]["layers.0.weight"]
    assert saved.dtype == (torch.bfloat16 if light else torch.float32)
    assert torch.equal(saved, weight.to(saved.dtype)) and bool(state["optimisers"]) != light
    resumed, run, more = trained(tmp_path, 0.7, light)
    assert run.step > first.step == state["step"] and 0.5 < run.spent < 0.7
    assert more[0] < 0.1 * losses[0]
    again, run, none = trained(tmp_path, 0.7, light)  # its time is over
    assert not none and run.step == state["step"] + len(more)
    assert torch.equal(again, resumed.to(saved.dtype).float())


def test_a_step_without_a_finite_gradient_does_not_spoil_the_weights(tmp_path):
    weight, _, losses = trained(tmp_path, 0.5, broken=(3, 40))
    assert weight.isfinite().all() and losses[-1] < 0.1 * losses[0]


def test_training_of_both_stages_learns_and_leaves_a_checkpoint(tmp_path, monkeypatch):
    few = {digit: samples[:2] for digit, samples in compose.handwriting("dev").items()}
    monkeypatch.setattr(compose, "handwriting", lambda split: few)
    monkeypatch.setattr(compose, "atlas", cache(compose.atlas.__wrapped__))
    for stage in (train_tower, train_answers):
        monkeypatch.setattr(stage, "DEVELOPMENT", 1)
    monkeypatch.setattr(train, "BEGAN", time.perf_counter())
    train.main(["--seconds", "4", "--batch", "1", "1", "--light", "--out", str(tmp_path)])
    state = torch.load(tmp_path / "answers.pt", weights_only=True)
    small.build().load_state_dict(state["model"])
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert rows[-1]["split"] == "dev" and 0 <= rows[-1]["right"] <= 1
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 16e6


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
