"""What stands in for the pretrained parts of a VLM: a pixel descriptor and a random projector.

No pretrained vision tower or projector comes with this package. The descriptor is fixed and
computed from the pixels; the projector has LLaVA-1.5's shape and seeded random weights.
docs/demo.md describes both.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .photo import SIDE

if TYPE_CHECKING:
    from PIL.Image import Image

PATCH = 14  # pixels
GRID = SIDE // PATCH  # 24 x 24 patches
WINDOWS = (1, 2, 4, 8)  # windows of 14, 28, 56 and 112 pixels around each patch
LUMA, CHROMA = 128, 64  # lowest DCT frequencies kept of Y, and of each of Cb and Cr
DIM = len(WINDOWS) * (LUMA + 2 * CHROMA)  # 1024
HIDDEN = OUTPUT = 4096  # LLaVA-1.5 7B


class StandIn(NamedTuple):
    """f(x) = w2 gelu(w1 x + b1) + b2, in the order of the operators' arguments."""

    w1: Tensor  # [H, d]
    b1: Tensor  # [H]
    w2: Tensor  # [D, H]
    b2: Tensor  # [D]

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(F.gelu(F.linear(x, self.w1, self.b1)), self.w2, self.b2)


def random_projector(
    seed: int, dtype: torch.dtype, hidden: int = HIDDEN, output: int = OUTPUT
) -> StandIn:
    """Weights N(0, 1 / inputs), biases N(0, 0.02^2): unit-variance pre-activations."""
    generator = torch.Generator().manual_seed(seed)

    def normal(scale: float, *shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(dtype)

    return StandIn(
        normal(1 / math.sqrt(DIM), hidden, DIM),
        normal(0.02, hidden),
        normal(1 / math.sqrt(hidden), output, hidden),
        normal(0.02, output),
    )


def describe(photo: Image) -> Tensor:
    """float32 [576, 1024]: one descriptor for each 14 x 14 patch of the photo at 336 x 336.

    Four windows around the patch, each averaged down to 14 x 14 pixels and transformed by a DCT
    whose coefficients are weighted by their frequency, which flattens a photograph's 1/f spectrum.
    The scale makes the random projector's pre-activations have unit variance over the image.
    """
    import numpy

    pixels = numpy.array(photo.resize((SIDE, SIDE)).convert("YCbCr"))
    image = torch.from_numpy(pixels).float().permute(2, 0, 1) / 255  # [3, 336, 336]
    image -= image.mean(dim=(1, 2), keepdim=True)
    # Wider windows count less: each doubling by 1 / sqrt(2).
    x = torch.cat([_spectra(image, zoom) / math.sqrt(zoom) for zoom in WINDOWS], dim=1)
    # The square root of the contrast, so that a few hard edges do not outweigh everything else.
    x = x / x.norm(dim=1, keepdim=True).clamp_min(1e-6).sqrt()
    rms = x.square().mean().sqrt()
    return x / rms if rms > 0 else x


def _spectra(image: Tensor, zoom: int) -> Tensor:
    """DCT coefficients [576, 256] of the window ``zoom`` times as wide as each patch."""
    margin = PATCH * (zoom - 1) // 2
    padded = F.pad(image[None], (margin,) * 4, mode="reflect")
    means = F.avg_pool2d(padded, zoom, stride=1)  # of zoom x zoom pixels, at every pixel
    windows = F.unfold(means, PATCH, dilation=zoom, stride=PATCH)[0].T  # [576, 3 * 14 * 14]
    windows = windows.reshape(-1, 3, PATCH, PATCH)
    dct, frequency = _dct()
    spectrum = (dct @ windows @ dct.T * frequency).flatten(2)  # [576, 3, 196]
    luma, cb, cr = spectrum[..., frequency.flatten().argsort(stable=True)].unbind(dim=1)
    return torch.cat([luma[:, :LUMA], cb[:, :CHROMA], cr[:, :CHROMA]], dim=1)


def _dct() -> tuple[Tensor, Tensor]:
    """The orthonormal DCT-II matrix [14, 14] and the weight of each frequency [14, 14]."""
    k = torch.arange(PATCH)
    dct = torch.cos(math.pi * k[:, None] * (2 * k + 1) / (2 * PATCH)) * math.sqrt(2 / PATCH)
    dct[0] /= math.sqrt(2)
    frequency = (k[:, None] ** 2 + k**2).sqrt()
    frequency[0, 0] = 0.5  # the mean colour counts half as much as the lowest frequency
    return dct, frequency
