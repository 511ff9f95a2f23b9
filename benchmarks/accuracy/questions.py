"""Questions about pictures, each with one answer of one word, and the vocabulary they are made of.

For a batch of layouts all questions are made at once, as rows of token ids of fixed length:

    asked = ask(layout, generator)      # Asked
    texts(asked)[0]                     # [Question("which digit is red ?", "7", "digit"), ...]
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .names import COLOURS, DIGITS, NAMES, SHAPES, SIDE, WORDS, constant
from .scenes import MOST, WEIGHTS, Layout

KINDS = ("digit", "shape", "word", "colour", "there", "count", "corner", "beside")
CORNERS = {"upper left": (-1, -1), "upper right": (1, -1)}
CORNERS |= {"lower left": (-1, 1), "lower right": (1, 1)}
SIDES = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}
COUNTS = ("none", "one", "two", "three", "four", "five", "six")
GROUPS = {"digit": DIGITS, "shape": SHAPES, "word": WORDS}
GRAMMAR = (
    "which what is the of in how many objects digit digits shape shapes word words color there a "
    "corner upper lower left right above below yes no nothing ?"
).split()
VOCABULARY = tuple(dict.fromkeys((*GRAMMAR, *COUNTS, *NAMES, *COLOURS)))
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "answer:")
IDS = {word: i for i, word in enumerate((*SPECIAL, *VOCABULARY))}
PAD, END, ANSWER = (IDS[word] for word in ("<pad>", "</s>", "answer:"))
STARTS = {
    "which": "names",
    "what color": "colour",
    "is there": "there",
    "how many": "count",
    "what is in": "corner",
}
NEAR = 20  # pixels: no corner is asked about that has an object so near its border
AMONG = {"names": MOST, "colours": MOST, "there": 2, "count": 2, "corner": 2, "beside": 2}


@dataclass(frozen=True)
class Question:
    text: str
    answer: str
    kind: str


@dataclass(frozen=True)
class Asked:
    """Questions of B pictures in columns that all pictures share: L tokens in Q questions."""

    words: Tensor  # [B, L] token ids, questions with their answers one after another
    targets: Tensor  # [B, L] the answer behind "answer:", END behind the answer, -100 elsewhere
    starts: Tensor  # [L] the column in which the question of a column begins
    columns: dict[str, slice]  # of the questions of each of AMONG


def ask(layout: Layout, generator: Generator, among: dict[str, int] = AMONG) -> Asked:
    """Up to ``among`` questions of each kind, those that have one answer, in random order.

    By default the name and colour of every object, and two questions of each other kind.
    """
    makers = (
        (names, "names"),
        (colours, "colours"),
        (there, "there"),
        (counts, "count"),
        (corners, "corner"),
        (sides, "beside"),
    )
    rows, targets, starts, columns = [], [], [], {}
    for make, kind in makers:
        if not among.get(kind):
            continue
        phrases, possible = make(layout, generator)  # [B, n, length], [B, n]
        luck = torch.rand(possible.shape, generator=generator, device=possible.device)
        found = (luck + possible.float()).topk(among[kind], dim=1)
        index = found.indices[..., None].expand(-1, -1, phrases.shape[2])
        row, good = phrases.gather(1, index), found.values >= 1
        row = row.where(good[..., None], PAD)
        ahead = F.pad(row[..., 1:], (0, 1), value=PAD)
        due = row == ANSWER
        after = F.pad(due, (1, 0))[..., :-1]
        target = ahead.where(~after, END).where(due | after, -100)
        rows.append(row.flatten(1))
        targets.append(target.flatten(1))
        length, before = row.shape[2], len(starts)
        columns[kind] = slice(before, before + length * among[kind])
        starts += [before + i // length * length for i in range(length * among[kind])]
    start = constant(tuple(starts), rows[0].device)
    return Asked(torch.cat(rows, 1), torch.cat(targets, 1), start, columns)


def texts(asked: Asked) -> list[list[Question]]:
    words, starts = list(IDS), asked.starts.tolist()
    found: list[list[Question]] = []
    for row in asked.words.tolist():
        of: list[list[str]] = []
        for column, token in enumerate(row):
            if starts[column] == column:
                of.append([])
            if token != PAD:
                of[-1].append(words[token])
        found.append([_question(one) for one in of if one])
    return found


def _question(words: list[str]) -> Question:
    text, answer = " ".join(words[:-2]), words[-1]
    kind = next((kind for start, kind in STARTS.items() if text.startswith(start)), "beside")
    return Question(text, answer, words[1] if kind == "names" else kind)


def names(layout: Layout, generator: Generator) -> tuple[Tensor, Tensor]:
    name, colour = _ids(NAMES, layout.name), _ids(COLOURS, layout.colour)
    kind = _ids(GROUPS, _kind(layout.name))
    return phrase("which", kind, "is", colour, "? answer:", name), layout.there


def colours(layout: Layout, generator: Generator) -> tuple[Tensor, Tensor]:
    name, colour = _ids(NAMES, layout.name), _ids(COLOURS, layout.colour)
    return phrase("what color is the", name, "? answer:", colour), layout.there


def there(layout: Layout, generator: Generator) -> tuple[Tensor, Tensor]:
    """One that is there or one that is not, as likely."""
    size, device = len(layout.name), layout.name.device
    present = torch.zeros(size, len(NAMES) + 1, device=device)
    present = present.scatter(1, layout.name.where(layout.there, len(NAMES)), 1)[:, :-1]
    count = 4
    yes = torch.rand(size, count, generator=generator, device=device) < 0.5
    yes = yes & present.any(1, keepdim=True)
    of_present = torch.multinomial(present + 1e-9, count, True, generator=generator)
    of_absent = torch.multinomial(
        (1 - present) * constant(WEIGHTS, device), count, True, generator=generator
    )
    name = of_present.where(yes, of_absent)
    again = (name[:, :, None] == name[:, None]).tril(-1).any(2)
    answer = torch.full_like(name, IDS["no"]).where(~yes, IDS["yes"])
    return phrase("is there a", _ids(NAMES, name), "? answer:", answer), ~again


def counts(layout: Layout, generator: Generator) -> tuple[Tensor, Tensor]:
    kind = _kind(layout.name)
    of = [layout.there] + [layout.there & (kind == i) for i in range(len(GROUPS))]
    number = _ids(COUNTS, torch.stack(of, 1).sum(2))
    noun = table(("objects", *(f"{group}s" for group in GROUPS)), kind.device).expand_as(number)
    return phrase("how many", noun, "? answer:", number), torch.ones_like(number, dtype=torch.bool)


def corners(layout: Layout, generator: Generator) -> tuple[Tensor, Tensor]:
    """A quarter with one object, seldom none; not asked where anything lies near its border."""
    way = constant(tuple(CORNERS.values()), layout.name.device)
    inward = (_centre(layout) - SIDE / 2)[:, None] * way[:, None]  # [B, 4, K, 2]: > 0 inside
    there = layout.there[:, None]
    within = (inward > NEAR).all(-1) & there
    doubtful = (inward > -NEAR).all(-1) & there & ~within
    found = within.sum(2)
    name = layout.name[:, None].expand(within.shape).gather(2, within.byte().argmax(2, True))
    answer = _ids(NAMES, name[..., 0]).where(found == 1, IDS["nothing"])
    upper, left = (
        table(tuple(corner.split()[i] for corner in CORNERS), way.device).expand_as(answer)
        for i in (0, 1)
    )
    phrases = phrase("what is in the", upper, left, "corner ? answer:", answer)
    luck = torch.rand(found.shape, generator=generator, device=found.device)
    return phrases, ((found == 1) | (found == 0) & (luck < 0.25)) & ~doubtful.any(2)


def sides(layout: Layout, generator: Generator) -> tuple[Tensor, Tensor]:
    """The only object on one side of another; not asked where any side is in doubt."""
    way = constant(tuple(SIDES.values()), layout.name.device)
    centre = _centre(layout)
    apart = centre[:, None] - centre[:, :, None]  # [B, from, to, 2]
    along = (apart[:, None] * way[:, None, None]).sum(-1)  # [B, 4, from, to]
    most = layout.name.shape[1]
    other = layout.there[:, None, None] & ~torch.eye(most, device=way.device).bool()
    beyond = (along > 0) & other
    doubtful = ((along.abs() < NEAR) & other).any(3)
    possible = (beyond.sum(3) == 1) & ~doubtful & layout.there[:, None]  # [B, 4, from]
    found = layout.name[:, None, None].expand(beyond.shape)
    found = _ids(NAMES, found.gather(3, beyond.byte().argmax(3, True))[..., 0])
    name = _ids(NAMES, layout.name)[:, None].expand(-1, 2, -1)
    side = table(tuple(SIDES), way.device)[:, None].expand(len(name), -1, most)
    beside = phrase("what is", side[:, :2], "of the", name, "? answer:", found[:, :2])
    upright = phrase("what is", side[:, 2:], "the", name, "? answer:", found[:, 2:])
    phrases = torch.cat([beside, F.pad(upright, (0, 1), value=PAD)], 1)
    return phrases.flatten(1, 2), possible.flatten(1)


def phrase(*parts: str | Tensor) -> Tensor:
    """Words [..., length] of which some are constant and some are ids [...]."""
    like = next(part for part in parts if isinstance(part, Tensor))
    columns = []
    for part in parts:
        if isinstance(part, str):
            columns += [torch.full_like(like, IDS[word]) for word in part.split()]
        else:
            columns.append(part)
    return torch.stack(columns, -1)


def _ids(words: Iterable[str], index: Tensor) -> Tensor:
    return table(tuple(words), index.device)[index.clamp(min=0)]


def table(words: tuple[str, ...], device: torch.device) -> Tensor:
    return constant(tuple(IDS[word] for word in words), device)


def _kind(name: Tensor) -> Tensor:
    """Index into GROUPS."""
    kinds = tuple(i for i, group in enumerate(GROUPS.values()) for _ in group)
    return constant(kinds, name.device)[name.clamp(min=0)]


def _centre(layout: Layout) -> Tensor:
    return (layout.box[..., :2] + layout.box[..., 2:]) / 2
