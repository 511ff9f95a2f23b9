"""``python -m benchmarks.cpu.precision``: errors of scores against fp64 on the same rounded inputs.

A random projector of LLaVA-1.5's shape, 64 tokens. Strong units: columns of W2 scaled to carry half
of the energy, where roundings of few terms average out least.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

import zoprune_kernels as zk
from zoprune_kernels import reference

from .. import shapes

TOKENS, FEW = 64, 4  # of tokens, of directions
CASES = {
    torch.float32: (0, 4),
    torch.bfloat16: (0, 64, 16, 4),
    torch.float16: (0, 4),
}


def error(actual: Tensor, exact: Tensor) -> str:
    each = ((actual.double() - exact) / exact).abs()
    return f"{each.max():.1e} ({each.mean():.0e})"


def measure(dtype: torch.dtype, strong: int) -> tuple[str, str]:
    """Largest (mean) relative errors of sensitivity and of expected_sensitivity."""
    shape, generator = shapes.LLAVA, torch.Generator().manual_seed(0)
    w1 = torch.rand(shape.hidden, shape.inputs, generator=generator) * 2 - 1
    w2 = torch.rand(shape.outputs, shape.hidden, generator=generator) * 2 - 1
    if strong:
        w2[:, :strong] *= math.sqrt((shape.hidden - strong) / strong)
    x = torch.randn(TOKENS, shape.inputs, generator=generator)
    x, w1, w2 = (
        t.to(dtype) for t in (x, w1 / math.sqrt(shape.inputs), w2 / math.sqrt(shape.hidden))
    )
    u = zk.directions(FEW, shape.inputs, seed=3)
    sampled = zk.sensitivity(x, w1, None, w2, u, step=shapes.STEP)
    exact = reference.sensitivity(
        x.double(), w1.double(), None, w2.double(), u.double(), step=shapes.STEP, activation="gelu"
    )
    metric = zk.fold_metric(w1, w2)
    closed = zk.expected_sensitivity(x, w1, None, metric)
    form = reference.expected_sensitivity(
        x.double(), w1.double(), None, metric.double(), activation="gelu"
    )
    return error(sampled, exact), error(closed, form)


def main() -> None:
    print("| inputs | strong units | sensitivity | expected_sensitivity |\n|---|---|---|---|")
    for dtype, counts in CASES.items():
        name = str(dtype).removeprefix("torch.")
        for strong in counts:
            sampled, closed = measure(dtype, strong)
            print(f"| {name} | {strong or 'none'} | {sampled} | {closed} |", flush=True)


if __name__ == "__main__":
    main()
