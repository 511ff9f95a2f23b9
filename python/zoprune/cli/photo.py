"""The demo's input: a photograph, for the stand-ins of a model cut to a square."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UsageError, first_line, need

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 336  # pixels, LLaVA-1.5's CLIP ViT-L/14
DEFAULT = "coffee"  # CC0; its file lies inside scikit-image's wheel, nothing is downloaded


def load_photo(path: str | None) -> Image:
    """The largest centred square of ``open_photo``'s picture."""
    return centre(open_photo(path), 1, 1)


def open_photo(path: str | None) -> Image:
    """An image file as a person sees it, RGB: upright, 8 of 16 bits, on white where transparent.

    Without a path, the default photograph. Raises UsageError when the file is missing or not an
    image that Pillow can read.
    """
    need("the demo", "demo", "numpy", "PIL", *([] if path else ["skimage"]))
    from PIL import Image, ImageOps

    if path is None:
        from skimage import data

        return Image.fromarray(getattr(data, DEFAULT)())
    if not Path(path).is_file():
        raise UsageError(f"photo: expected an image file, got '{path}', which is not a file")
    try:
        with Image.open(path) as file:
            return _rgb(ImageOps.exif_transpose(file))
    except Exception as error:  # Pillow's readers raise errors of many classes
        why = first_line(error)
        raise UsageError(f"photo: '{path}' is not a readable image: {why}") from error


def centre(photo: Image, width: int, height: int) -> Image:
    """The largest part around the photo's centre with sides of this ratio."""
    scale = min(photo.width / width, photo.height / height)
    w, h = round(width * scale), round(height * scale)
    left, top = (photo.width - w) // 2, (photo.height - h) // 2
    return photo.crop((left, top, left + w, top + h))


def crop_note(whole: Image, part: Image) -> str | None:
    """What to say of a photo that was cut; None where nothing was."""
    if whole.size == part.size:
        return None
    return (
        f"The middle {part.width} x {part.height} pixels of the photo's "
        f"{whole.width} x {whole.height} are used."
    )


def _rgb(photo: Image) -> Image:
    import numpy as np
    from PIL import Image

    if photo.mode.startswith("I"):  # a grey of 16 bits; Pillow's own conversion clips it at 255
        levels = np.asarray(photo).astype(np.float64)
        if levels.min() < 0 or levels.max() > 65535:
            found = f"values from {levels.min():.0f} to {levels.max():.0f}"
            raise ValueError(f"expected 8 or 16 bits a channel, got {found}")
        return Image.fromarray((levels / 257).round().astype(np.uint8)).convert("RGB")
    if photo.mode == "F":
        raise ValueError("expected 8 or 16 bits a channel, got floats")
    if photo.has_transparency_data:
        layers = photo.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", photo.size, "white"), layers).convert("RGB")
    return photo.convert("RGB")


def save(picture: Image, out: str) -> None:
    try:
        picture.save(out, optimize=True)
    except OSError as error:
        raise UsageError(f"--out: cannot write '{out}': {error}") from error
