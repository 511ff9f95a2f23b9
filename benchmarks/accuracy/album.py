"""Pictures that the frozen tower has seen once, kept so that they can be asked about many times."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from random import Random

import torch
from torch import Generator, Tensor
from transformers import CLIPVisionModel

from . import compose, scenes, tower


@dataclass(frozen=True)
class Page:
    """Of B pictures T patches each, in the picture's order."""

    layout: scenes.Layout
    features: Tensor  # [B, T, 192] what the tower makes of them, bfloat16
    name: Tensor  # [B, T] what lies there, index into NAMES or tower.NONE
    colour: Tensor  # [B, T] index into COLOURS, -100 where nothing lies
    place: Tensor  # [B, T, 2] x and y, in -1..1

    @property
    def parts(self) -> tuple[Tensor, ...]:
        return self.features, self.name, self.colour, self.place

    def shown(self, count: int, generator: Generator) -> Page:
        """``count`` patches of each picture: those with objects first, then others by chance."""
        luck = torch.rand(self.name.shape, generator=generator, device=self.name.device)
        kept = (luck + (self.name != tower.NONE)).topk(count).indices.sort().values
        rows = torch.arange(len(kept), device=kept.device)[:, None]
        return Page(self.layout, *(part[rows, kept] for part in self.parts))


@torch.no_grad()
def page(model: CLIPVisionModel, layout: scenes.Layout) -> Page:
    device = layout.name.device
    pixels = tower.scaled(compose.render(layout))
    with torch.autocast(device.type, torch.bfloat16):
        features = model(pixel_values=pixels).last_hidden_state[:, 1:]
    name, colour, _ = tower.labels(layout)
    place = tower.places(device).expand(len(name), -1, -1)
    return Page(layout, features.bfloat16(), name, colour, place)


def bound(pages: Sequence[Page]) -> Page:
    """The pictures of all."""
    layout = reduce(scenes.joined, (page.layout for page in pages))
    parts = zip(*(page.parts for page in pages), strict=True)
    return Page(layout, *(torch.cat(part) for part in parts))


class Album:
    """The newest ``most`` pages."""

    def __init__(self, most: int) -> None:
        self.pages: deque[Page] = deque(maxlen=most)

    def add(self, new: Page) -> None:
        self.pages.append(new)

    def some(self, count: int, seed: int) -> Page:
        """``count`` pages in one, or as many as there are: the newest, and others by chance."""
        *older, newest = self.pages
        return bound([*Random(seed).sample(older, min(count - 1, len(older))), newest])
