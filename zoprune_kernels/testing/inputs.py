"""Random inputs: tiny projectors, keys like an image's, positions on a grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass
class TinyProjector:
    """Tokens x and a projector scaled so that pre-activations have unit variance."""

    x: Tensor
    w1: Tensor
    b1: Tensor | None
    w2: Tensor
    b2: Tensor | None

    @property
    def first_layer(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.x, self.w1, self.b1

    @property
    def layers(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor | None]:
        """x and both layers, as the operators take them."""
        return self.x, self.w1, self.b1, self.w2, self.b2

    def double(self) -> TinyProjector:
        """The same rounded values in float64."""
        return self._with(torch.float64)

    def _with(self, dtype: torch.dtype) -> TinyProjector:
        b1, b2 = (None if b is None else b.to(dtype) for b in (self.b1, self.b2))
        return TinyProjector(self.x.to(dtype), self.w1.to(dtype), b1, self.w2.to(dtype), b2)

    def module(self, activation: nn.Module | None = None) -> nn.Sequential:
        """The same weights as ``nn.Sequential(Linear, activation or GELU, Linear)``."""
        linear = []
        for weight, bias in ((self.w1, self.b1), (self.w2, self.b2)):
            layer = nn.Linear(
                weight.shape[1], weight.shape[0], bias is not None, dtype=weight.dtype
            )
            layer.weight.data = weight.clone()
            if bias is not None:
                layer.bias.data = bias.clone()
            linear.append(layer)
        return nn.Sequential(linear[0], activation or nn.GELU(), linear[1])


def projector(
    *lead: int,
    d: int = 32,
    hidden: int = 64,
    out: int = 48,
    dtype: torch.dtype = torch.float32,
    bias: bool = True,
) -> TinyProjector:
    """x [*lead, d] and random layers d -> hidden -> out, from torch's generator."""
    x = torch.randn(*lead, d)
    w1 = torch.randn(hidden, d) / d**0.5
    b1 = torch.randn(hidden) / 2 if bias else None
    w2 = torch.randn(out, hidden) / hidden**0.5
    b2 = torch.randn(out) if bias else None
    return TinyProjector(x, w1, b1, w2, b2)._with(dtype)


def clustered(tokens: int, dim: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Keys [tokens, dim] around a few directions, as neighbouring patches are."""
    centres = torch.randn(8, dim)
    return (centres[torch.randint(8, (tokens,))] + 0.5 * torch.randn(tokens, dim)).to(dtype)


def patches(tokens: int, features: int, generator: torch.Generator | None = None) -> Tensor:
    """float32 [tokens, features] like an image's: 32 contents in changing mixtures, plus noise.

    Tokens of independent noise would be all equally far apart, which no image's are.
    """
    contents = torch.randn(32, features, generator=generator)
    mixture = torch.softmax(4 * torch.randn(tokens, 32, generator=generator), dim=1)
    return mixture @ contents + 0.3 * torch.randn(tokens, features, generator=generator)


def grid(tokens: int, width: int) -> Tensor:
    """Row and column of each token, float32 [tokens, 2]."""
    index = torch.arange(tokens)
    return torch.stack([index // width, index % width], dim=1).float()
