"""Answers of the small model to held-out questions from kept tokens, and how sure a share is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from . import model as small
from . import questions
from .methods import Method, Picture, Projector
from .train_answers import Pictures, ask

BATCH = 24  # rows of a forward pass


@dataclass
class Split:
    """Held-out pictures with the questions of learned kinds, tower features computed once."""

    name: str
    seed: int
    pictures: list[Picture]
    asked: list[list[questions.Question]]

    @classmethod
    def of(cls, model: LlavaForConditionalGeneration, name: str, seed: int, size: int) -> Split:
        projector = Projector.of(model.model.multi_modal_projector)
        held_out = Pictures(model.model.vision_tower, name, seed, size)
        pictures = [Picture(projector, x, i) for i, x in enumerate(held_out.features)]
        asked = [[q for q in of if q.kind in questions.LEARNED] for of in held_out.asked]
        return cls(name, seed, pictures, asked)

    @property
    def kinds(self) -> list[list[str]]:
        return [[q.kind for q in asked] for asked in self.asked]


@torch.inference_mode()
def answer(
    model: LlavaForConditionalGeneration, split: Split, method: Method, k: int, seed: int = 0
) -> list[list[bool]]:
    """Whether each question of each picture is answered right from k tokens (576: all of them)."""
    pairs = [[(q.text, q.answer) for q in asked] for asked in split.asked]
    if not method.by_question or k == small.TOKENS:
        rows = [(i, pair) for i, pair in enumerate(pairs)]
    else:
        rows = [(i, [one]) for i, pair in enumerate(pairs) for one in pair]
    right: list[list[bool]] = [[] for _ in pairs]
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        kept = [_kept(model, split.pictures[i], pair, method, k, seed) for i, pair in some]
        logits, targets = ask(model, torch.stack(kept), [small.packed(asked) for _, asked in some])
        for (i, _), found, target in zip(some, logits.argmax(-1), targets, strict=True):
            right[i] += (found == target)[small.is_answer(target)].tolist()
    return right


def _kept(
    model: LlavaForConditionalGeneration,
    picture: Picture,
    asked: Sequence[tuple[str, str]],
    method: Method,
    k: int,
    seed: int,
) -> Tensor:
    if k == small.TOKENS:
        return picture.tokens
    question = None
    if method.by_question:
        ids = small.word_ids()
        words = torch.tensor([ids[word] for word in asked[0][0].split()])
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
