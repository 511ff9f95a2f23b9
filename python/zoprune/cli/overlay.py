"""A report's picture: the views of an image, kept patches framed, dropped ones faded to grey."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import need

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..hf.families.base import View

SIDE = 1280  # pixels, about, of the picture's longer side


def picture(
    views: Sequence[View], kept: Tensor, processor: Any = None, side: int | None = None
) -> Image:
    """The views of one image with the ``kept`` tokens [k] in color; several ones side by side.

    The longer side has about ``side`` pixels, ``SIDE`` by default.
    """
    need("a picture", "demo", "numpy", "PIL")
    from . import pictures

    panels = []
    columns = math.ceil(math.sqrt(len(views)))
    for index, (view, photo) in enumerate(zip(views, photos(views, processor), strict=True)):
        rows, width = view.tokens.shape
        patch = max((side or SIDE) // (columns * max(rows, width)), 1)
        inside = torch.isin(view.tokens, kept).flatten().nonzero()[:, 0].tolist()
        image = pictures.kept_patches(photo, inside, (rows, width), patch)
        for places, horizontal in zip(view.seams, (True, False), strict=True):
            pictures.draw_lines(image, [round(place * patch) for place in places], horizontal)
        caption = f"{len(inside)} of {rows * width} kept"
        panels.append(pictures.Panel(f"View {index + 1}", caption, image))
    return panels[0].image if len(panels) == 1 else pictures.montage(panels, columns)


def photos(views: Sequence[View], processor: Any) -> list[Image]:
    """The views' pixels before normalisation; stretched to the full range if it is not known."""
    from PIL import Image

    pixels = [view.pixels.detach().float().cpu() for view in views]  # [3, H, W]
    processor = getattr(processor, "image_processor", processor)
    if processor is None:
        low = min(float(p.min()) for p in pixels)
        span = max(float(p.max()) for p in pixels) - low
        pixels = [(p - low) / (span or 1) for p in pixels]
    elif processor.do_normalize:
        mean, std = torch.tensor([processor.image_mean, processor.image_std])[..., None, None]
        pixels = [p * std + mean for p in pixels]
    levels = [(p.clamp(0, 1) * 255).round().byte().permute(1, 2, 0) for p in pixels]
    return [Image.fromarray(level.numpy()) for level in levels]
