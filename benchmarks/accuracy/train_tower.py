"""First stage of ``make train``: the tower learns what lies under each patch. Resumable."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPVisionModel

from . import scenes, tower
from .training import Training

WINDOW = 8  # patches


def batches(start: int, steps: int, size: int) -> Iterator[tuple[Tensor, ...]]:
    """(pixels, names, colours, middles) of each step behind ``start``, drawn one step ahead."""

    def drawn(step: int) -> tuple[Tensor, ...]:
        count = size // 4 if whole(step) else size
        return tensors(pictures(step, "train", count, looseness(step, steps)))

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(drawn, start + 1)
        for step in range(start + 1, steps + 1):
            batch = coming.result()
            coming = pool.submit(drawn, min(step + 1, steps))
            yield batch


def whole(step: int) -> bool:
    """Every twelfth step sees whole pictures, the others windows of eight by eight patches."""
    return step % 12 == 0


def looseness(step: int, steps: int) -> float:
    """The curriculum: on the patches' grid first, from the half on as in the answers' pictures."""
    return scenes.LOOSE * min(1.0, max(0.0, (step / steps - 0.1) / 0.4))


def pictures(seed: int, split: str, size: int, loose: float) -> list[scenes.Scene]:
    rng = np.random.default_rng(seed)
    return [
        scenes.crowd(rng, split, loose)
        if rng.random() < 0.85
        else scenes.draw(rng, split, loose=loose)
        for _ in range(size)
    ]


def tensors(batch: list[scenes.Scene]) -> tuple[Tensor, ...]:
    """Pixels (uint8, a quarter of what the thread that draws would else allocate) and labels."""
    found = zip(*map(tower.labels, batch), strict=True)
    parts = ([scene.pixels for scene in batch], *found)
    return tuple(torch.from_numpy(np.stack(part)) for part in parts)


def losses(
    model: CLIPVisionModel, heads: tower.DenseLabels, batch: tuple[Tensor, ...], window: int
) -> tuple[Tensor, dict[str, float]]:
    pixels, want_name, want_colour, want_middle = batch
    name, colour, middle, place = heads(tower.look(model, tower.scaled(pixels), window).float())
    there = want_name != tower.NONE
    weight = torch.ones(tower.NONE + 1)
    weight[-1] = 0.3
    loss = F.cross_entropy(name.flatten(0, 1), want_name.flatten(), weight)
    loss = loss + 0.5 * F.cross_entropy(colour.flatten(0, 1), want_colour.flatten())
    loss = loss + 0.5 * F.binary_cross_entropy_with_logits(
        middle, want_middle, pos_weight=torch.tensor(4.0)
    )
    apart = F.mse_loss(place, tower.places().expand_as(place))
    loss = loss + apart
    right = (name.argmax(-1) == want_name)[there].float().mean()
    return loss, {
        "name": right.item(),
        "digit": (name.argmax(-1) == want_name)[want_name < 10].float().mean().item(),
        "colour": (colour.argmax(-1) == want_colour)[there].float().mean().item(),
        "empty": (name.argmax(-1) == want_name)[~there].float().mean().item(),
        "apart": apart.item(),
        "middle": (((middle > 0) == (want_middle > 0.5))[want_middle > 0.5]).float().mean().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--out", type=Path, default=Path("build/train"))
    options = parser.parse_args()
    torch.manual_seed(0)
    model, heads = tower.build(), tower.DenseLabels()
    training = Training(
        options.out, "tower", {"model": model, "heads": heads}, options.steps, options.rate
    )
    held_out = tensors(pictures(10**9, "dev", 16, scenes.LOOSE))
    coming = batches(training.step, options.steps, options.batch)
    for step, batch in zip(training, coming, strict=False):
        with torch.autocast("cpu", torch.bfloat16):
            loss, found = losses(model, heads, batch, tower.GRID if whole(step) else WINDOW)
        training.update(loss, found)
        if step % 200 == 0 or step == options.steps:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                loss, found = losses(model, heads, held_out, tower.GRID)
            training.note({"loss": loss.item(), **found}, "dev")


if __name__ == "__main__":
    main()
