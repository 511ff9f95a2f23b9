"""Pictures made on the spot: handwritten digits, shapes and words on photographs.

Digits are real handwriting (scikit-learn, 1,797 samples of 8 x 8), photographs are those that
scikit-image ships. Both are split by sample: no digit and no photograph of the "test" split is ever
seen in training.

    scene = draw(numpy.random.default_rng(0), "train")
    scene.pixels   # [336, 336, 3] uint8
    scene.objects  # (Object(name="7", kind="digit", colour="red", box=(x0, y0, x1, y1)), ...)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIDE = 336  # pixels
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
DIGITS = tuple(str(i) for i in range(10))
SHAPES = ("circle", "square", "triangle", "cross")
WORDS = ("cat", "bus", "sun", "key", "box", "map", "fig", "owl", "jam", "wet")
NAMES = DIGITS + SHAPES + WORDS
PHOTOGRAPHS = {
    "train": (
        "astronaut.png brick.png camera.png chelsea.png clock_motion.png coins.png grass.png "
        "cell.png motorcycle_left.png moon.png retina.jpg page.png horse.png color.png"
    ).split(),
    "dev": ["coffee.png", "gravel.png"],
    "test": ["rocket.jpg", "hubble_deep_field.jpg", "ihc.png"],
}
SPLITS = tuple(PHOTOGRAPHS)


@dataclass(frozen=True)
class Object:
    name: str
    colour: str
    box: tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels

    @property
    def kind(self) -> str:
        return "digit" if self.name in DIGITS else "shape" if self.name in SHAPES else "word"

    @property
    def centre(self) -> tuple[float, float]:
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2, (y0 + y1) / 2


@dataclass(frozen=True)
class Scene:
    pixels: np.ndarray  # [336, 336, 3] uint8
    objects: tuple[Object, ...]


@cache
def photographs(split: str) -> list[Image.Image]:
    import skimage

    folder = f"{skimage.__path__[0]}/data"
    return [Image.open(f"{folder}/{name}").convert("RGB") for name in PHOTOGRAPHS[split]]


@cache
def handwriting(split: str) -> dict[str, np.ndarray]:
    """Samples of each digit, [n, 8, 8] in 0..1: four of six for training, one for dev and test."""
    from sklearn.datasets import load_digits

    data = load_digits()
    part = np.arange(len(data.images)) % 6
    mine = {"train": part < 4, "dev": part == 4, "test": part == 5}[split]
    return {d: data.images[mine & (data.target == int(d))] / 16 for d in DIGITS}


def canvas(rng: np.random.Generator, split: str, side: int = SIDE) -> Image.Image:
    """A random crop of a photograph, of low contrast so that small things can be read on it."""
    photo = photographs(split)[rng.integers(len(photographs(split)))]
    size = int(min(photo.size) * rng.uniform(0.5, 1))
    x, y = (int(rng.integers(0, extent - size + 1)) for extent in photo.size)
    crop = photo.crop((x, y, x + size, y + size)).resize((side, side), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    tint = np.asarray(crop, np.float32) * rng.uniform(0.35, 0.75) + rng.uniform(0, 30)
    return Image.fromarray(tint.clip(0, 255).astype(np.uint8))


@cache
def glyph(split: str, name: str, sample: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Coverage of an object ``size`` pixels high and of its soft shadow, [h, w, 1] in 0..1."""
    if name in DIGITS:
        image = Image.fromarray((handwriting(split)[name][sample] * 255).astype(np.uint8))
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    elif name in SHAPES:
        image = shape(name, 4 * size).resize((size, size), Image.Resampling.LANCZOS)
    else:
        font = ImageFont.load_default(size)
        x0, y0, x1, y1 = (int(v) for v in font.getbbox(name))
        image = Image.new("L", (x1 - x0 + 2, y1 - y0 + 2))
        ImageDraw.Draw(image).text((1 - x0, 1 - y0), name, fill=255, font=font)
    wide = Image.new("L", (image.width + 2 * MARGIN, image.height + 2 * MARGIN))
    wide.paste(image, (MARGIN, MARGIN))
    shadow = wide.filter(ImageFilter.MaxFilter(5)).filter(ImageFilter.GaussianBlur(1.5))
    mask, dark = (np.asarray(i, np.float32)[..., None] / 255 for i in (wide, shadow))
    return mask, dark * 0.8


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


def sizes(rng: np.random.Generator, name: str) -> int:
    return int(rng.integers(18, 27)) if name in WORDS else int(rng.integers(24, 41))


def draw(
    rng: np.random.Generator,
    split: str,
    count: int | None = None,
    side: int = SIDE,
    distinct: bool = True,
    names: tuple[str, ...] = NAMES,
) -> Scene:
    """A canvas with ``count`` objects, 1 to 6 by default, that do not touch.

    In a ``distinct`` scene each has a name and a colour of its own, so that questions have one
    answer; others take as many as fit.
    """
    pixels = np.asarray(canvas(rng, split, side), np.float32).copy()  # [side, side, 3]
    count = count or int(rng.integers(1, 7))
    chosen = (
        rng.permutation(len(names))[:count] if distinct else rng.integers(len(names), size=count)
    )
    colours = list(COLOURS)
    hues = (
        rng.permutation(len(colours))[:count]
        if distinct
        else rng.integers(len(colours), size=count)
    )
    gap = 10 if distinct else 2
    objects: list[Object] = []
    boxes = np.empty((0, 4), np.int64)
    for name, colour in zip((names[i] for i in chosen), (colours[h] for h in hues), strict=True):
        samples = len(handwriting(split)[name]) if name in DIGITS else 1
        mask, shadow = glyph(split, name, int(rng.integers(samples)), sizes(rng, name))
        h, w = mask.shape[:2]
        for x, y in rng.integers(0, (side - w, side - h), size=(30, 2)):
            x1, y1 = x + w, y + h
            apart = (
                (x > boxes[:, 2] + gap - 2 * MARGIN)
                | (x1 < boxes[:, 0] - gap + 2 * MARGIN)
                | (y > boxes[:, 3] + gap - 2 * MARGIN)
                | (y1 < boxes[:, 1] - gap + 2 * MARGIN)
            )
            if apart.all():
                tone = np.array(COLOURS[colour], np.float32) * rng.uniform(0.85, 1)
                under = pixels[y:y1, x:x1]
                under += shadow * (8 - under)
                under += mask * (tone - under)
                boxes = np.vstack([boxes, (x, y, x1, y1)])
                box = (int(x) + MARGIN, int(y) + MARGIN, int(x1) - MARGIN, int(y1) - MARGIN)
                objects.append(Object(name, colour, box))
                break
    return Scene(pixels.clip(0, 255).astype(np.uint8), tuple(objects))
