"""``zoprune demo`` by itself: the small trained model answers about a picture it has never seen."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..budgets import tokens_of
from ..calls import report
from ..hf.prune import prune, restore
from .answers import Answer, answer, milliseconds, panel_image
from .checkpoint import TRAINED, load, question
from .options import print_json
from .photo import open_photo, save
from .progress import Progress

if TYPE_CHECKING:
    from PIL.Image import Image

TOKENS, GRID = 576, (24, 24)


@dataclass
class Column:
    """The model's answers with ``kept`` tokens."""

    kept: int
    words: list[str]
    times: list[Answer]
    positions: list[int]  # of the kept tokens, for the last question

    def right(self, truth: list[str]) -> int:
        return sum(word == true for word, true in zip(self.words, truth, strict=True))

    def median(self, name: str) -> float:
        return sorted(getattr(one, name) for one in self.times)[len(self.times) // 2]


def run(args: argparse.Namespace) -> int:
    """Print answers and times and write the picture; returns 0."""
    photo = open_photo(str(TRAINED / "sample.png"))
    sample = json.loads((TRAINED / "sample.json").read_text())
    asked = [q["question"] for q in sample["questions"]]
    truth = [q["answer"] for q in sample["questions"]]
    step = Progress("loading the model")
    model, processor = load(str(TRAINED), args.dtype or "float32")
    weights = sum(p.numel() for p in model.parameters()) / 1e6
    step.finish(f"{weights:.1f} million weights")
    counts = [tokens_of(keep, TOKENS) for keep in args.keeps]
    if len(counts) == 1:
        counts.append(max(1, counts[0] // 4))
    columns = [
        _column(model, processor, photo, asked, kept, args.method) for kept in (TOKENS, *counts)
    ]
    picture = _picture(photo, asked, truth, columns, sample, weights)
    save(picture, args.out)
    if args.json:
        print_json(_facts(args, asked, truth, columns))
        return 0
    print(f"\n{_table(asked, truth, columns)}\n\n{_expected(sample)}\n")
    print(f"Wrote {args.out} ({picture.width} x {picture.height} pixels)")
    return 0


def _column(
    model: Any, processor: Any, photo: Image, asked: list[str], kept: int, method: Any
) -> Column:
    step = Progress(f"{kept} tokens")
    restore(model)
    positions = list(range(TOKENS))
    if kept < TOKENS:
        prune(model, kept, method=method)
    inputs = [question(model, processor, photo, text) for text in asked]
    answer(model, inputs[0], 1)  # warm up
    times = [answer(model, one, 1) for one in inputs]
    if kept < TOKENS:
        positions = report(model).kept[0].tolist()
    words = [processor.decode(one.ids, skip_special_tokens=True).strip() for one in times]
    column = Column(kept, words, times, positions)
    step.finish(f"{milliseconds(column.median('first'))} to the answer")
    return column


def _table(asked: list[str], truth: list[str], columns: list[Column]) -> str:
    """Answers side by side; wrong ones are marked."""
    head = "".join(f"{f'{column.kept} tokens':>16}" for column in columns)
    lines = [f"  {'':<40}{head}"]
    for i, (text, true) in enumerate(zip(asked, truth, strict=True)):
        cells = [
            column.words[i] if column.words[i] == true else f"{column.words[i]} (wrong)"
            for column in columns
        ]
        lines.append(f"  {text:<40}" + "".join(f"{cell:>16}" for cell in cells))
    lines.append(
        f"  {'right':<40}"
        + "".join(f"{f'{column.right(truth)} of {len(truth)}':>16}" for column in columns)
    )
    for name, words in (("language", "language model, prompt"), ("first", "first token")):
        cells = [milliseconds(column.median(name)) for column in columns]
        lines.append(f"  {words:<40}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def _facts(
    args: argparse.Namespace, asked: list[str], truth: list[str], columns: list[Column]
) -> dict[str, Any]:
    """What the table says, as an object for ``--json``."""
    return {
        "model": "trained",
        "questions": asked,
        "right_answers": truth,
        "method": args.method,
        "tokens": TOKENS,
        "columns": [
            {
                "keep": column.kept,
                "answers": column.words,
                "kept": column.positions,
                "prompt_seconds": column.median("language"),
                "first_token_seconds": column.median("first"),
            }
            for column in columns
        ],
        "picture": args.out,
    }


def _expected(sample: dict[str, Any]) -> str:
    shares = ", ".join(f"{100 * v:.1f} % with {k} tokens" for k, v in sample["accuracy"].items())
    return (
        f"One picture is an example. Of {sample['asked']:,} held-out questions this model answers\n"
        f"right: {shares} (docs/quality.md)."
    )


def _picture(
    photo: Image,
    asked: list[str],
    truth: list[str],
    columns: list[Column],
    sample: dict[str, Any],
    weights: float,
) -> Image:
    from . import pictures
    from .answers import WIDTH

    panels = []
    for column in columns:
        patch = WIDTH // GRID[0]
        image = pictures.kept_patches(photo, column.positions, GRID, patch)
        replies = [
            pictures.Reply(text.replace(" ?", "?"), word, true)
            for text, word, true in zip(asked, column.words, truth, strict=True)
        ]
        panels.append(
            pictures.Panel(
                f"{column.kept} visual tokens",
                f"{column.right(truth)} of {len(truth)} right, prompt read in "
                f"{milliseconds(column.median('language'))}",
                panel_image(image, replies),
            )
        )
    shares = ", ".join(f"{100 * v:.0f} % with {k}" for k, v in sample["accuracy"].items())
    sheet = pictures.sheet(
        "Same questions, fewer visual tokens",
        "ZOO-Prune keeps the tokens that the projector is most sensitive to and that differ most "
        "from each other; the language model sees nothing else.",
        panels,
        f"A model of {weights:.1f} million weights, trained for this demo, and a "
        f"picture that it has never seen. Right answers to {sample['asked']:,} such questions: "
        f"{shares} tokens.",
        columns=len(panels),
    )
    return pictures.with_palette(sheet)
