"""What a call of a pruned model kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..cli import overlay
from .families.base import View
from .prompt import Shortening

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Visual:
    """The tokens of all images, or all videos, of one call; its tensors are on the CPU."""

    modality: str
    images: Tensor  # [T] int64, the image that each token belongs to
    rows: Tensor  # [T] int64, the row of the prompt that it stands in
    kept: Tensor  # [K] int64, ascending, into the T tokens
    scores: Tensor  # [T] float32, NaN for newlines
    newlines: Tensor | None  # [T] bool, tokens that belong to no part of an image
    # what the vision tower saw of each image, from its newlines; holds on to the pixels
    views: Callable[[list[Tensor]], list[list[View]]]


@dataclass(frozen=True)
class Report:
    """The last call: ``kept`` and ``scores`` have one tensor for each image, then each video."""

    visuals: list[Visual]
    prompt: Shortening | None = None

    @property
    def kept(self) -> list[Tensor]:
        """Indices of the kept tokens within each image, int64 [k]."""
        result = []
        for v in self.visuals:
            for image in range(int(v.images.max()) + 1):
                start = int((v.images < image).sum())
                result.append(v.kept[v.images[v.kept] == image] - start)
        return result

    @property
    def scores(self) -> list[Tensor]:
        """Sensitivity of every token of each image, float32 [N]; NaN for newlines."""
        return [scores for v in self.visuals for scores in _by_image(v, v.scores)]

    @property
    def newlines(self) -> list[Tensor]:
        """Flags [N] of the tokens of each image that belong to no part of it, always kept."""
        return [lines for v in self.visuals for lines in _newlines(v)]

    @property
    def rows(self) -> list[int]:
        """The row of the batch that each image belongs to."""
        return [int(rows[0]) for v in self.visuals for rows in _by_image(v, v.rows)]

    @property
    def tokens(self) -> list[int]:
        """How many visual tokens each image had."""
        return [len(scores) for scores in self.scores]

    @property
    def columns(self) -> Tensor:
        """Which columns of the prompt remain, bool [B, L], on the prompt's device."""
        assert self.prompt is not None
        return self.prompt.keep

    def shorten(self, tensor: Tensor, padding: float = -100) -> Tensor:
        """What the call made of labels or any [B, L] with an entry per token: [B, L'].

        ``padding`` fills rows that lost more than others.
        """
        assert self.prompt is not None
        return self.prompt.apply(tensor.to(self.prompt.keep.device), padding)

    @property
    def views(self) -> list[list[View]]:
        """What the vision tower saw of each image (crops, frames), and where its tokens lie."""
        return [views for v in self.visuals for views in v.views(_newlines(v))]

    def picture(self, index: int = 0, processor: Any = None) -> Image:
        """The image with what was dropped faded to grey; crops and frames side by side.

        Args:
            index: which image, in the order of ``kept``.
            processor: the model's processor, whose mean and standard deviation give the colors of
                the picture back; without it they are stretched to the full range.
        """
        return overlay.picture(self.views[index], self.kept[index], processor)

    def __str__(self) -> str:
        counts = zip(self.kept, self.tokens, strict=True)
        parts = [f"{len(kept)} of {tokens}" for kept, tokens in counts]
        if len(set(self.rows)) > 1:
            parts = [f"row {row}: {part}" for row, part in zip(self.rows, parts, strict=True)]
        return ", ".join(parts)


def _by_image(visual: Visual, values: Tensor) -> list[Tensor]:
    """The values of each image's tokens."""
    return list(values.split(visual.images.bincount().tolist()))


def _newlines(visual: Visual) -> list[Tensor]:
    lines = visual.newlines
    lines = visual.images.new_zeros(len(visual.images)).bool() if lines is None else lines
    return _by_image(visual, lines)
