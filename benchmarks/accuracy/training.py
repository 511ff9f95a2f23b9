"""What both stages of ``make train`` share: optimiser, schedule, checkpoints, log, progress bar."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .muon import Muon

WARM = 50  # steps
SAVED = 30  # seconds between checkpoints
LINES = 60  # of the log, of the training split


class Training:
    """Steps of one stage that end after ``seconds``, resumed from ``folder/stage.pt``.

    Matrices between hidden layers are trained with Muon, all else with AdamW; both warm up for
    ``WARM`` steps and end on a cosine of the time that has passed, so that a run ends well on a
    machine of any speed. A gradient that is not finite counts as zero. ``light`` keeps checkpoints
    small: weights in bfloat16, without the optimisers' state.

        for step in training:
            training.update(loss, {"name": 0.9})
    """

    def __init__(
        self,
        folder: Path,
        stage: str,
        modules: Mapping[str, nn.Module],
        seconds: float,
        rate: float,
        *,
        light: bool = False,
    ) -> None:
        self.saved, self.log = folder / f"{stage}.pt", folder / f"{stage}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self.modules, self.limit, self.rate, self.light = modules, seconds, rate, light
        named = [(n, p) for m in modules.values() for n, p in m.named_parameters()]
        named = [(n, p) for n, p in named if p.requires_grad]
        self.parameters = [p for _, p in named]
        hidden = [p for n, p in named if p.ndim == 2 and "layers." in n]
        others = [p for n, p in named if p.ndim != 2 or "layers." not in n]
        fused = self.parameters[0].is_cuda
        self.optimisers: list[torch.optim.Optimizer] = []
        if hidden:
            self.optimisers.append(Muon([{"params": hidden, "lr": rate}]))
        if others:
            quick = {"betas": (0.9, 0.98), "fused": fused}
            self.optimisers.append(torch.optim.AdamW(others, lr=rate, weight_decay=0.0, **quick))
        self.step, self.spent = 0, 0.0
        if self.saved.exists():
            self.resume()
        self.names: list[str] = []
        self.seen: list[Tensor] = []
        self.began = self.written = time.perf_counter()
        self.kept = self.began

    def resume(self) -> None:
        state = torch.load(self.saved, weights_only=True, map_location=self.parameters[0].device)
        self.step, self.spent = state["step"], state["seconds"]
        for name, module in self.modules.items():
            module.load_state_dict(state[name])
        for optimiser, part in zip(self.optimisers, state["optimisers"], strict=False):
            optimiser.load_state_dict(part)

    def __iter__(self) -> Iterator[int]:
        while self.done < 1:
            self.step += 1
            yield self.step
        self.save()

    @property
    def seconds(self) -> float:
        return self.spent + time.perf_counter() - self.began

    @property
    def done(self) -> float:
        """Share of the time that has passed."""
        return min(1.0, self.seconds / self.limit)

    def update(self, loss: Tensor, found: Mapping[str, Tensor | float]) -> dict[str, float]:
        """One step; returns the means since the last line of the log when it writes one."""
        pace = self.schedule()
        for optimiser in self.optimisers:
            optimiser.zero_grad()
            for group in optimiser.param_groups:
                group["lr"] = self.rate * pace
        loss.backward()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        for gradient in gradients:  # no look at the values, which would wait for the device
            gradient.nan_to_num_(0.0, 0.0, 0.0)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        if self.names != ["loss", *found]:
            self.names, self.seen = ["loss", *found], []
        values = [torch.as_tensor(v, device=loss.device).detach() for v in (loss, *found.values())]
        self.seen.append(torch.stack([value.float() for value in values]))
        now = time.perf_counter()
        shown = self.note() if now - self.written > self.limit / LINES else {}
        if now - self.kept > SAVED:
            self.save()
        return shown

    def schedule(self) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * self.done))
        return min(1.0, self.step / WARM) * max(0.01, cosine)

    def note(
        self, found: Mapping[str, float] | None = None, split: str = "train"
    ) -> dict[str, float]:
        """One line into the log, and a progress bar with the time left on the terminal.

        Of the steps since the last such line where ``found`` is not given.
        """
        if found is None:
            values = torch.stack(self.seen).nanmean(0).tolist() if self.seen else []
            found = dict(zip(self.names, values, strict=False))
            self.seen, self.written = [], time.perf_counter()
        found = {key: round(value, 4) for key, value in found.items() if math.isfinite(value)}
        row = {"step": self.step, "seconds": round(self.seconds, 1), "split": split, **found}
        with self.log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        bar = "#" * round(20 * self.done)
        left = max(0, round(self.limit - self.seconds))
        words = "  ".join(f"{key} {value:.3f}" for key, value in found.items())
        print(f"[{bar:20}] step {self.step}, {left} s left  {split}: {words}", flush=True)
        return found

    def save(self) -> None:
        state: dict[str, object] = {"step": self.step, "seconds": self.seconds, "optimisers": []}
        for name, module in self.modules.items():
            weights = module.state_dict()
            if self.light:
                weights = {
                    n: w.bfloat16() if w.is_floating_point() else w for n, w in weights.items()
                }
            state[name] = weights
        if not self.light:
            state["optimisers"] = [optimiser.state_dict() for optimiser in self.optimisers]
        partial = self.saved.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.saved)
        self.kept = time.perf_counter()
