"""The vision tower of the small model: a CLIP tower that first learns what lies under each patch.

So that a few thousand pictures teach it which patches belong together, the first layers start as a
convolution (d'Ascoli et al., ConViT, 2021): position embeddings are sinusoids, and each of the
eight heads looks at one of the eight neighbours. Patch embeddings start as the low frequencies of
the patch (DCT). Everything is trained from there.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from . import scenes
from .scenes import PATCH

GRID, WIDTH, MLP, HEADS, LAYERS = 24, 192, 512, 8, 4
HEAD = WIDTH // HEADS  # 24 = 6 frequencies x (sine, cosine) x (x, y)
FREQUENCIES = (0.5, 0.73, 1.4, 2.32, 2.5, 2.73)  # radians a patch; no other step looks alike
NEIGHBOURS = ((-1, -1), (0, -1), (1, -1), (-1, 0), (1, 0), (-1, 1), (0, 1), (1, 1))  # (x, y)
NONE = len(scenes.NAMES)  # the label of a patch without object


def config() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=MLP,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=scenes.SIDE,
        patch_size=PATCH,
        projection_dim=WIDTH,
        attn_implementation="eager",  # faster to train in bf16 on CPUs than sdpa
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


def look(model: CLIPVisionModel, pixels: Tensor, window: int = GRID) -> Tensor:
    """Features [B, 576, width] where attention ends at windows of ``window`` by ``window`` patches.

    With the whole grid as window this is the tower's own forward. Windows of eight make a training
    step four times as fast, and what lies under a patch does not depend on what is far away.
    """
    vision = getattr(model, "vision_model", model)
    hidden = vision.pre_layrnorm(vision.embeddings(pixels))
    batch, _, width = hidden.shape
    n = GRID // window
    patches = hidden[:, 1:].view(batch, n, window, n, window, width).transpose(2, 3)
    patches = patches.reshape(batch * n * n, window * window, width)
    hidden = torch.cat([hidden[:, :1].repeat_interleave(n * n, 0), patches], 1)
    for layer in vision.encoder.layers:
        hidden = layer(hidden, None)
    patches = hidden[:, 1:].view(batch, n, n, window, window, width).transpose(2, 3)
    return patches.reshape(batch, GRID * GRID, width)


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
        self.colour = nn.Linear(WIDTH, len(scenes.COLOURS))
        self.middle = nn.Linear(WIDTH, 1)
        self.place = nn.Linear(WIDTH, 2)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        patches = self.norm(patches)
        middle = self.middle(patches)[..., 0]
        return self.name(patches), self.colour(patches), middle, self.place(patches)


def places() -> Tensor:
    """[576, 2] x and y of each patch in -1..1."""
    y, x = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    return torch.stack([x.reshape(-1), y.reshape(-1)], 1) / ((GRID - 1) / 2) - 1


def labels(scene: scenes.Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each of 576 patches: name, NONE where nothing is; colour, -100 there; middle, 0 or 1."""
    name = np.full((GRID, GRID), NONE)
    colour = np.full((GRID, GRID), -100)
    middle = np.zeros((GRID, GRID), np.float32)
    for o in scene.objects:
        x0, y0, x1, y1 = (np.array(o.box) / PATCH).tolist()
        # patches of which the object covers a third or more in either direction
        columns = slice(math.ceil(x0 - 0.67), math.floor(x1 + 0.67))
        rows = slice(math.ceil(y0 - 0.67), math.floor(y1 + 0.67))
        name[rows, columns] = scenes.NAMES.index(o.name)
        colour[rows, columns] = list(scenes.COLOURS).index(o.colour)
        middle[int(o.centre[1] / PATCH), int(o.centre[0] / PATCH)] = 1
    return name.reshape(-1), colour.reshape(-1), middle.reshape(-1)


def pixels(batch: list[scenes.Scene]) -> Tensor:
    """[B, 3, 336, 336], each channel about -1..1."""
    return scaled(torch.from_numpy(np.stack([s.pixels for s in batch])))


def scaled(pixels: Tensor) -> Tensor:
    """uint8 [B, 336, 336, 3] -> float32 [B, 3, 336, 336] in -1..1."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
