"""The demo's input: a photograph, for the stand-ins of a model cut to a square."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UsageError, require

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 336  # pixels, LLaVA-1.5's CLIP ViT-L/14
DEFAULT = "coffee"  # CC0; its file lies inside scikit-image's wheel, nothing is downloaded


def load_photo(path: str | None) -> Image:
    """The largest centred square of ``open_photo``'s picture."""
    return _centre_square(open_photo(path))


def open_photo(path: str | None) -> Image:
    """An image file (RGB, upright); without a path, the default photograph.

    Raises UsageError when the file is missing or not an image that Pillow can read.
    """
    image = require("PIL.Image", "pillow", "the demo")
    ops = require("PIL.ImageOps", "pillow", "the demo")
    if path is None:
        data = require("skimage.data", "scikit-image", "the demo's default photograph")
        photo = image.fromarray(getattr(data, DEFAULT)())
    elif not Path(path).is_file():
        raise UsageError(f"photo: expected an image file, got '{path}', which is not a file")
    else:
        try:
            photo = ops.exif_transpose(image.open(path)).convert("RGB")
        except (OSError, ValueError, image.DecompressionBombError) as error:
            raise UsageError(f"photo: '{path}' is not a readable image: {error}") from error
    return photo


def _centre_square(photo: Image) -> Image:
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    return photo.crop((left, top, left + side, top + side))
