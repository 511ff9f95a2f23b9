"""What the last call of a pruned model kept, remembered for each thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from ..cli import overlay
from .families.base import View

if TYPE_CHECKING:
    from PIL.Image import Image

_threads = threading.local()


@dataclass(frozen=True)
class Visual:
    """The tokens of all images, or all videos, of one call; its tensors are on the CPU."""

    modality: str
    images: Tensor  # [T] int64, the image that each token belongs to
    kept: Tensor  # [K] int64, ascending, into the T tokens
    scores: Tensor  # [T] float32, NaN for newlines
    # what the vision tower saw of each image, from the scores of each; holds on to the pixels
    views: Callable[[list[Tensor]], list[list[View]]]


@dataclass(frozen=True)
class Report:
    """The last call: ``kept`` and ``scores`` have one tensor for each image, then each video."""

    visuals: list[Visual]

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
        return [scores for v in self.visuals for scores in _by_image(v)]

    @property
    def tokens(self) -> list[int]:
        """How many visual tokens each image had."""
        return [len(scores) for scores in self.scores]

    @property
    def views(self) -> list[list[View]]:
        """What the vision tower saw of each image (crops, frames), and where its tokens lie."""
        return [views for v in self.visuals for views in v.views(_by_image(v))]

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
        return ", ".join(f"{len(kept)} of {tokens}" for kept, tokens in counts)


def _by_image(visual: Visual) -> list[Tensor]:
    """The scores of each image."""
    return list(visual.scores.split(visual.images.bincount().tolist()))


def report(model: nn.Module) -> Report:
    """What the model's last call in this thread kept; RuntimeError if there was none."""
    visuals = _store().get(model)
    if visuals is None:
        raise RuntimeError("zoprune: report: the model has not been called in this thread yet")
    return Report(visuals)


def remember(model: nn.Module, visuals: list[Visual]) -> None:
    _store()[model] = visuals


def _store() -> WeakKeyDictionary:
    if not hasattr(_threads, "reports"):
        _threads.reports = WeakKeyDictionary()
    return _threads.reports
