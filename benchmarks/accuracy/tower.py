"""The vision tower of the small model: a CLIP tower that first learns what lies under each patch.

So that a few thousand pictures teach it which patches belong together, the first layers start as a
convolution (d'Ascoli et al., ConViT, 2021): position embeddings are sinusoids, and each of the
eight heads looks at one of the eight neighbours. Patch embeddings start as the low frequencies of
the patch (DCT). Everything is trained from there.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from . import scenes
from .names import COLOURS, NAMES, PATCH, SIDE

GRID, WIDTH, MLP, HEADS, LAYERS = 24, 192, 512, 8, 4
HEAD = WIDTH // HEADS  # 24 = 6 frequencies x (sine, cosine) x (x, y)
FREQUENCIES = (0.5, 0.73, 1.4, 2.32, 2.5, 2.73)  # radians a patch; no other step looks alike
NEIGHBOURS = ((-1, -1), (0, -1), (1, -1), (-1, 0), (1, 0), (-1, 1), (0, 1), (1, 1))  # (x, y)
NONE = len(NAMES)  # the label of a patch without object


def config() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=MLP,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=WIDTH,
    )


def build() -> CLIPVisionModel:
    model = CLIPVisionModel(config())
    with torch.no_grad():
        _start_as_convolution(model)
    return model


def _start_as_convolution(model: CLIPVisionModel) -> None:
    vision = getattr(model, "vision_model", model)
    content = WIDTH - HEAD  # the last HEAD channels hold the position
    weight = vision.embeddings.patch_embedding.weight
    weight.zero_()
    filters = _low_frequencies(content)
    # Without a mean over channels: the norm, which takes it away, would shift the position with it.
    weight[:content] = filters - filters.mean(0)
    table = vision.embeddings.position_embedding.weight  # [1 + 576, WIDTH]
    table.zero_()
    y, x = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    for f, frequency in enumerate(FREQUENCIES):
        for axis, place in enumerate((x, y)):
            at = content + 4 * f + 2 * axis
            angle = place.reshape(-1).float() * frequency
            table[1:, at], table[1:, at + 1] = angle.sin() * 1.4, angle.cos() * 1.4
    for layer in vision.encoder.layers[:2]:
        attention = layer.self_attn
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.mul_(0.02)
            projection.bias.zero_()
        for head, (dx, dy) in enumerate(NEIGHBOURS):
            rows = slice(head * HEAD, (head + 1) * HEAD)
            attention.k_proj.weight[rows, content:] += 2.2 * torch.eye(HEAD)
            turn = torch.zeros(HEAD, HEAD)
            for f, frequency in enumerate(FREQUENCIES):
                for axis, step in enumerate((dx, dy)):
                    at, angle = 4 * f + 2 * axis, frequency * step
                    # sin(a + b) and cos(a + b) from sin a and cos a
                    turn[at, at], turn[at, at + 1] = math.cos(angle), math.sin(angle)
                    turn[at + 1, at], turn[at + 1, at + 1] = -math.sin(angle), math.cos(angle)
            attention.q_proj.weight[rows, content:] += 2.2 * turn
        nn.init.orthogonal_(attention.v_proj.weight)
        nn.init.orthogonal_(attention.out_proj.weight, gain=0.7)


def _low_frequencies(count: int) -> Tensor:
    """DCT filters [count, 3, 14, 14]: half of brightness, a quarter each of two colour axes."""
    n = torch.arange(PATCH)
    waves = torch.stack([((n + 0.5) * k * math.pi / PATCH).cos() for k in range(PATCH)])
    order = sorted((i + j, i, j) for i in range(PATCH) for j in range(PATCH))
    filters = []
    for axis, share in (((1, 1, 1), 2), ((1, -1, 0), 4), ((0.5, 0.5, -1), 4)):
        for _, i, j in order[: count // share]:
            plane = torch.outer(waves[i], waves[j])
            plane = plane / plane.norm()
            filters.append(torch.tensor(axis)[:, None, None] * plane / math.sqrt(3))
    return torch.stack(filters[:count]) * 1.2


class DenseLabels(nn.Module):
    """Linear readings of every patch: which object, which colour, whether its middle, and where.

    Where: x and y in -1..1, so that position lies plainly in the features that the projector gets.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.name = nn.Linear(WIDTH, NONE + 1)
        self.colour = nn.Linear(WIDTH, len(COLOURS))
        self.middle = nn.Linear(WIDTH, 1)
        self.place = nn.Linear(WIDTH, 2)
        self.register_buffer("reached", torch.zeros(()))

    @property
    def loose(self) -> float:
        """How far the curriculum has come: of how hard pictures the labels were learned."""
        return self.reached.item()

    @loose.setter
    def loose(self, value: float) -> None:
        self.reached.fill_(value)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        patches = self.norm(patches)
        middle = self.middle(patches)[..., 0]
        return self.name(patches), self.colour(patches), middle, self.place(patches)


def places(device: torch.device) -> Tensor:
    """[576, 2] x and y of each patch in -1..1."""
    at = torch.arange(GRID, device=device) / ((GRID - 1) / 2) - 1
    return torch.cartesian_prod(at, at).flip(1)


def labels(layout: scenes.Layout) -> tuple[Tensor, Tensor, Tensor]:
    """Of each patch [B, 576]: name, NONE where nothing is; colour, -100 there; middle, 0 or 1.

    A patch is an object's where the object covers a third or more of it in either direction.
    """
    box, there = layout.box / PATCH, layout.there[..., None]
    at = torch.arange(GRID, device=box.device)
    x0, y0, x1, y1 = box[..., None].unbind(2)  # [B, K, 1]
    columns = (at >= x0 - 0.67) & (at + 1 <= x1 + 0.67) & there
    rows = (at >= y0 - 0.67) & (at + 1 <= y1 + 0.67)
    owner = _owner(rows, columns)
    name, colour = (
        F.pad(part, (1, 0), value=none).gather(1, owner)
        for part, none in ((layout.name, NONE), (layout.colour, -100))
    )
    columns = (at == ((x0 + x1) / 2).floor()) & there
    rows = at == ((y0 + y1) / 2).floor()
    return name, colour, (_owner(rows, columns) > 0).float()


def _owner(rows: Tensor, columns: Tensor) -> Tensor:
    """[B, 576] the last object, counted from 1, of which row and column are true; 0: none."""
    number = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    both = rows[..., :, None] & columns[..., None, :]  # [B, K, 24, 24]
    return (both * number[:, None, None]).amax(1).flatten(1)


def scaled(pixels: Tensor) -> Tensor:
    """uint8 [B, 3, 336, 336] -> float32 in -1..1, as the processor makes them."""
    return pixels.float().div_(127.5).sub_(1)
