"""VideoLLaMA 3: patches scaled down before the projector, by a factor of each image's own."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .base import View, VisualTokens
from .grids import Grids, blocks_of_patches


class VideoLlama3(Grids):
    models: tuple[str, ...] = ("VideoLlama3ForConditionalGeneration",)
    projector = "model.projector"
    inputs = {  # noqa: RUF012
        "image": ("pixel_values", "image_grid_thw", "image_merge_sizes"),
        "video": (
            "pixel_values_videos",
            "video_grid_thw",
            "video_merge_sizes",
            "video_compression_mask",
        ),
    }

    def encode(self, core: Any, inputs: dict[str, Any], modality: str) -> VisualTokens:
        """The prompt has no tokens for what the processor's own compression drops."""
        tokens = super().encode(core, inputs, modality)
        if _is_compressed(inputs, modality):
            held = inputs["video_compression_mask"].bool()
            parts = held.split([len(f) for f in tokens.features])
            pairs = zip(tokens.features, parts, strict=True)
            tokens.features = [f[part.to(f.device)] for f, part in pairs]
            tokens.x = tokens.x[held.to(tokens.x.device)]
            tokens.groups = tokens.groups[held.cpu()]
            tokens.frames = None
        return tokens

    def frames(
        self, core: Any, inputs: dict[str, Any], modality: str
    ) -> list[tuple[int, int, int]]:
        grids, merges = (inputs[name].tolist() for name in self.inputs[modality][1:3])
        return [(t, h // m, w // m) for (t, h, w), m in zip(grids, merges, strict=True)]

    def views(
        self, config: Any, inputs: dict[str, Any], modality: str, newlines: Sequence[Tensor]
    ) -> list[list[View]]:
        if _is_compressed(inputs, modality):
            raise ValueError(
                "zoprune: picture: expected a video of whole frames, got a video_compression_mask: "
                "make the inputs with use_token_compression=False"
            )
        pixels, grids, merges = (inputs[name] for name in self.inputs[modality][:3])
        return blocks_of_patches(pixels, grids, merges.tolist(), config.vision_config.patch_size)


def _is_compressed(inputs: dict[str, Any], modality: str) -> bool:
    mask = inputs.get("video_compression_mask") if modality == "video" else None
    return mask is not None and not bool(mask.all())
