"""How the small model learns: labels, losses, optimiser, time."""

import itertools
import json
from functools import cache
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
pytest.importorskip("transformers")

from benchmarks.accuracy import (
    album,
    compose,
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
from tests.accuracy.layouts import drawn


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


@pytest.fixture
def clock(monkeypatch):
    """Time that passes by being asked for: as many steps on any machine, however busy."""

    def runs(tick):
        ticks = itertools.count()
        watch = SimpleNamespace(perf_counter=lambda: tick * next(ticks))
        for module in (training, train):
            monkeypatch.setattr(module, "time", watch)

    return runs


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
def test_training_ends_with_its_time_and_goes_on_where_it_was_stopped(tmp_path, light, clock):
    clock(0.0004)
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


def test_a_step_without_a_finite_gradient_does_not_spoil_the_weights(tmp_path, clock):
    clock(0.0004)
    weight, _, losses = trained(tmp_path, 0.5, broken=(3, 40))
    assert weight.isfinite().all() and losses[-1] < 0.1 * losses[0]


def test_training_of_both_stages_learns_and_leaves_a_checkpoint(tmp_path, monkeypatch, clock):
    clock(0.1)
    few = {digit: samples[:2] for digit, samples in compose.handwriting("dev").items()}
    monkeypatch.setattr(compose, "handwriting", lambda split: few)
    monkeypatch.setattr(compose, "atlas", cache(compose.atlas.__wrapped__))
    for stage in (train_tower, train_answers):
        monkeypatch.setattr(stage, "DEVELOPMENT", 1)
    monkeypatch.setattr(train, "BEGAN", 0.0)
    train.main(["--seconds", "4", "--batch", "1", "1", "--light", "--out", str(tmp_path)])
    state = torch.load(tmp_path / "answers.pt", weights_only=True)
    small.build().load_state_dict(state["model"])
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert rows[-1]["split"] == "dev" and 0 <= rows[-1]["right"] <= 1
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 16e6
