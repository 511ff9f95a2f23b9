"""``zoprune demo --model``: a checkpoint answers a question with all visual tokens and with few."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..calls import report
from ..hf.families import family_of
from ..hf.prune import prune
from . import photo as photos
from .errors import UsageError
from .progress import Progress


@dataclass
class Answer:
    """What ``generate`` returned and how long it took."""

    ids: Tensor  # [n]
    first: float  # seconds to the first token
    seconds: float


def run(args: argparse.Namespace) -> int:
    """Print both answers and write the picture; returns 0."""
    from .checkpoint import load, question

    photo = photos.open_photo(args.photo)
    step = Progress("loading the checkpoint")
    model, processor = load(args.model, args.dtype or "auto")
    step.finish(type(model).__name__)
    inputs = question(model, processor, photo, args.prompt)
    try:
        family_of(model)
    except TypeError as error:
        raise UsageError(str(error).removeprefix("zoprune: ")) from error
    full = _answer("unpruned", model, inputs, args.max_new_tokens)
    prune(model, args.keep, method=args.method)
    pruned = _answer("pruned", model, inputs, args.max_new_tokens)
    kept = report(model)
    print(f"\n{_table(full, pruned, sum(kept.tokens), sum(map(len, kept.kept)))}\n")
    for name, answer in (("Unpruned", full), ("Pruned", pruned)):
        print(f"{name}: {processor.decode(answer.ids, skip_special_tokens=True).strip()}\n")
    picture = kept.picture(0, processor)
    picture.save(args.out)
    print(f"Wrote {args.out} ({picture.width} x {picture.height} pixels)")
    return 0


def _answer(name: str, model: Any, inputs: dict[str, Any], length: int) -> Answer:
    step = Progress(name)
    model.generate(**inputs, max_new_tokens=1, do_sample=False)  # warm up
    clock = _Clock()
    ids = model.generate(**inputs, max_new_tokens=length, do_sample=False, streamer=clock)
    seconds = time.perf_counter() - clock.start
    step.finish(f"{seconds:.2f} s")
    first = clock.times[1] - clock.start  # the prompt comes before it
    return Answer(ids[0, inputs["input_ids"].shape[1] :], first, seconds)


class _Clock:
    """A streamer of ``generate`` that notes when the prompt and each token arrive."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def _table(full: Answer, pruned: Answer, tokens: int, kept: int) -> str:
    rows = [f"  {'':<10}{'visual tokens':>14}{'first token':>14}{'answer':>12}"]
    for name, count, answer in (("unpruned", tokens, full), ("pruned", kept, pruned)):
        rows.append(f"  {name:<10}{count:>14}{answer.first:>12.3f} s{answer.seconds:>10.3f} s")
    rows.append(
        f"\n  {full.first / pruned.first:.1f} times as fast to the first token; one run of each."
    )
    return "\n".join(rows)
