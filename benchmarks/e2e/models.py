"""The models of the end-to-end benchmark: real architectures and widths, random weights.

Speed does not depend on the weights. On a CPU only some of the 32 language layers are there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

TEXT_TOKENS = 40
CLIP_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
LLAMA_7B = {
    "vocab_size": 32064,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
}


@dataclass(frozen=True, eq=False)
class Architecture:
    """A model class, its sizes, and the geometry of its prompts."""

    name: str
    prefix: str  # of the class names in transformers
    tokens: int  # visual tokens of an image, newlines aside
    newlines: int  # kept on top of every budget
    keep: tuple[int, ...]
    pixels: Callable[[int, int], dict[str, Tensor]]  # batch, pixels of a side -> inputs
    vision: dict[str, int] = field(default_factory=lambda: CLIP_LARGE)
    text: dict[str, int] = field(default_factory=lambda: LLAMA_7B)
    pinpoints: list[list[int]] | None = None  # of a model with crops, where not its default

    @property
    def placeholder(self) -> int:
        return self.text["vocab_size"] - 1


def one_view(batch: int, side: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(batch, 3, side, side)}


def five_views(batch: int, side: int) -> dict[str, Tensor]:
    """A square picture of four crops, and a base view."""
    sizes = torch.tensor([[2 * side, 2 * side]] * batch)
    return {"pixel_values": torch.randn(batch, 5, 3, side, side), "image_sizes": sizes}


LLAVA = Architecture("LLaVA-1.5", "Llava", 576, 0, (64, 128, 192), one_view)
LLAVA_NEXT = Architecture("LLaVA-NeXT", "LlavaNext", 2880, 48, (160, 320, 640), five_views)
ARCHITECTURES = {architecture.name: architecture for architecture in (LLAVA, LLAVA_NEXT)}


def build(architecture: Architecture, layers: int, dtype: torch.dtype, device: str) -> Any:
    """The model with ``layers`` language layers; it never ends an answer by itself."""
    import transformers

    text = transformers.LlamaConfig(**architecture.text, num_hidden_layers=layers, pad_token_id=0)
    crops = {"image_grid_pinpoints": architecture.pinpoints} if architecture.pinpoints else {}
    config = getattr(transformers, f"{architecture.prefix}Config")(
        vision_config=transformers.CLIPVisionConfig(**architecture.vision),
        text_config=text,
        image_token_id=architecture.placeholder,
        image_token_index=architecture.placeholder,  # the same, in transformers 4
        **crops,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            cls = getattr(transformers, f"{architecture.prefix}ForConditionalGeneration")
            model = cls(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    model.generation_config.eos_token_id = None
    return model


def inputs_of(architecture: Architecture, model: Any, batch: int) -> dict[str, Tensor]:
    """One image and a short prompt for each row."""
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(1, architecture.placeholder, (batch, TEXT_TOKENS), generator=generator)
    visual = architecture.tokens + architecture.newlines
    ids = torch.cat([torch.full((batch, visual), architecture.placeholder), text], dim=1)
    inputs = architecture.pixels(batch, architecture.vision["image_size"])
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {name: value.to(model.device) for name, value in inputs.items()}
