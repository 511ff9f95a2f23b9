"""What an architecture tells: where its projector is, and how an image's tokens are laid out.

Front end and worker both go by it, in different processes; docs/vllm.md shows how to add one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}


@dataclass(frozen=True)
class Layers:
    """Names within the projector, alike in the checkpoint and in vLLM's module."""

    linear_1: str
    linear_2: str
    norm: str | None = None
    merge: str | None = None  # a linear layer between norm and linear_1
    unfolded: bool = False  # the merge layer reads channel by channel, as ``unfold`` lays patches
    activation: Callable[[Any], str] = lambda config: "gelu"  # of the model's configuration


@dataclass(frozen=True)
class Layout:
    """``layers`` is None for a projector that is one linear layer: no token is more sensitive."""

    projector: str
    layers: Layers | None
    # tokens of a crop or tile that has a budget of its own; None: the image has one budget
    unit: Callable[[Any], int] | None = None
    # tokens among an image's placeholders that belong to no budget and always stay: newlines
    structure: Callable[[Any, Any, int], int] = lambda info, images, index: 0
    # makes such tokens of the prompt into placeholders: (info, update details) -> details
    placeholders: Callable[[Any, Any], Any] = lambda info, details: details
    # integers of the front end that the worker needs, with each image
    fields: Callable[[Any], Mapping[str, int]] = lambda info: {}
    mrope: bool = False  # multimodal rotary positions: kept tokens keep theirs

    def units(self, config: Any, tokens: int) -> list[int]:
        """How an image's tokens, without structure, divide into units with a budget each."""
        if self.unit is None:
            return [tokens]
        size = self.unit(config)
        if tokens % size:
            raise ValueError(f"zoprune: image: expected a multiple of {size} tokens, got {tokens}")
        return [size] * (tokens // size)
