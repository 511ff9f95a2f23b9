"""What the tests know of a family: how to build a tiny model, and what its prompts look like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.hf.mlp_models import IMAGE, VIDEO


@dataclass
class Case:
    """A family: how to build a model, and the pixels of some images with their token counts."""

    name: str
    build: Callable[[], torch.nn.Module]
    images: Callable[[torch.nn.Module, int], tuple[dict[str, Tensor], list[int]]]
    placeholder: int = IMAGE
    modality: str = "image"
    linear: bool = False
    groups: str | None = None
    frames: tuple[int, ...] = ()  # of each video
    mrope: bool = False  # multimodal rotary positions
    by_columns: bool = False  # attention counts columns, whatever the positions
    deepstack: bool = False  # features for the first language layers
    bidirectional: str | None = None  # attention in both directions over the "prompt" or "images"
    views: tuple[int, ...] = ()  # of each image, each announced by a token of its own in the prompt
    crops: tuple[tuple[int, ...], ...] = ()  # tokens of each view of each image, in their order
    timestamps: bool = False  # each frame of a video is announced by a token
    flash: bool = True  # whether it is tested with flash attention too
    typed: bool = False  # the model is told the modality of every token


VIDEOS = dict(placeholder=VIDEO, modality="video", groups="frame")
