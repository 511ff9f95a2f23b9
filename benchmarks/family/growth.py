"""How the family's times grow with N and k; ``benchmarks.charts`` draws them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import zoprune_kernels as zk
from zoprune_kernels.testing import patches

Row = dict[str, Any]
DIM = 1024
TOKENS, FEW = (512, 1024, 2048, 4096, 8192, 16384), 64  # N, at this k
KEEP, MANY = (16, 32, 64, 128, 256, 512, 1024), 4096  # k, at this N
SHORTEST_SAMPLE = 0.2  # seconds
LINES: dict[str, Callable[[Tensor, Tensor, int], Any]] = {
    "select, sads": lambda s, keys, k: zk.select(s, keys, k),
    "select_suppress": lambda s, keys, k: zk.select_suppress(
        s, keys, k, rule="exponential", sigma_similarity=0.05
    ),
    "select_dpp": lambda s, keys, k: zk.select_dpp(s, keys, k),
    "merge": lambda s, keys, k: torch.ops.zoprune.merge(keys, keys, torch.arange(k)),
    "select_coverage": lambda s, keys, k: zk.select_coverage(s, keys, k),
}


def measure(progress: Callable[[str], None]) -> list[Row]:
    """Seconds of every line's operator at each N and k, fp32 keys of ``DIM`` dimensions."""
    places = [(tokens, FEW) for tokens in TOKENS] + [(MANY, k) for k in KEEP if k != FEW]
    rows = []
    for tokens, k in places:
        keys = patches(tokens, DIM, torch.Generator().manual_seed(0))
        scores = keys[:, 0] - keys[:, 0].min() + 1e-6
        for name, run in LINES.items():
            progress(f"growth: {name}, {tokens} to {k}")
            rows.append(
                {"line": name, "tokens": tokens, "k": k, "seconds": shortest(run, scores, keys, k)}
            )
    return rows


def shortest(run: Callable[[Tensor, Tensor, int], Any], *arguments: Any) -> float:
    """The shortest of the calls that fit the time of a sample, a slow one being called once."""
    times: list[float] = []
    while sum(times) < SHORTEST_SAMPLE:
        start = time.perf_counter()
        run(*arguments)
        times.append(time.perf_counter() - start)
    return min(times)
