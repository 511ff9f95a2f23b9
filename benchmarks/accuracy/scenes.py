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
from functools import cache, lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIDE = 336  # pixels
PATCH = 14  # pixels
CELL = 3 * PATCH
LOOSE = 0.5  # how far from the patches' grid, see ``place``: what the questions' pictures have
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
    photos = [Image.open(f"{folder}/{name}").convert("RGB") for name in PHOTOGRAPHS[split]]
    for photo in photos:
        photo.thumbnail((1000, 1000))  # cropped and scaled down again for every canvas
    return photos


@cache
def handwriting(split: str) -> dict[str, np.ndarray]:
    """Samples of each digit, [n, 8, 8] in 0..1: four of six for training, one for dev and test."""
    from sklearn.datasets import load_digits

    data = load_digits()
    part = np.arange(len(data.images)) % 6
    mine = {"train": part < 4, "dev": part == 4, "test": part == 5}[split]
    return {d: data.images[mine & (data.target == int(d))] / 16 for d in DIGITS}


def canvas(rng: np.random.Generator, split: str) -> Image.Image:
    """A random crop of a photograph, of low contrast so that small things can be read on it."""
    photo = photographs(split)[rng.integers(len(photographs(split)))]
    size = int(min(photo.size) * rng.uniform(0.5, 1))
    x, y = (int(rng.integers(0, extent - size + 1)) for extent in photo.size)
    crop = photo.crop((x, y, x + size, y + size)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    tint = np.asarray(crop, np.float32) * rng.uniform(0.35, 0.75) + rng.uniform(0, 30)
    return Image.fromarray(tint.clip(0, 255).astype(np.uint8))


@lru_cache(8192)
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


def size(rng: np.random.Generator, name: str, loose: float) -> int:
    """Pixels high: two patches for digits and shapes, give or take."""
    middle, spread = (22, 4) if name in WORDS else (28, 6)
    return middle + round(spread * loose * rng.uniform(-1, 1))


def sample(
    rng: np.random.Generator, split: str, name: str, loose: float
) -> tuple[np.ndarray, np.ndarray]:
    samples = len(handwriting(split)[name]) if name in DIGITS else 1
    return glyph(split, name, int(rng.integers(samples)), size(rng, name, loose))


def paint(
    pixels: np.ndarray,
    rng: np.random.Generator,
    look: tuple[np.ndarray, np.ndarray],
    corner: tuple[int, int],
    name: str,
    colour: str,
) -> Object:
    """Draws an object into ``pixels`` [h, w, 3] float32, its shadow's corner at ``corner``."""
    mask, shadow = look
    (x, y), (h, w) = corner, mask.shape[:2]
    tone = np.array(COLOURS[colour], np.float32) * np.float32(rng.uniform(0.85, 1))
    under = pixels[y : y + h, x : x + w]
    under += shadow * (8 - under)
    under += mask * (tone - under)
    return Object(name, colour, (x + MARGIN, y + MARGIN, x + w - MARGIN, y + h - MARGIN))


def place(rng: np.random.Generator, patch: np.ndarray, loose: float) -> np.ndarray:
    """Pixels (x, y) near a corner of the patches' grid: up to half a patch off where loose is 1."""
    return (PATCH * patch + rng.uniform(-PATCH / 2, PATCH / 2, 2) * loose).round().astype(int)


def draw(
    rng: np.random.Generator, split: str, count: int | None = None, loose: float = LOOSE
) -> Scene:
    """A canvas with ``count`` objects, 1 to 6 by default, that do not touch.

    Each has a name and a colour of its own, so that questions have one answer.
    """
    pixels = np.asarray(canvas(rng, split), np.float32).copy()
    count = count or int(rng.integers(1, 7))
    names = [NAMES[i] for i in rng.permutation(len(NAMES))[:count]]
    colours = [list(COLOURS)[i] for i in rng.permutation(len(COLOURS))[:count]]
    objects: list[Object] = []
    for name, colour in zip(names, colours, strict=True):
        look = sample(rng, split, name, loose)
        h, w = look[0].shape[:2]
        for patch in rng.integers(1, SIDE // PATCH - 1, size=(50, 2)):
            x, y = (place(rng, patch, loose) - MARGIN).tolist()
            if (
                x >= 0
                and y >= 0
                and x + w <= SIDE
                and y + h <= SIDE
                and all(
                    x > o.box[2] or x + w < o.box[0] or y > o.box[3] or y + h < o.box[1]
                    for o in objects
                )
            ):
                objects.append(paint(pixels, rng, look, (x, y), name, colour))
                break
    return Scene(pixels.clip(0, 255).astype(np.uint8), tuple(objects))


def crowd(rng: np.random.Generator, split: str, loose: float) -> Scene:
    """A canvas full of objects, one in each cell of three by three patches, for dense labels."""
    pixels = np.asarray(canvas(rng, split), np.float32)
    pixels = np.pad(pixels, ((CELL, CELL), (CELL, CELL), (0, 0)), mode="edge")
    objects = []
    shift = rng.integers(0, 3, 2)
    for cell in range((SIDE // CELL) ** 2):
        if rng.random() < 0.1:
            continue
        name = NAMES[rng.integers(len(NAMES))]
        colour = list(COLOURS)[rng.integers(len(COLOURS))]
        patch = np.array(divmod(cell, SIDE // CELL)) * 3 + shift + rng.integers(0, 2, 2)
        x, y = place(rng, patch, loose).tolist()
        look = sample(rng, split, name, loose)
        if x < 0 or y < 0 or x + look[0].shape[1] > SIDE or y + look[0].shape[0] > SIDE:
            continue
        o = paint(pixels, rng, look, (x + CELL - MARGIN, y + CELL - MARGIN), name, colour)
        x0, y0, x1, y1 = (v - CELL for v in o.box)
        objects.append(Object(name, colour, (x0, y0, x1, y1)))
    pixels = pixels[CELL : CELL + SIDE, CELL : CELL + SIDE]
    return Scene(pixels.clip(0, 255).astype(np.uint8), tuple(objects))
