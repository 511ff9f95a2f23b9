"""What the small model's pictures are made of: names, colours and sizes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

SIDE = 336  # pixels
PATCH = 14  # pixels
TILE = 4 * PATCH  # pixels: no object with its shadow is larger
LOOSE = 1.0  # where objects lie and how large they are: 0 on the patches' grid and of one size
MARGIN = 4  # pixels of shadow around an object
COLOURS = {
    "red": (226, 32, 32),
    "green": (30, 200, 50),
    "blue": (40, 70, 240),
    "yellow": (250, 230, 30),
    "white": (250, 250, 250),
    "pink": (255, 90, 210),
    "cyan": (40, 225, 235),
    "orange": (255, 140, 20),
}
DIGITS = tuple("0123456789")
SHAPES = ("circle", "square", "triangle", "cross")
WORDS = tuple(  # many differ in one letter, so that each letter has to be read
    "cat car cap can bat bad bag bus bed bee big bit box boy cow cup cut day dog dot ear egg eye "
    "fan fig fox gas hat hen hot ice ink jam jar jet key kid leg lip log map mat net nut oil owl "
    "pan pen pet pie pig pot rat rug sea sun tea toy van wet".split()
)
NAMES = DIGITS + SHAPES + WORDS
# height in pixels (of a word: of its font), and how much more or less it may be
SIZES = {DIGITS: (28, 8), SHAPES: (28, 8), WORDS: (20, 3)}


@lru_cache(1024)
def constant(values: Any, device: torch.device) -> Tensor:
    """Nested tuples of numbers on a device. Kept, for to copy them there anew waits for a GPU."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)
