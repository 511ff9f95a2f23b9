"""First stage of ``make train``: the tower learns what lies under each patch."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from transformers import CLIPVisionModel

from . import compose, scenes, tower
from .names import NAMES, WORDS
from .training import LINES, Training

CROWDED = 0.85  # of the pictures; the others are like those that questions are asked about
LEARNED = 0.6  # of the patches with objects are named right: time for harder pictures
FASTEST = 0.3  # of the time, in which pictures may come loose from the grid and from one size
DEVELOPMENT = 64  # pictures
MEASUREMENTS = 4  # of the development split
FIRST_WORD = NAMES.index(WORDS[0])


def pictures(generator: Generator, split: str, size: int, loose: float) -> scenes.Layout:
    crowded = max(1, round(CROWDED * size))
    layout = scenes.crowd(generator, split, crowded, loose)
    if crowded < size:
        layout = scenes.joined(layout, scenes.draw(generator, split, size - crowded, loose))
    return layout


def losses(
    model: CLIPVisionModel, heads: tower.DenseLabels, layout: scenes.Layout, device: str
) -> tuple[Tensor, dict[str, Tensor]]:
    pixels = compose.render(layout)
    want_name, want_colour, want_middle = tower.labels(layout)
    with torch.autocast(device, torch.bfloat16):
        patches = model(pixel_values=tower.scaled(pixels)).last_hidden_state[:, 1:]
    name, colour, middle, place = heads(patches.float())
    there = want_name != tower.NONE
    weight = torch.ones(tower.NONE + 1, device=pixels.device)
    weight[-1] = 0.3
    loss = F.cross_entropy(name.flatten(0, 1), want_name.flatten(), weight)
    loss = loss + 0.5 * F.cross_entropy(colour.flatten(0, 1), want_colour.flatten())
    rare = torch.full((1,), 4.0, device=pixels.device)
    loss = loss + 0.5 * F.binary_cross_entropy_with_logits(middle, want_middle, pos_weight=rare)
    apart = F.mse_loss(place, tower.places(place.device).expand_as(place))
    loss = loss + apart
    with torch.no_grad():
        right = (name.argmax(-1) == want_name).float()
        word, digit = there & (want_name >= FIRST_WORD), want_name < 10
        found = {
            "name": share(right, there),
            "digit": share(right, digit),
            "word": share(right, word),
            "colour": share((colour.argmax(-1) == want_colour).float(), there),
            "empty": share(right, ~there),
            "middle": share((middle > 0).float(), want_middle > 0.5),
            "apart": apart.detach(),
        }
    return loss, found


def share(right: Tensor, among: Tensor) -> Tensor:
    return (right * among).sum() / among.sum()


def train(
    folder: Path, seconds: float, size: int, *, device: str, rate: float, light: bool
) -> None:
    """Trains for ``seconds``, ``size`` pictures a step; writes ``folder``/tower.pt."""
    torch.manual_seed(0)
    model, heads = tower.build().to(device), tower.DenseLabels().to(device)
    modules = {"model": model, "heads": heads}
    training = Training(folder, "tower", modules, seconds, rate, light=light)
    generator, measured = Generator(device), training.seconds
    loose = heads.loose  # to read it in every step would wait for the device
    for step in training:
        generator.manual_seed(step)
        layout = pictures(generator, "train", size, loose)
        found = training.update(*losses(model, heads, layout, device))
        if found.get("name", 0) > LEARNED:
            heads.loose = loose = min(1.0, loose + 1 / (FASTEST * LINES))
        if training.limit / MEASUREMENTS < training.seconds - measured and training.done < 1:
            measure(training, model, heads, device)
            measured = training.seconds
    measure(training, model, heads, device)


@torch.no_grad()
def measure(
    training: Training, model: CLIPVisionModel, heads: tower.DenseLabels, device: str
) -> None:
    held_out = pictures(Generator(device).manual_seed(0), "dev", DEVELOPMENT, heads.loose)
    loss, found = losses(model, heads, held_out, device)
    found = {"loss": loss, **found}
    training.note({k: v.item() for k, v in found.items()} | {"loose": heads.loose}, "dev")
