"""Images and videos as grids of patches, frames by rows by columns, with a merge of neighbours."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Family, View, VisualTokens


class Grids(Family):
    tower = "model.visual"
    groups: str | None = "frame"
    inputs = {  # noqa: RUF012
        "image": ("pixel_values", "image_grid_thw"),
        "video": ("pixel_values_videos", "video_grid_thw"),
    }

    def encode(self, core: Any, inputs: dict[str, Any], modality: str) -> VisualTokens:
        tokens = super().encode(core, inputs, modality)
        tokens.frames = self.frames(core, inputs, modality)
        frames = [
            torch.arange(count).repeat_interleave(rows * columns)
            for count, rows, columns in tokens.frames
        ]
        tokens.groups = torch.cat(frames).float()
        return tokens

    def frames(
        self, core: Any, inputs: dict[str, Any], modality: str
    ) -> list[tuple[int, int, int]]:
        """Frames, and rows and columns of tokens of a frame, for each image or video."""
        merge = self.part(core, self.tower).spatial_merge_size
        grids = inputs[self.inputs[modality][1]].tolist()
        return [(frames, rows // merge, columns // merge) for frames, rows, columns in grids]

    def views(
        self, config: Any, inputs: dict[str, Any], modality: str, newlines: Sequence[Tensor]
    ) -> list[list[View]]:
        """One for each frame, or pair of frames, of which it shows the first."""
        vision = config.vision_config
        patch, pair = vision.patch_size, vision.temporal_patch_size
        pixels, grids = (inputs[name] for name in self.inputs[modality][:2])
        first = pixels.view(len(pixels), -1, pair, patch * patch)[:, :, 0].flatten(1)
        return blocks_of_patches(first, grids, [vision.spatial_merge_size] * len(grids), patch)


def blocks_of_patches(
    pixels: Tensor, grids: Tensor, merges: Sequence[int], patch: int
) -> list[list[View]]:
    """One for each frame, from patches [n, 3 p p]; the merge x merge patches of a token follow."""
    result = []
    for patches, (t, h, w), merge in zip(
        pixels.split(grids.prod(1).tolist()), grids.tolist(), merges, strict=True
    ):
        rows, columns = h // merge, w // merge
        blocks = patches.view(t, rows, columns, merge, merge, -1, patch, patch)
        frames = blocks.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(t, -1, h * patch, w * patch)
        tokens = torch.arange(t * rows * columns).view(t, rows, columns)
        result.append([View(*view) for view in zip(frames, tokens, strict=True)])
    return result


def rows_of_patches(pixels: Tensor, grids: Tensor, merge: Sequence[int]) -> list[list[View]]:
    """The first frame of each, from patches [n, 3, p, p] that stand row by row."""
    down, across = merge
    views = []
    for patches, (_, rows, columns) in zip(
        pixels.split(grids.prod(1).tolist()), grids.tolist(), strict=True
    ):
        frame = patches[: rows * columns].unflatten(0, (rows, columns))
        photo = frame.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
        grid = (rows // down, columns // across)
        views.append([View(photo, torch.arange(grid[0] * grid[1]).view(grid))])
    return views
