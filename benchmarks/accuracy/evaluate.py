"""Answers of the small model to held-out questions from kept tokens, and how sure a share is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from . import compose, questions, scenes, tower
from . import model as small
from .methods import Method, Picture, Projector

BATCH = 24  # rows of a forward pass
CHUNK = 4  # pictures drawn from one seed, so that more pictures begin with the same ones


@dataclass
class Split:
    """Held-out pictures with their questions, tower features computed once."""

    name: str
    seed: int
    pictures: list[Picture]
    asked: list[list[questions.Question]]

    @classmethod
    @torch.inference_mode()
    def of(cls, model: LlavaForConditionalGeneration, name: str, seed: int, size: int) -> Split:
        projector = Projector.of(model.model.multi_modal_projector)
        made = cls(name, seed, [], [])
        for start in range(0, size, CHUNK):
            layout, asked = drawn(name, seed, start // CHUNK)
            pixels = tower.scaled(compose.render(layout))
            features = model.model.vision_tower(pixel_values=pixels).last_hidden_state[:, 1:]
            made.pictures += [Picture(projector, x, start + i) for i, x in enumerate(features)]
            made.asked += questions.texts(asked)
        del made.pictures[size:], made.asked[size:]
        return made

    @property
    def kinds(self) -> list[list[str]]:
        return [[q.kind for q in asked] for asked in self.asked]


def drawn(split: str, seed: int, chunk: int) -> tuple[scenes.Layout, questions.Asked]:
    """The pictures ``CHUNK * chunk`` and following, and their questions."""
    generator = torch.Generator().manual_seed(seed + chunk)
    layout = scenes.draw(generator, split, CHUNK)
    return layout, questions.ask(layout, generator)


@torch.inference_mode()
def answer(
    model: LlavaForConditionalGeneration, split: Split, method: Method, k: int, seed: int = 0
) -> list[list[bool]]:
    """Whether each question of each picture is answered right from k tokens (576: all of them)."""
    if not method.by_question or k == small.TOKENS:
        rows = list(enumerate(split.asked))
    else:
        rows = [(i, [one]) for i, asked in enumerate(split.asked) for one in asked]
    right: list[list[bool]] = [[] for _ in split.asked]
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        kept = [_kept(model, split.pictures[i], asked, method, k, seed) for i, asked in some]
        words, starts, targets = padded([small.packed(asked) for _, asked in some])
        logits = small.ask(model, torch.stack(kept), words, starts)
        for (i, _), found, target in zip(some, logits.argmax(-1), targets, strict=True):
            right[i] += (found == target)[small.is_answer(target)].tolist()
    return right


def padded(packed: Sequence[tuple[Tensor, Tensor, Tensor]]) -> list[Tensor]:
    """Words, starts and targets [B, longest]."""
    longest = max(len(words) for words, _, _ in packed)
    return [
        torch.stack([F.pad(row[i], (0, longest - len(row[i])), value=fill) for row in packed])
        for i, fill in ((0, 0), (1, 0), (2, -100))
    ]


def _kept(
    model: LlavaForConditionalGeneration,
    picture: Picture,
    asked: Sequence[questions.Question],
    method: Method,
    k: int,
    seed: int,
) -> Tensor:
    if k == small.TOKENS:
        return picture.tokens
    question = None
    if method.by_question:
        words = torch.tensor([questions.IDS[word] for word in asked[0].text.split()])
        question = model.get_input_embeddings()(words)
    return method.keep(picture, k, seed, question)


def share(right: Sequence[Sequence[float]]) -> float:
    return sum(map(sum, right)) / sum(map(len, right))


def interval(right: Sequence[Sequence[float]], draws: int = 2000) -> tuple[float, float]:
    """95 % of the shares in samples of pictures: the questions of one picture hang together."""
    total = np.array([sum(r) for r in right])
    count = np.array([len(r) for r in right])
    some = np.random.default_rng(0).integers(len(right), size=(draws, len(right)))
    shares = total[some].sum(1) / count[some].sum(1)
    low, high = np.percentile(shares, [2.5, 97.5])
    return float(low), float(high)
