"""Second stage of ``make train``: projector and language model learn to answer. Resumable.

The tower is frozen and its features are computed once per picture; all questions of a picture share
its 577 columns in one forward pass and do not see one another. ``--together`` trains tower and all.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import model as small
from . import questions, scenes, tower


class Pictures:
    """``size`` random scenes of a split with their questions, tower features computed once."""

    def __init__(self, vision, split: str, seed: int, size: int, features: bool) -> None:
        rng = np.random.default_rng(seed)
        self.scenes = [scenes.draw(rng, split) for _ in range(size)]
        self.asked = [questions.ask(s, rng) for s in self.scenes]
        self.packed = [small.packed([(q.text, q.answer) for q in asked]) for asked in self.asked]
        self.features = None
        if features:
            parts = [see(vision, self.scenes[i : i + 8]) for i in range(0, size, 8)]
            self.features = torch.cat(parts)  # [size, 576, width] bf16


@torch.inference_mode()
def see(vision, batch: list[scenes.Scene]) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return vision(pixel_values=tower.pixels(batch)).last_hidden_state[:, 1:].bfloat16().clone()


def answers(
    model, features: Tensor, packed: list[tuple[Tensor, Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Logits [B, L, words] behind each column of the packed questions, and targets [B, L]."""
    longest = max(len(p[0]) for p in packed)
    words, starts, targets = (
        torch.stack([F.pad(p[i], (0, longest - len(p[0])), value=fill) for p in packed])
        for i, fill in ((0, 0), (1, 0), (2, -100))
    )
    images = model.model.multi_modal_projector(features)
    embed = model.get_input_embeddings()
    first = embed(torch.ones(len(packed), 1, dtype=torch.long))
    inputs = torch.cat([first, images, embed(words)], 1)
    prefix, at = 1 + small.TOKENS, torch.arange(longest)
    position = torch.cat(
        [torch.arange(prefix).expand(len(packed), -1), prefix + at - starts], 1
    )  # every question stands right behind the picture
    mask = torch.full((len(packed), 1, prefix + longest, prefix + longest), False)
    mask[:, 0, :prefix, :prefix] = torch.ones(prefix, prefix, dtype=torch.bool).tril()
    mask[:, 0, prefix:, :prefix] = True
    own = (at[None, None, :] <= at[None, :, None]) & (at[None, None, :] >= starts[:, :, None])
    mask[:, 0, prefix:, prefix:] = own
    out = model.model.language_model(
        inputs_embeds=inputs, attention_mask=mask, position_ids=position, use_cache=False
    )
    return model.lm_head(out.last_hidden_state[:, prefix:]), targets


def score(model, pictures: Pictures) -> dict[str, float]:
    right, asked = defaultdict(int), defaultdict(int)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for i in range(0, len(pictures.scenes), 16):
            some = slice(i, i + 16)
            logits, targets = answers(model, pictures.features[some], pictures.packed[some])
            for row, (found, target) in enumerate(zip(logits.argmax(-1), targets, strict=True)):
                at = target >= 0
                for q, ok in zip(
                    pictures.asked[i + row], (found == target)[at].tolist(), strict=True
                ):
                    asked[q.kind] += 1
                    right[q.kind] += ok
    found = {kind: right[kind] / max(1, asked[kind]) for kind in questions.KINDS}
    return {"all": sum(right.values()) / sum(asked.values()), **found}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--together", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("build/train"))
    options = parser.parse_args()
    torch.manual_seed(0)
    model = small.build()
    vision = model.model.vision_tower
    saved, start = options.out / ("together.pt" if options.together else "answers.pt"), 0
    model_state = torch.load(options.out / "tower.pt", weights_only=True)["model"]
    vision.load_state_dict(model_state)
    if options.together and not saved.exists():
        model.load_state_dict(torch.load(options.out / "answers.pt", weights_only=True)["model"])
    parameters = [
        p for n, p in model.named_parameters() if options.together or "vision_tower" not in n
    ]
    optimiser = torch.optim.AdamW(parameters, lr=options.rate, weight_decay=0.02, betas=(0.9, 0.98))
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        start = state["step"]
    held_out = Pictures(vision, "dev", 10**6, 128, features=not options.together)
    pictures = Pictures(vision, "train", 1, options.pictures, features=not options.together)
    rng = np.random.default_rng(start)
    began, mean = time.time(), None
    for step in range(start + 1, options.steps + 1):
        some = rng.integers(len(pictures.scenes), size=options.batch)
        warm = min(1.0, step / 200) * max(0.02, 0.5 * (1 + np.cos(np.pi * step / options.steps)))
        for group in optimiser.param_groups:
            group["lr"] = options.rate * warm
        with torch.autocast("cpu", torch.bfloat16):
            if options.together:
                batch = tower.pixels([pictures.scenes[i] for i in some])
                features = vision(pixel_values=batch).last_hidden_state[:, 1:]
            else:
                features = pictures.features[some]
            logits, targets = answers(model, features, [pictures.packed[i] for i in some])
            loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        mean = loss.item() if mean is None else 0.95 * mean + 0.05 * loss.item()
        if step % 50 == 0:
            speed = (step - start) * options.batch / (time.time() - began)
            print(f"step {step}  loss {mean:.3f}  {speed:.1f} pictures/s", flush=True)
        if step % 500 == 0 or step == options.steps:
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
            torch.save(state, saved)
            if options.together:
                parts = [see(vision, held_out.scenes[i : i + 8]) for i in range(0, 128, 8)]
                held_out.features = torch.cat(parts)
            found = score(model, held_out)
            print("  ".join(f"{k} {v:.3f}" for k, v in found.items()), flush=True)


if __name__ == "__main__":
    main()
