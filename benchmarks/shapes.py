"""The models' projector shapes and the inputs that every measurement uses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from zoprune_kernels import reference

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
DIRECTIONS = 64
STEP = 0.01


@dataclass(frozen=True)
class Shape:
    """A projector f(x) = W2 gelu(W1 x + b1) + b2 and how many of its tokens are kept."""

    name: str
    tokens: int  # N
    inputs: int  # d
    hidden: int  # H
    outputs: int  # D
    keep: tuple[int, ...]  # k; the first is the one that whole-pipeline rows use

    @property
    def size(self) -> str:
        return f"{self.tokens} tokens, {self.inputs} -> {self.hidden} -> {self.outputs}"


LLAVA = Shape("LLaVA-1.5", 576, 1024, 4096, 4096, (64, 128, 192))
LLAVA_NEXT = Shape("LLaVA-NeXT", 2880, 1024, 4096, 4096, (160, 320, 640))
QWEN = Shape("Qwen2.5-VL", 1024, 5120, 5120, 3584, (128,))
# For the memory of a selection alone
MANY_TOKENS = Shape("100,000 x 1024", 100_000, 1, 1, 1024, (1000,))
TINY = Shape("tiny", 63, 48, 80, 72, (7, 16))

SHAPES = (LLAVA, LLAVA_NEXT, QWEN)


@dataclass(frozen=True)
class Inputs:
    """Tokens and weights of one shape, all of one dtype, in ``nn.Linear`` layout."""

    shape: Shape
    x: Tensor  # [N, d]
    w1: Tensor  # [H, d]
    b1: Tensor  # [H]
    w2: Tensor  # [D, H]
    b2: Tensor  # [D]
    directions: Tensor  # [m, d]

    @property
    def layers(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.w1, self.b1, self.w2, self.b2

    @cached_property
    def exact_outputs(self) -> Tensor:
        """The projector's outputs [N, D] in fp64."""
        w1, b1, w2, b2 = (layer.double() for layer in self.layers)
        return reference.project(self.x.double(), w1, b1, w2, b2, "gelu")


def make_inputs(shape: Shape, dtype: torch.dtype, directions: int = DIRECTIONS) -> Inputs:
    """Seeded inputs: tokens from ``patches``, weights as ``nn.Linear`` initialises them."""
    generator = torch.Generator().manual_seed(0)

    def layer(rows: int, columns: int) -> Tensor:
        bound = 1 / math.sqrt(columns)
        return torch.empty(rows, columns).uniform_(-bound, bound, generator=generator).to(dtype)

    w1, w2 = layer(shape.hidden, shape.inputs), layer(shape.outputs, shape.hidden)
    b1, b2 = layer(shape.hidden, 1) * 0.05, layer(shape.outputs, 1) * 0.05
    u = torch.randn(directions, shape.inputs, generator=generator)
    return Inputs(
        shape,
        patches(shape.tokens, shape.inputs, generator).to(dtype),
        w1,
        b1[:, 0],
        w2,
        b2[:, 0],
        u / u.norm(dim=1, keepdim=True),
    )


def patches(tokens: int, features: int, generator: torch.Generator) -> Tensor:
    """float32 [tokens, features] like an image's: 32 contents in changing mixtures, plus noise.

    Tokens of independent noise would be all equally far apart, which no image's are.
    """
    contents = torch.randn(32, features, generator=generator)
    mixture = torch.softmax(4 * torch.randn(tokens, 32, generator=generator), dim=1)
    return mixture @ contents + 0.3 * torch.randn(tokens, features, generator=generator)
