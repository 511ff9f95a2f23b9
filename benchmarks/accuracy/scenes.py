"""Pictures made on the spot: handwritten digits, shapes and words on photographs, in batches.

Digits are real handwriting (scikit-learn, 1,797 samples of 8 x 8), photographs are those that
scikit-image ships. Both are split by sample: no digit and no photograph of the "test" split is ever
seen in training. What is drawn where is a ``Layout`` of tensors, on the generator's device;
``compose.render`` makes the pixels.

    layout = draw(torch.Generator().manual_seed(0), "test", 8)
    pixels = compose.render(layout)  # [8, 3, 336, 336] uint8
    objects(layout)[0]               # (Object(name="7", colour="red", box=(x0, y0, x1, y1)), ...)
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Generator, Tensor

from . import compose
from .names import (
    COLOURS,
    DIGITS,
    LOOSE,
    MARGIN,
    NAMES,
    PATCH,
    SHAPES,
    SIDE,
    SIZES,
    TILE,
    WORDS,
    constant,
)

MOST = 6  # objects in a picture that questions are asked about
TRIES = 50  # places tried for an object before it is left out
SHARES = {DIGITS: 0.4, SHAPES: 0.2, WORDS: 0.4}  # of objects
WEIGHTS = tuple(share / len(names) for names, share in SHARES.items() for _ in names)


@dataclass(frozen=True)
class Object:
    name: str
    colour: str
    box: tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels

    @property
    def kind(self) -> str:
        return "digit" if self.name in DIGITS else "shape" if self.name in SHAPES else "word"


@dataclass(frozen=True)
class Layout:
    """What B pictures of up to K objects show; an object that is not there has the name -1."""

    split: str
    photo: Tensor  # [B] index of the photograph
    crop: Tensor  # [B, 3] x, y and side of the square cut out of it, as shares
    mirrored: Tensor  # [B] bool
    light: Tensor  # [B, 2] contrast and brightness of the photograph
    name: Tensor  # [B, K] index into NAMES
    colour: Tensor  # [B, K] index into COLOURS
    tone: Tensor  # [B, K] brightness of the colour
    tile: Tensor  # [B, K] of the atlas of glyphs
    box: Tensor  # [B, K, 4] x0, y0, x1, y1 in pixels
    region: Tensor  # [B, K, 4] what the object and its shadow may cover; regions do not meet

    @property
    def there(self) -> Tensor:
        return self.name >= 0

    def to(self, device: torch.device | str) -> Layout:
        rest = {f.name: getattr(self, f.name) for f in fields(self)[1:]}
        return Layout(self.split, **{name: part.to(device) for name, part in rest.items()})


def draw(
    generator: Generator, split: str, size: int, loose: float = LOOSE, count: int | None = None
) -> Layout:
    """``size`` pictures with ``count`` objects each, 1 to 6 by default, that do not touch.

    Each has a name and a colour of its own, so that questions have one answer. They lie anywhere
    and their sizes differ; where ``loose`` is 0 they lie on the patches' grid and have one size.
    """
    at = generator.device
    number = torch.randint(1, MOST + 1, (size, 1), generator=generator, device=at)
    number = number if count is None else torch.full_like(number, count)
    wanted = torch.arange(MOST, device=at) < number
    luck = torch.rand(size, len(NAMES), generator=generator, device=at).clamp_(1e-6, 1 - 1e-6)
    name = (
        (constant(WEIGHTS, at).log() - (-luck.log()).log()).topk(MOST).indices
    )  # without replacement
    colour = torch.rand(size, len(COLOURS), generator=generator, device=at).argsort(1)[:, :MOST]
    tile, extent = _glyphs(generator, split, name, loose)
    # [B, K, TRIES, 2] upper left corners
    room = SIDE - 2 * MARGIN - extent[:, :, None]
    corner = torch.rand(size, MOST, TRIES, 2, generator=generator, device=at) * room + MARGIN
    corner = _loosened(corner, loose, PATCH).long()
    boxes = torch.cat([corner, corner + extent[:, :, None]], -1)
    box = torch.zeros(size, MOST, 4, dtype=torch.long, device=at)
    placed = torch.zeros(size, MOST, dtype=torch.bool, device=at)
    gap = 2 * MARGIN
    for k in range(MOST):
        new, old = boxes[:, k, :, None], box[:, None, :k]  # [B, TRIES, 1, 4], [B, 1, k, 4]
        apart = (new[..., :2] >= old[..., 2:] + gap) | (new[..., 2:] + gap <= old[..., :2])
        free = (apart.any(-1) | ~placed[:, None, :k]).all(-1)  # [B, TRIES]
        first = free.byte().argmax(1)
        box[:, k] = boxes[:, k].gather(1, first[:, None, None].expand(-1, 1, 4))[:, 0]
        placed[:, k] = wanted[:, k] & free.any(1)
    whole = constant((0, 0, SIDE, SIDE), at)
    return _layout(generator, split, name, colour, tile, box, whole.expand_as(box), placed)


def crowd(generator: Generator, split: str, size: int, loose: float = LOOSE) -> Layout:
    """Pictures full of objects, one in each cell of a grid, for dense labels."""
    at, side = generator.device, SIDE // TILE + 1
    shape = (size, side * side)
    name = torch.multinomial(
        constant(WEIGHTS, at).expand(size, -1), side * side, replacement=True, generator=generator
    )
    colour = torch.randint(len(COLOURS), shape, generator=generator, device=at)
    tile, extent = _glyphs(generator, split, name, loose)
    shift = torch.rand(size, 1, 2, generator=generator, device=at) * TILE
    cells = torch.cartesian_prod(*[torch.arange(side, device=at) * TILE] * 2)
    cell = cells - _loosened(shift, loose).long()
    room = TILE - 2 * MARGIN - extent
    inside = torch.rand(*shape, 2, generator=generator, device=at) * (room + 1) + MARGIN
    inside = _loosened(inside, loose, PATCH).long().minimum(room + MARGIN)
    corner = cell + inside
    box = torch.cat([corner, corner + extent], -1)
    bounds = torch.cat([cell, cell + TILE], -1)
    whole = (box[..., :2] >= 0).all(-1) & (box[..., 2:] <= SIDE).all(-1)
    there = whole & (torch.rand(shape, generator=generator, device=at) > 0.1)
    return _layout(generator, split, name, colour, tile, box, bounds, there)


def joined(one: Layout, two: Layout) -> Layout:
    """The pictures of both."""
    most = max(one.name.shape[1], two.name.shape[1])

    def padded(part: Tensor, name: str) -> Tensor:
        missing = most - part.shape[1] if name in PER_OBJECT else 0
        if not missing:
            return part
        fill = part.new_full((len(part), missing, *part.shape[2:]), -1 if name == "name" else 0)
        return torch.cat([part, fill], 1)

    names = [f.name for f in fields(Layout)[1:]]
    parts = {n: torch.cat([padded(getattr(x, n), n) for x in (one, two)]) for n in names}
    return Layout(one.split, **parts)


PER_OBJECT = ("name", "colour", "tone", "tile", "box", "region")


def objects(layout: Layout) -> list[tuple[Object, ...]]:
    rows = zip(layout.name.tolist(), layout.colour.tolist(), layout.box.tolist(), strict=True)
    colours = list(COLOURS)
    return [
        tuple(
            Object(NAMES[n], colours[c], tuple(box))
            for n, c, box in zip(*row, strict=True)
            if n >= 0
        )
        for row in rows
    ]


def _glyphs(generator: Generator, split: str, name: Tensor, loose: float) -> tuple[Tensor, Tensor]:
    """The tile of a random sample of each name in a random size, and its width and height."""
    at, atlas = name.device, compose.atlas(split, name.device.type)
    spreads = tuple(SIZES[kind][1] for kind in SHARES for _ in kind)
    spread = constant(spreads, at)[name]
    luck = torch.rand(*name.shape, 2, generator=generator, device=at)
    sample = (luck[..., 0] * atlas.samples[name]).long()
    size = (spread * loose * (2 * luck[..., 1] - 1)).round().long() + spread
    tile = atlas.first[name] + sample * (2 * spread + 1) + size
    return tile, atlas.extent[tile]


def _loosened(place: Tensor, loose: float, least: int = 0) -> Tensor:
    """``place`` where loose is 1, the multiple of a patch before it (but ``least``) where 0."""
    near = ((place / PATCH).floor() * PATCH).clamp(min=least)
    return near + loose * (place - near)


def _layout(
    generator: Generator,
    split: str,
    name: Tensor,
    colour: Tensor,
    tile: Tensor,
    box: Tensor,
    bounds: Tensor,
    there: Tensor,
) -> Layout:
    at, size = name.device, len(name)
    luck = torch.rand(size, 7, generator=generator, device=at)
    shadow = constant((-MARGIN, -MARGIN, MARGIN, MARGIN), at)
    wide = box + shadow
    low, high = bounds[..., :2], bounds[..., 2:]
    region = torch.cat([wide[..., :2].maximum(low), wide[..., 2:].minimum(high)], -1)
    return Layout(
        split,
        (luck[:, 0] * len(compose.PHOTOGRAPHS[split])).long(),
        luck[:, 1:4] * constant((1, 1, 0.5), at) + constant((0, 0, 0.5), at),
        luck[:, 4] < 0.5,
        torch.stack([0.35 + 0.4 * luck[:, 5], 30 * luck[:, 6]], 1),
        name.where(there, -1),
        colour,
        0.85 + 0.15 * torch.rand(name.shape, generator=generator, device=at),
        tile,
        box,
        region,
    )
