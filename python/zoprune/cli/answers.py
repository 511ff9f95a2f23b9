"""A model's answers with all visual tokens and with fewer, timed, and the picture of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..hf.families import family_of

if TYPE_CHECKING:
    from PIL.Image import Image

WIDTH = 600  # pixels of a panel


@dataclass
class Answer:
    """What ``generate`` returned and how long it took, in seconds."""

    ids: Tensor  # [n]
    language: float  # the language model's pass over the prompt
    first: float  # to the first token
    seconds: float


def answer(model: Any, inputs: dict[str, Any], length: int) -> Answer:
    """The greedy answer of at most ``length`` tokens; call it once before to warm up."""
    clock = _Clock()
    with _prefill(model) as passes:
        ids = model.generate(**inputs, max_new_tokens=length, do_sample=False, streamer=clock)
    seconds = time.perf_counter() - clock.start
    first = clock.times[1] - clock.start  # the prompt comes before it
    return Answer(ids[0, inputs["input_ids"].shape[1] :], passes[0], first, seconds)


class _Clock:
    """A streamer of ``generate`` that notes when the prompt and each token arrive."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


@contextmanager
def _prefill(model: Any) -> Iterator[list[float]]:
    """The seconds of each forward pass of the language model within the block."""
    begun: list[float] = []
    found: list[float] = []
    module = model.get_submodule(family_of(model).language_model)
    hooks = (
        module.register_forward_pre_hook(lambda *_: begun.append(time.perf_counter())),
        module.register_forward_hook(lambda *_: found.append(time.perf_counter() - begun[-1])),
    )
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def panel_image(picture: Image, replies: Sequence[Any]) -> Image:
    """The picture at ``WIDTH`` with its ``pictures.Reply`` below."""
    from PIL import Image as images

    from . import pictures

    height = round(picture.height * WIDTH / picture.width)
    shown = picture.convert("RGB").resize((WIDTH, height), images.Resampling.LANCZOS)
    return pictures.answered(shown, replies)


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.0f} s"
