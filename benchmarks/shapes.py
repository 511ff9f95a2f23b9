"""The models' projector shapes and the inputs that every measurement uses."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from zoprune_kernels import reference
from zoprune_kernels.testing import patches

X = TypeVar("X")
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
# Its tokens are five crops one after another, of which each is pruned by itself in published code.
CROPS = {LLAVA_NEXT: 5}
QWEN = Shape("Qwen2.5-VL", 1024, 5120, 5120, 3584, (128,))
# For the memory of a selection alone
MANY_TOKENS = Shape("100,000 x 1024", 100_000, 1, 1, 1024, (1000,))
TINY = Shape("tiny", 63, 48, 80, 72, (7, 16))

SHAPES = (LLAVA, LLAVA_NEXT, QWEN)


@dataclass(frozen=True)
class Inputs:
    """Tokens and weights of one shape, all of one dtype, in ``nn.Linear`` layout.

    What follows from them is computed when it is first asked for.
    """

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
    def metric(self) -> Tensor:
        """The folded metric [H, H]."""
        return torch.ops.zoprune.fold_metric(self.w1, self.w2)

    @cached_property
    def keys(self) -> Tensor:
        """The projector's outputs [N, D] in the model's dtype."""
        return F.linear(F.gelu(F.linear(self.x, self.w1, self.b1)), self.w2, self.b2)

    @cached_property
    def scores(self) -> Tensor:
        """Closed-form scores [N], fp32."""
        return torch.ops.zoprune.expected_sensitivity(self.x, self.w1, self.b1, self.metric)

    @cached_property
    def native_scores(self) -> Tensor:
        """The scores in the model's dtype, as loops in a model have them."""
        return self.scores.to(self.keys.dtype)

    @cached_property
    def rows(self) -> Tensor:
        """What a bare matrix product multiplies by w2, [R, H]: large enough to run at its best."""
        count = min(2304, 4 * self.shape.tokens)
        return torch.randn(count, self.shape.hidden, device=self.x.device).to(self.x.dtype)

    @cached_property
    def exact_outputs(self) -> Tensor:
        """The projector's outputs [N, D] in fp64."""
        w1, b1, w2, b2 = (layer.double() for layer in self.layers)
        return reference.project(self.x.double(), w1, b1, w2, b2, "gelu")

    def to(self, device: str) -> Inputs:
        moved = (tensor.to(device) for tensor in (self.x, *self.layers, self.directions))
        return Inputs(self.shape, *moved)


def with_copies(inputs: X, names: Sequence[str]) -> X:
    """The same inputs, with tensors of their own for some names."""
    other = copy.copy(inputs)
    other.__dict__.update({name: getattr(inputs, name).clone() for name in names})
    return other


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
