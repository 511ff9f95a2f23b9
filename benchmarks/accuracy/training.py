"""What both stages of ``make train`` share: optimiser, schedule, checkpoint, log, progress bar."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn


class Training:
    """Steps of one stage, resumed from ``folder/stage.pt`` where an earlier run left off.

    Matrices between hidden layers are trained with Muon, all else with AdamW; both warm up for
    ``warm`` steps and end on a cosine.

        for step in training:
            training.update(loss, {"name": 0.9})
    """

    def __init__(
        self, folder: Path, stage: str, modules: dict[str, nn.Module], steps: int, rate: float
    ) -> None:
        self.saved, self.log = folder / f"{stage}.pt", folder / f"{stage}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self.modules, self.steps, self.rate, self.warm = modules, steps, rate, 50
        named = [(n, p) for m in modules.values() for n, p in m.named_parameters()]
        self.parameters = [p for _, p in named if p.requires_grad]
        hidden = [p for n, p in named if p.requires_grad and p.ndim == 2 and "layers." in n]
        others = [p for p in self.parameters if not any(p is h for h in hidden)]
        self.optimisers = [
            torch.optim.Muon(hidden, lr=rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=rate, weight_decay=0.0, betas=(0.9, 0.98)),
        ]
        self.step, self.shown, self.spent = 0, {}, 0.0
        if self.saved.exists():
            state = torch.load(self.saved, weights_only=True)
            self.step, self.spent = state["step"], state["seconds"]
            for name, module in modules.items():
                module.load_state_dict(state[name])
            for optimiser, part in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(part)
        self.first, self.began = self.step, time.time()

    def __iter__(self) -> Iterator[int]:
        while self.step < self.steps:
            self.step += 1
            yield self.step

    @property
    def seconds(self) -> float:
        return self.spent + time.time() - self.began

    def update(self, loss: Tensor, found: dict[str, float]) -> None:
        for optimiser in self.optimisers:
            optimiser.zero_grad()
            for group in optimiser.param_groups:
                group["lr"] = self.rate * self.schedule()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        for key, value in {"loss": loss.item(), **found}.items():
            if not math.isnan(value):
                self.shown[key] = 0.9 * self.shown.get(key, value) + 0.1 * value
        if self.step % 20 == 0:
            self.note(self.shown)
        if self.step % 100 == 0 or self.step == self.steps:
            self.save()

    def schedule(self) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        return min(1.0, self.step / self.warm) * max(0.02, cosine)

    def note(self, found: dict[str, float], split: str = "train") -> None:
        """One line into the log, and a progress bar with the time left on the terminal."""
        row = {"step": self.step, "seconds": round(self.seconds), "split": split}
        row |= {key: round(value, 4) for key, value in found.items()}
        with self.log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        pace = (time.time() - self.began) / max(1, self.step - self.first)
        left = round(pace * (self.steps - self.step) / 60)
        done = round(20 * self.step / self.steps)
        words = "  ".join(f"{key} {value:.3f}" for key, value in found.items())
        print(
            f"[{'#' * done:20}] {self.step}/{self.steps}, {left} min left  {split}: {words}",
            flush=True,
        )

    def save(self) -> None:
        state = {name: module.state_dict() for name, module in self.modules.items()}
        state |= {"step": self.step, "seconds": self.seconds}
        state["optimisers"] = [optimiser.state_dict() for optimiser in self.optimisers]
        partial = self.saved.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.saved)
