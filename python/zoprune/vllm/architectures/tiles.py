"""Images that are several tiles or crops, each with a budget of its own, as in transformers."""

from __future__ import annotations

from typing import Any, ClassVar

from ..options import KEEP


class Tiled:
    """In front of ``PrunedModel``: the tiles of all images lie one after the other."""

    pixels: ClassVar[str] = "pixel_values"
    counts: ClassVar[str]  # the input that says how many tiles each image has

    def part(self: Any, kwargs: dict[str, Any], indices: range) -> dict[str, Any]:
        tiles = [int(count) for count in kwargs[self.counts].flatten()]
        first, count = sum(tiles[: indices.start]), sum(tiles[indices.start : indices.stop])
        mine = {
            name: kwargs[name][indices.start : indices.stop]
            for name in (self.counts, KEEP)  # all else is the same for every image
        }
        return kwargs | mine | {self.pixels: kwargs[self.pixels][first : first + count]}
