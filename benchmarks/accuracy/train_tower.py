"""First stage of ``make train``: the tower learns what lies under each patch. Resumable."""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import scenes, tower


def crowd(seed: int, split: str, size: int) -> list[scenes.Scene]:
    rng = np.random.default_rng(seed)
    return [
        scenes.draw(rng, split, count=60, distinct=False)
        if rng.random() < 0.8
        else scenes.draw(rng, split)
        for _ in range(size)
    ]


def losses(
    model: Any, heads: tower.DenseLabels, batch: list[scenes.Scene]
) -> tuple[Tensor, dict[str, float]]:
    patches = model(pixel_values=tower.pixels(batch)).last_hidden_state[:, 1:]
    name, colour, middle = heads(patches.float())
    wanted = [np.stack(part) for part in zip(*map(tower.labels, batch), strict=True)]
    want_name, want_colour = (torch.from_numpy(w) for w in wanted[:2])
    want_middle = torch.from_numpy(wanted[2])
    there = want_name != tower.NONE
    weight = torch.ones(tower.NONE + 1)
    weight[-1] = 0.3
    loss = F.cross_entropy(name.flatten(0, 1), want_name.flatten(), weight)
    loss = loss + 0.5 * F.cross_entropy(colour.flatten(0, 1), want_colour.flatten())
    loss = loss + 0.5 * F.binary_cross_entropy_with_logits(
        middle, want_middle, pos_weight=torch.tensor(4.0)
    )
    right = (name.argmax(-1) == want_name)[there].float().mean()
    return loss, {
        "name": right.item(),
        "digit": (name.argmax(-1) == want_name)[want_name < 10].float().mean().item(),
        "colour": (colour.argmax(-1) == want_colour)[there].float().mean().item(),
        "empty": (name.argmax(-1) == want_name)[~there].float().mean().item(),
        "middle": (((middle > 0) == (want_middle > 0.5))[want_middle > 0.5]).float().mean().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=Path("build/train"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model, heads = tower.build(), tower.DenseLabels()
    parameters = [*model.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=options.rate, weight_decay=0.02, betas=(0.9, 0.98))
    saved, start = options.out / "tower.pt", 0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        optimiser.load_state_dict(state["optimiser"])
        start = state["step"]
    began, shown = time.time(), {}
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(crowd, start + 1, "train", options.batch)
        for step in range(start + 1, options.steps + 1):
            batch = coming.result()
            coming = pool.submit(crowd, step + 1, "train", options.batch)
            warm = min(1.0, step / 100) * max(
                0.02, 0.5 * (1 + np.cos(np.pi * step / options.steps))
            )
            for group in optimiser.param_groups:
                group["lr"] = options.rate * warm
            with torch.autocast("cpu", torch.bfloat16):
                loss, found = losses(model, heads, batch)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            for key, value in {"loss": loss.item(), **found}.items():
                shown[key] = 0.95 * shown.get(key, value) + 0.05 * value
            if step % 20 == 0:
                speed = (step - start) * options.batch / (time.time() - began)
                words = "  ".join(f"{k} {v:.3f}" for k, v in shown.items())
                print(f"step {step}  {words}  {speed:.1f} pictures/s", flush=True)
            if step % 100 == 0 or step == options.steps:
                state = {"model": model.state_dict(), "heads": heads.state_dict(), "step": step}
                torch.save(state | {"optimiser": optimiser.state_dict()}, saved)


if __name__ == "__main__":
    main()
