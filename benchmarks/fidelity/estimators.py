"""The estimators of sensitivity that ``make fidelity`` compares, in every dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import zoprune_kernels as zk
from zoprune_kernels import reference

from ..baselines import paper_sensitivity

STEP, PAPER_M = 0.01, 64  # the paper's
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Tokens:
    """One image's tokens and a projector, float64, and the seed of what is random."""

    x: Tensor  # [N, d]
    w1: Tensor  # [H, d]
    b1: Tensor  # [H]
    w2: Tensor  # [D, H]
    b2: Tensor  # [D]

    def to(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        x, w1, b1, w2, b2 = (t.to(dtype) for t in (self.x, self.w1, self.b1, self.w2, self.b2))
        return x, w1, b1, w2, b2

    def truth(self, m: int) -> Tensor:
        """The paper's score with m directions that no estimator has, in float64: [N]."""
        u = zk.directions(m, self.x.shape[1], seed=987654321).double()
        step = max(1, 2**24 // (self.w1.shape[0] * len(self.x)))
        total = self.x.new_zeros(len(self.x))
        for some in u.split(step):
            total += len(some) * reference.sensitivity(
                self.x, self.w1, self.b1, self.w2, some, step=STEP
            )
        return total / m

    def keys(self) -> Tensor:
        hidden = torch.nn.functional.gelu(self.x @ self.w1.T + self.b1)
        return (hidden @ self.w2.T + self.b2).float()


@dataclass(frozen=True)
class Estimator:
    """One row: a name, a dtype, m and h where it has them, and the scores [N] for a seed."""

    name: str
    dtype: str
    run: Callable[[Tokens, int], Tensor]
    m: int | None = None
    step: float | None = None

    @property
    def chance(self) -> bool:
        return self.m is not None


def estimators() -> Iterator[Estimator]:
    for dtype in DTYPES:
        yield Estimator("closed form", dtype, closed(DTYPES[dtype]))
    for dtype in DTYPES:
        yield along("rewritten", dtype, PAPER_M, STEP)
    for dtype in DTYPES:
        yield literal(dtype, STEP)
    for m in (1, 2, 4, 8, 16, 32, 128, 256):
        yield along("rewritten", "fp32", m, STEP)
    for m in (4, 8, 16, 64):
        yield along("rewritten, orthogonal", "fp32", m, STEP, "orthogonal")
    for step in (0.0, 0.001, 0.1, 1.0):
        yield along("rewritten", "fp32", PAPER_M, step)
    for dtype in DTYPES:
        for step in (0.001, 0.1, 1.0):
            yield literal(dtype, step)


def closed(dtype: torch.dtype) -> Callable[[Tokens, int], Tensor]:
    def run(tokens: Tokens, seed: int) -> Tensor:
        x, w1, b1, w2, _ = tokens.to(dtype)
        return zk.expected_sensitivity(x, w1, b1, zk.fold_metric(w1, w2))

    return run


def along(name: str, dtype: str, m: int, step: float, distribution: str = "sphere") -> Estimator:
    def run(tokens: Tokens, seed: int) -> Tensor:
        x, w1, b1, w2, _ = tokens.to(DTYPES[dtype])
        u = zk.directions(m, x.shape[1], distribution=distribution, seed=seed, dtype=x.dtype)
        return zk.sensitivity(x, w1, b1, w2, u, step=step)

    return Estimator(name, dtype, run, m, step)


def literal(dtype: str, step: float) -> Estimator:
    def run(tokens: Tokens, seed: int) -> Tensor:
        inputs = tokens.to(DTYPES[dtype])
        u = zk.directions(PAPER_M, tokens.x.shape[1], seed=seed, dtype=DTYPES[dtype])
        return paper_sensitivity(*inputs, u, step).float()

    return Estimator("paper-literal", dtype, run, PAPER_M, step)
