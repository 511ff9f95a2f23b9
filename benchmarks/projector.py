"""What it costs to read a projector's weights off its forward, and to notice that they changed.

    python -m benchmarks.projector                  # prints
    python -m benchmarks.projector --output benchmarks/results/projector-amd-epyc.json

Each is compared with one forward of the projector for an image's 576 tokens, in turns.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from zoprune import layers
from zoprune.projector import Estimator, find_projector

from .cpu.memory import peak_extra_mib
from .machine import machine
from .timing import in_turns

PREFIX = "projector-"  # of result files
TOKENS = 576


def measure(width: int, dtype: torch.dtype, rounds: int) -> dict[str, Any]:
    """Times over one forward, and MiB beyond what was there, of a width x width projector."""
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(1024, width), nn.GELU(), nn.Linear(width, width)).to(dtype)
    mlp[2].register_forward_hook(lambda *_: None)  # no plain layer any more: its forward is asked
    projector = find_projector(mlp)
    x = torch.randn(TOKENS, 1024, dtype=dtype)
    with torch.no_grad():
        probe = layers.probes(1024, dtype, x.device)
        calls = {
            "forward": lambda: mlp(x),
            "probe": lambda: projector.project(probe),
            "effective weight": lambda: layers.weights(mlp[2], dtype),
        }
        for call in calls.values():
            call()
        times = in_turns(calls, rounds)
        peak = peak_extra_mib(calls["effective weight"])
        projector.fold(Estimator())
    held = sum(
        t.numel() * t.element_size()
        for fold, _ in projector.folds._folds
        for t in (fold.w1, fold.metric)
    )
    return {
        "width": width,
        "dtype": str(dtype).removeprefix("torch."),
        "tokens": TOKENS,
        "seconds": {name: found.median for name, found in times.items()},
        "over_forward": {
            name: times[name].ratio_to(times["forward"]) for name in ("probe", "effective weight")
        },
        "peak_mib": peak,
        "held_mib": held / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = [
        measure(options.width, dtype, options.rounds) for dtype in (torch.float32, torch.bfloat16)
    ]
    for row in rows:
        ratios, size = row["over_forward"], row["width"]
        print(
            f"{size} x {size} {row['dtype']}: probe {ratios['probe']['ratio']:.2f}, "
            f"effective weight {ratios['effective weight']['ratio']:.1f} forwards of {TOKENS} "
            f"tokens; {row['peak_mib']:.0f} MiB at most, {row['held_mib']:.0f} MiB kept"
        )
    if options.output:
        result = {"machine": machine(), "rows": rows}
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
