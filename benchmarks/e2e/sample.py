"""One measured ``generate``: time to the first token, whole time, peak memory, first logits."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..cpu.memory import peak_extra_mib

NEW_TOKENS = 16


@dataclass(frozen=True)
class Sample:
    first: float  # seconds to the first token
    whole: float  # seconds to the last one
    tokens: int  # how many there are
    peak_mib: float  # beyond what was there before: the weights, the inputs
    logits: Tensor  # [B, V] of the first token

    def longer_by(self, seconds: float) -> Sample:
        return replace(self, first=self.first + seconds, whole=self.whole + seconds)


class FirstToken:
    """A stopping criterion that stops nothing and notes when the first token is there."""

    def __init__(self) -> None:
        self.time: float | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if self.time is None:
            self.time = now(input_ids.device)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def first_token(model: Any, inputs: dict[str, Tensor]) -> Sample:
    """Greedy generation of one token."""
    return generate(model, inputs, 1)


def generate(model: Any, inputs: dict[str, Tensor], tokens: int = NEW_TOKENS) -> Sample:
    """Greedy generation of so many tokens."""
    on_gpu = model.device.type == "cuda"
    first = FirstToken()
    results: list[Any] = []

    def call() -> tuple[()]:
        results.append(now(model.device))
        output = model.generate(
            **inputs,
            max_new_tokens=tokens,
            do_sample=False,
            stopping_criteria=[first],
            return_dict_in_generate=True,
            output_logits=True,
        )
        results.append(now(model.device))
        results.append(output.logits[0])
        return ()

    peak = (_peak_on_gpu if on_gpu else _peak)(call)
    start, end, logits = results
    assert first.time is not None
    return Sample(first.time - start, end - start, tokens, peak, logits)


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak(call: Any) -> float:
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back, so that it is not counted before
    return peak_extra_mib(call)


def _peak_on_gpu(call: Any) -> float:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return (torch.cuda.max_memory_allocated() - before) / 2**20
