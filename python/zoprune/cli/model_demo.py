"""``zoprune demo --model``: a checkpoint answers a question with all visual tokens and with few."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from .. import budgets
from ..calls import report
from ..hf.prune import prune, restore
from . import overlay, pictures
from . import photo as photos
from .answers import answer as timed
from .errors import UsageError, first_line
from .options import print_json
from .progress import Progress

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..hf.families.base import View

SIDE = 900  # pixels, about, of each panel


@dataclass
class Answer:
    """What ``generate`` returned with a budget, and how long it took."""

    text: str
    first: float  # seconds to the first token
    seconds: float
    tokens: int = 0  # visual tokens of the photo
    kept: Any = None  # Tensor [k] int64, those of them that the model saw


def run(args: argparse.Namespace) -> int:
    """Print the answers and write the picture; returns 0."""
    from .checkpoint import load

    photo = photos.open_photo(args.photo)
    step = Progress("loading the checkpoint")
    model, processor = load(args.model, args.dtype or "auto")
    step.finish(type(model).__name__)
    chosen = {"per": args.per or "image", "method": args.method}
    answers, views = compare(
        model, processor, photo, args.prompt, args.keeps, args.max_new_tokens, **chosen
    )
    cut = crop(processor, photo)
    picture = draw(args.prompt, answers, views, processor, cut)
    photos.save(picture, args.out)
    if args.json:
        print_json(_facts(args, model, photo, answers, cut))
        return 0
    print(f"\n{cut}" if cut else "", f"{table(answers)}\n", sep="\n")
    for answer in answers:
        print(f"{counted(answer)}: {answer.text}\n")
    print(f"Wrote {args.out} ({picture.width} x {picture.height} pixels)")
    return 0


def compare(
    model: Any,
    processor: Any,
    photo: Image,
    prompt: str,
    keeps: Sequence[int | float],
    length: int,
    **chosen: Any,
) -> tuple[list[Answer], list[View]]:
    """The answer with all visual tokens and that with each budget; what the vision tower saw.

    The model comes back as it was. ``chosen`` are keywords of ``prune``.
    """
    from .checkpoint import question

    try:
        prune(model, keeps[0], **chosen)
    except (TypeError, ValueError) as error:
        raise UsageError(first_line(error).removeprefix("zoprune: ")) from error
    answers = []
    try:
        inputs = question(model, processor, photo, prompt)
        for keep in keeps:
            with budgets.keep(keep):
                answer = _answer(f"keep {keep}", model, processor, inputs, length)
            seen = report(model)
            answers.append(replace(answer, tokens=seen.tokens[0], kept=seen.kept[0]))
        views, tokens = report(model).views[0], answers[0].tokens
    finally:
        restore(model)
    full = _answer("unpruned", model, processor, inputs, length)
    return [replace(full, tokens=tokens, kept=torch.arange(tokens)), *answers], views


def draw(
    prompt: str,
    answers: Sequence[Answer],
    views: Sequence[View],
    processor: Any,
    note: str | None = None,
) -> Image:
    """One panel for each answer: the tokens it saw, the time it took, and what it says."""
    panels = [
        pictures.Panel(
            counted(answer),
            f"{answer.first:.2f} s to the first token, {answer.seconds:.2f} s in all",
            overlay.picture(views, answer.kept, processor, side=SIDE),
            text=answer.text or "(an empty answer)",
        )
        for answer in answers
    ]
    footer = (
        "Dropped patches are faded to grey, kept ones framed. One run of each, after a warm-up."
    )
    sheet = pictures.sheet(
        f"“{prompt}”",
        "The same model with all its visual tokens, and with the few that zoprune keeps.",
        panels,
        " ".join(filter(None, [footer, note])),
        columns=min(len(panels), 3),
    )
    return pictures.with_palette(sheet)


def _answer(name: str, model: Any, processor: Any, inputs: dict[str, Any], length: int) -> Answer:
    step = Progress(name)
    model.generate(**inputs, max_new_tokens=1, do_sample=False)  # warm up
    found = timed(model, inputs, length)
    step.finish(f"{found.seconds:.2f} s")
    text = processor.decode(found.ids, skip_special_tokens=True)
    return Answer(text.strip(), found.first, found.seconds)


def counted(answer: Answer) -> str:
    """How many of the photo's tokens the model saw."""
    kept = len(answer.kept)
    return f"All {kept} tokens" if kept == answer.tokens else f"{kept} of {answer.tokens} tokens"


def crop(processor: Any, photo: Image) -> str | None:
    """What the processor cuts off, if it does."""
    images = getattr(processor, "image_processor", None)
    size = getattr(images, "crop_size", None)
    if not getattr(images, "do_center_crop", False) or not size:
        return None
    width, height = (size[side] for side in ("width", "height"))
    return photos.crop_note(photo, photos.centre(photo, width, height))


def table(answers: Sequence[Answer]) -> str:
    """The times, and how much sooner the last answer began than the first."""
    rows = [f"  {'visual tokens':<18}{'first token':>14}{'answer':>12}"]
    for answer in answers:
        rows.append(f"  {counted(answer):<18}{answer.first:>12.3f} s{answer.seconds:>10.3f} s")
    ratio = answers[0].first / answers[-1].first
    rows.append(
        f"\n  With {len(answers[-1].kept)}, {ratio:.1f} times as fast to the first token; one run "
        "of each."
    )
    return "\n".join(rows)


def _facts(
    args: argparse.Namespace, model: Any, photo: Image, answers: Sequence[Answer], cut: str | None
) -> dict[str, Any]:
    return {
        "model": args.model,
        "architecture": type(model).__name__,
        "photo": args.photo or photos.DEFAULT,
        "size": photo.size,
        "note": cut,
        "prompt": args.prompt,
        "method": args.method,
        "per": args.per or "image",
        "answers": [
            {
                "answer": answer.text,
                "tokens": answer.tokens,
                "kept": answer.kept.tolist(),
                "first_token_seconds": answer.first,
                "seconds": answer.seconds,
            }
            for answer in answers
        ],
        "threads": torch.get_num_threads(),
        "picture": args.out,
    }
