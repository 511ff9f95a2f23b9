"""Qwen2-VL, Qwen2.5-VL, Qwen3.5 and kin: a norm and a 2 x 2 merge in the projector, mRoPE."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import compat
from .base import View, VisualTokens
from .grids import Grids, blocks_of_patches


class Qwen2VL(Grids):
    models: tuple[str, ...] = ("Qwen2VLForConditionalGeneration",)
    projector = "model.visual.merger"
    mrope = True
    inputs = {  # noqa: RUF012
        "image": ("pixel_values", "image_grid_thw"),
        "video": ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts"),
    }

    def positions(self, core: Any, inputs: dict[str, Any], generating: bool) -> Tensor | None:
        index = getattr(core, "compute_3d_position_ids", None)
        names = inspect.signature(core.get_rope_index).parameters
        typed = "mm_token_type_ids" not in names or inputs.get("mm_token_type_ids") is not None
        if generating and not typed:
            return None  # ``generate`` falls back to ordinary positions
        if index is None or generating:
            given = {name: inputs[name] for name in names if inputs.get(name) is not None}
            return core.get_rope_index(**given)[0]
        ids = inputs["input_ids"]
        given = dict.fromkeys(inspect.signature(index).parameters)
        given |= {name: inputs[name] for name in given if name in inputs}
        held = next(compat.caches(inputs.values()), None)
        given |= {name: held for name in ("cache", "past_key_values") if name in given}
        given["inputs_embeds"] = ids.new_empty(*ids.shape, 0)
        positions = index(**given)
        return None if positions is None else positions[..., -ids.shape[1] :]

    def settle(self, core: Any, positions: Tensor, mask: Any) -> None:
        """The next token's position, less the number of tokens so far."""
        if positions.dim() == 3:
            count = positions.new_full(positions.shape[1:2], positions.shape[2])
            if isinstance(mask, Tensor) and mask.dim() == 2 and not compat.COUNTS_POSITIONS:
                count = mask.long().sum(1)
            core.rope_deltas = (positions.amax((0, 2)) + 1 - count)[:, None]


class Qwen35(Qwen2VL):
    """Qwen3.5: one family of images and text, with linear attention in most language layers."""

    models: tuple[str, ...] = (
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5MoeForConditionalGeneration",
    )


class Cosmos3Edge(Qwen2VL):
    """The projector stands behind the tower."""

    models: tuple[str, ...] = ("Cosmos3EdgeForConditionalGeneration",)
    projector = "model.projector"
    tower = "model.projector"  # which knows the merge

    def views(
        self, config: Any, inputs: dict[str, Any], modality: str, newlines: Sequence[Tensor]
    ) -> list[list[View]]:
        patch, merge = config.vision_config.patch_size, config.vision_config.spatial_merge_size
        pixels, grids = (inputs[name] for name in self.inputs[modality][:2])
        pixels = pixels.view(len(pixels), patch * patch, -1).transpose(1, 2).flatten(1)
        return blocks_of_patches(pixels, grids, [merge] * len(grids), patch)


class Qwen25VL(Qwen2VL):
    models: tuple[str, ...] = ("Qwen2_5_VLForConditionalGeneration",)

    def encode(self, core: Any, inputs: dict[str, Any], modality: str) -> VisualTokens:
        """The projector sees the tokens window after window."""
        tokens = super().encode(core, inputs, modality)
        order = compat.window_index(core.visual, inputs[f"{modality}_grid_thw"]).argsort()
        by_frame = tokens.groups
        tokens.arrange = lambda rows, newline: rows[order.to(rows.device)]
        tokens.groups = torch.empty_like(by_frame)
        tokens.groups[order.cpu()] = by_frame
        return tokens


class Exaone45(Qwen25VL):
    """The tower of Qwen2.5-VL, and ordinary positions, which ``generate`` ignores."""

    models: tuple[str, ...] = ("Exaone4_5_ForConditionalGeneration",)
    mrope = False
    by_columns = True
    positions = Grids.positions
    settle = Grids.settle
