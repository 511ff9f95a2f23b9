"""Pixels of layouts, a batch at a time, with the same operations on CPUs and GPUs.

All glyphs of a split are drawn once, each in each of its sizes, into tiles of one atlas. A picture
is one lookup: which object a pixel belongs to (a product of matrices, for regions are rectangles
that do not meet), and from there which place of which tile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, reduce
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .names import COLOURS, DIGITS, MARGIN, NAMES, SHAPES, SIDE, SIZES, TILE, constant

if TYPE_CHECKING:
    from .scenes import Layout

PHOTOGRAPHS = {
    "train": (
        "astronaut.png brick.png camera.png chelsea.png clock_motion.png coins.png grass.png "
        "cell.png motorcycle_left.png moon.png retina.jpg page.png horse.png color.png"
    ).split(),
    "dev": ["coffee.png", "gravel.png"],
    "test": ["rocket.jpg", "hubble_deep_field.jpg", "ihc.png"],
}
SPLITS = tuple(PHOTOGRAPHS)
VARIANTS = {"train": 4, "dev": 1, "test": 1}  # of each handwritten digit: as it is, and bent
SHORT = 448  # pixels of a photograph's shorter side, so that no crop is scaled down by much
DARK, SHADOW = 8.0, 0.8  # what a shadow tends to, and its strength


@dataclass(frozen=True)
class Atlas:
    """Glyphs and photographs of a split."""

    cover: Tensor  # [tiles * TILE * TILE, 2] uint8: of the glyph, and of its shadow
    extent: Tensor  # [tiles, 2] width and height of the glyph, which begins at MARGIN
    first: Tensor  # [names] the first tile of a name: its first sample in its smallest size
    samples: Tensor  # [names]
    photos: Tensor  # [1, 3, H, W] float 0..255, one below the other
    frames: Tensor  # [photos, 3] upper edge, width and height of each


@cache
def atlas(split: str, device: str = "cpu") -> Atlas:
    """Made once for each type of device."""
    tiles, extent, first, samples = [], [], [], []
    for name in NAMES:
        first.append(sum(map(len, tiles)))
        drawn = [glyphs(split, name, size, device) for size in sizes(name)]  # [samples, h, w]
        samples.append(len(drawn[0]))
        extent += [(g.shape[2], g.shape[1]) for g in drawn] * len(drawn[0])
        edges = [
            (MARGIN, TILE - g.shape[2] - MARGIN, MARGIN, TILE - g.shape[1] - MARGIN) for g in drawn
        ]
        padded = [F.pad(g, edge) for g, edge in zip(drawn, edges, strict=True)]
        tiles.append(torch.stack(padded, 1).flatten(0, 1))  # [samples * sizes, TILE, TILE]
    cover = torch.cat([shaded(part) for tile in tiles for part in tile.split(256)])
    photos, frames = photographs(split)
    parts = (torch.tensor(part) for part in (extent, first, samples))
    return Atlas(*(part.to(device) for part in (cover, *parts, photos, frames)))


def sizes(name: str) -> range:
    middle, spread = next(size for kind, size in SIZES.items() if name in kind)
    return range(middle - spread, middle + spread + 1)


@cache
def handwriting(split: str) -> dict[str, Tensor]:
    """Samples of each digit, [n, 8, 8] in 0..1: four of six for training, one for dev and test."""
    from sklearn.datasets import load_digits

    data = load_digits()
    part = np.arange(len(data.images)) % 6
    mine = {"train": part < 4, "dev": part == 4, "test": part == 5}[split]
    found = {d: data.images[mine & (data.target == int(d))] / 16 for d in DIGITS}
    return {d: torch.from_numpy(images).float() for d, images in found.items()}


def glyphs(split: str, name: str, size: int, device: str = "cpu") -> Tensor:
    """Coverage [samples, h, w] in 0..1 of an object ``size`` pixels high."""
    if name in DIGITS:
        samples = handwriting(split)[name][:, None].to(device)
        samples = samples.repeat(VARIANTS[split], 1, 1, 1)
        bend = bends(len(samples), split).to(device)
        grid = F.affine_grid(bend, [len(samples), 1, size, size], align_corners=False)
        return F.grid_sample(samples, grid, "bicubic", align_corners=False).clamp(0, 1)[:, 0]
    if name in SHAPES:
        image = shape(name, 4 * size).resize((size, size), Image.Resampling.LANCZOS)
    else:
        font = ImageFont.load_default(size)
        x0, y0, x1, y1 = (round(v) for v in font.getbbox(name))
        image = Image.new("L", (min(x1 - x0, TILE - 2 * MARGIN), y1 - y0))
        ImageDraw.Draw(image).text((-x0, -y0), name, fill=255, font=font)
    return torch.from_numpy(np.asarray(image, np.float32) / 255)[None].to(device)


def bends(count: int, split: str) -> Tensor:
    """[count, 2, 3]: how each sample is turned, sheared and stretched; the first ones are not."""
    rng = np.random.default_rng(0)
    turn, shear = rng.uniform(-0.2, 0.2, (2, count))
    stretch = rng.uniform(0.95, 1.15, (2, count, 1))
    first = np.stack([np.cos(turn), np.sin(turn) + shear, 0 * turn], 1) * stretch[0]
    second = np.stack([-np.sin(turn), np.cos(turn), 0 * turn], 1) * stretch[1]
    found = np.stack([first, second], 1)
    found[: count // VARIANTS[split]] = np.eye(2, 3)
    return torch.from_numpy(found).float()


def shape(name: str, side: int) -> Image.Image:
    image = Image.new("L", (side, side))
    pen, far, near, middle = ImageDraw.Draw(image), side - side // 10, side // 10, side // 2
    if name == "circle":
        pen.ellipse((near, near, far, far), fill=255)
    elif name == "square":
        pen.rectangle((near, near, far, far), fill=255)
    elif name == "triangle":
        pen.polygon([(middle, near), (far, far), (near, far)], fill=255)
    else:
        half = side // 7
        pen.rectangle((middle - half, near, middle + half, far), fill=255)
        pen.rectangle((near, middle - half, far, middle + half), fill=255)
    return image


def shaded(tiles: Tensor) -> Tensor:
    """[n, TILE, TILE] in 0..1 -> [n * TILE * TILE, 2] uint8, with a soft shadow."""
    weights = [math.exp(-((step / 1.5) ** 2) / 2) for step in range(-MARGIN, MARGIN + 1)]
    soft = tiles
    for axis in (1, 2):  # the largest within two pixels
        shifted = _shifted(soft, axis, 2)
        soft = reduce(torch.maximum, shifted)
    for axis in (1, 2):  # blurred
        shifted = _shifted(soft, axis, MARGIN)
        soft = sum(w / sum(weights) * part for w, part in zip(weights, shifted, strict=True))
    return (torch.stack([tiles, soft * SHADOW], -1) * 255).round().byte().view(-1, 2)


def _shifted(tiles: Tensor, axis: int, by: int) -> list[Tensor]:
    """``tiles`` moved by -by to by pixels, zeros moving in."""
    wide = F.pad(tiles, (by, by) if axis == 2 else (0, 0, by, by))
    return [wide.narrow(axis, step, TILE) for step in range(2 * by + 1)]


def photographs(split: str) -> tuple[Tensor, Tensor]:
    import skimage

    rows, frames, top = [], [], 0
    for name in PHOTOGRAPHS[split]:
        image = Image.open(f"{skimage.__path__[0]}/data/{name}").convert("RGB")
        scale = min(1.0, SHORT / min(image.size))
        width, height = (round(scale * extent) for extent in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        rows.append(torch.from_numpy(np.array(image)).permute(2, 0, 1).float())
        frames.append((top, width, height))
        top += height
    widest = max(width for _, width, _ in frames)
    photos = torch.cat([F.pad(row, (0, widest - row.shape[2])) for row in rows], 1)
    return photos[None], torch.tensor(frames)


def canvases(layout: Layout) -> Tensor:
    """[B, 3, 336, 336] in 0..255: crops of photographs, of low contrast so that things show."""
    made = atlas(layout.split, layout.photo.device.type)
    top, width, height = made.frames[layout.photo].float().unbind(1)
    x, y, share = layout.crop.unbind(1)
    side = share * width.minimum(height)
    at = (torch.arange(SIDE, device=x.device) + 0.5) / SIDE
    columns = at.where(~layout.mirrored[:, None], 1 - at)
    columns = (x * (width - side))[:, None] + columns * side[:, None] - 0.5
    rows = (y * (height - side))[:, None] + at * side[:, None] - 0.5
    columns = columns.clamp(min=0).minimum((width - 1)[:, None])
    rows = rows.clamp(min=0).minimum((height - 1)[:, None]) + top[:, None]
    high, wide = made.photos.shape[2:]
    columns, rows = (2 * columns + 1) / wide - 1, (2 * rows + 1) / high - 1
    grid = torch.stack(
        [columns[:, None].expand(-1, SIDE, -1), rows[:, :, None].expand(-1, -1, SIDE)], -1
    )
    pixels = F.grid_sample(made.photos, grid.view(1, -1, SIDE, 2), align_corners=False)
    pixels = pixels.view(3, -1, SIDE, SIDE).transpose(0, 1)
    contrast, brightness = layout.light[..., None, None, None].unbind(1)
    return pixels * contrast + brightness


def render(layout: Layout) -> Tensor:
    """[B, 3, 336, 336] uint8."""
    made = atlas(layout.split, layout.name.device.type)
    device, (size, most) = layout.name.device, layout.name.shape
    at = torch.arange(SIDE, device=device)
    x0, y0, x1, y1 = layout.region[..., None].unbind(2)  # [B, K, 1]
    number = torch.arange(1, most + 1, device=device)[:, None] * layout.there[..., None]
    columns = ((at >= x0) & (at < x1)).float() * number
    rows = ((at >= y0) & (at < y1)).float()
    owner = (rows.transpose(1, 2) @ columns).long().view(size, -1)  # [B, pixels], 0: none
    # where in the atlas the picture's own (0, 0) would lie, were it all of that object's tile
    start = layout.tile * TILE**2
    start = start - (layout.box[..., 1] - MARGIN) * TILE - (layout.box[..., 0] - MARGIN)
    place = (at[:, None] * TILE + at).view(-1) + F.pad(start, (1, 0)).gather(1, owner)
    cover = made.cover[place.where(owner > 0, 0)]  # the first pixel of the first tile is empty
    mask, shadow = (cover.float() / 255).unbind(-1)
    tone = (
        constant(tuple(COLOURS.values()), device)[layout.colour] * layout.tone[..., None]
    )  # [B, K, 3]
    pixels = canvases(layout)
    for channel in range(3):
        under = pixels[:, channel].reshape(size, -1)
        under = under + shadow * (DARK - under)
        colour = F.pad(tone[..., channel], (1, 0)).gather(1, owner)
        under = under + mask * (colour - under)
        pixels[:, channel] = under.view(size, SIDE, SIDE)
    return pixels.round_().clamp_(0, 255).byte()
