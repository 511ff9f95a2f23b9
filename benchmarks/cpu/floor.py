"""``python -m benchmarks.cpu.floor``: what the closed form costs in projector forwards, by part.

Processor time of one thread, taken in turns, which other work on the machine disturbs least; the
load goes into the result. ``--output benchmarks/results/floor-<cpu>.json`` keeps it, and rows of
other shapes and dtypes that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

import zoprune_kernels as zk
from zoprune_kernels import _native

from .. import baselines
from ..machine import machine
from ..shapes import DTYPES, LLAVA, LLAVA_NEXT, QWEN, STEP, Inputs, Shape, make_inputs
from ..timing import in_turns

SMALL = [Shape(f"LLaVA-1.5, {n} tokens", n, 1024, 4096, 4096, (n // 4,)) for n in (64, 256)]
SHAPES = [LLAVA, LLAVA_NEXT, QWEN, *SMALL]
BATCH = 8
ROWS = 2048  # of the bare product
FEW = 4  # directions measured


def calls(inputs: Inputs) -> dict[str, Callable[[], Any]]:
    """The whole and its parts; the first is what the others are compared with."""
    x, w1, b1, w2, b2 = inputs.x, *inputs.layers
    k, metric, keys, scores = inputs.shape.keep[0], inputs.metric, inputs.keys, inputs.scores
    hidden = F.gelu(F.linear(x, w1, b1))
    rows = torch.randn(ROWS, w2.shape[1]).to(x.dtype)
    batch = x.expand(BATCH, *x.shape).contiguous()
    found: dict[str, Callable[[], Any]] = {
        "projector": lambda: baselines.projector(x, w1, b1, w2, b2),
        "project_and_select": lambda: zk.project_and_select(x, w1, b1, w2, b2, k, metric=metric),
        "expected_sensitivity": lambda: zk.expected_sensitivity(x, w1, b1, metric),
        "F.linear, first layer": lambda: F.linear(x, w1, b1),
        "F.gelu": lambda: F.gelu(hidden),
        "F.linear, second layer": lambda: F.linear(hidden, w2, b2),
        "select": lambda: zk.select(scores, keys, k),
    }
    if inputs.shape in SMALL:
        found[f"projector, batch {BATCH}"] = lambda: baselines.projector(batch, w1, b1, w2, b2)
        found[f"project_and_select, batch {BATCH}"] = lambda: zk.project_and_select(
            batch, w1, b1, w2, b2, k, metric=metric
        )
    if inputs.shape in (LLAVA, LLAVA_NEXT):
        for first in ("score", "isolated"):
            found[f"select, maxmin, first={first}"] = lambda first=first: zk.select(
                scores, keys, k, method="maxmin", first=first
            )
    if inputs.shape is LLAVA:
        u = inputs.directions[:FEW]
        found[f"sensitivity, m = {FEW}"] = lambda: zk.sensitivity(x, w1, b1, w2, u, step=STEP)
        found[f"F.linear, {ROWS} rows"] = lambda: F.linear(rows, w2)
        found["fold_metric"] = lambda: zk.fold_metric(w1, w2)
        found["fold_metric, PyTorch"] = lambda: baselines.fold(w1, w2)
    if inputs.shape is LLAVA and x.dtype == torch.bfloat16:
        found |= half_calls(inputs)
    return found


def half_calls(inputs: Inputs) -> dict[str, Callable[[], Any]]:
    """The same calls in fp16, compared with the bf16 forward."""
    x, w1, b1, w2, b2 = (tensor.half() for tensor in (inputs.x, *inputs.layers))
    k, metric, u = inputs.shape.keep[0], zk.fold_metric(w1, w2), inputs.directions[:FEW]
    return {
        "projector, fp16": lambda: baselines.projector(x, w1, b1, w2, b2),
        "project_and_select, fp16": lambda: zk.project_and_select(
            x, w1, b1, w2, b2, k, metric=metric
        ),
        "expected_sensitivity, fp16": lambda: zk.expected_sensitivity(x, w1, b1, metric),
        f"sensitivity, m = {FEW}, fp16": lambda: zk.sensitivity(x, w1, b1, w2, u, step=STEP),
        "fold_metric, fp16": lambda: zk.fold_metric(w1, w2),
    }


def measure(shape: Shape, dtype: str, rounds: int) -> list[dict[str, Any]]:
    functions = calls(make_inputs(shape, DTYPES[dtype]))
    for function in functions.values():
        function()
    times = in_turns(functions, rounds, clock=time.thread_time)
    floor = times["projector"]
    return [
        {
            "shape": shape.name,
            "dtype": dtype,
            "call": name,
            "ms": 1e3 * taken.median,
            "projectors": taken.ratio_to(floor),
        }
        for name, taken in times.items()
    ]


def keep(path: Path, rows: list[dict[str, Any]]) -> None:
    """Puts rows in the place of those of the same shape and dtype."""
    found = json.loads(path.read_text()) if path.exists() else {"rows": []}
    new = {(row["shape"], row["dtype"]) for row in rows}
    others = [row for row in found["rows"] if (row["shape"], row["dtype"]) not in new]
    about = machine() | {"clock": "processor time, one thread"}
    about |= {"instruction_set": _native.cpu_isa(), "load": os.getloadavg()}
    path.write_text(json.dumps({"machine": about, "rows": others + rows}, indent=1) + "\n")


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of calls, columns of shapes: projector forwards."""
    found = {(row["dtype"], row["shape"]) for row in rows}
    columns = [(d, s.name) for d in DTYPES for s in SHAPES if (d, s.name) in found]
    cells = {(row["call"], row["dtype"], row["shape"]): row["projectors"]["ratio"] for row in rows}
    lines = ["| call | " + " | ".join(f"{shape}, {dtype}" for dtype, shape in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for call in dict.fromkeys(row["call"] for row in rows):
        ratios = [cells.get((call, *column)) for column in columns]
        texts = ["" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        lines.append(f"| {call} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=[shape.name for shape in SHAPES], action="append")
    parser.add_argument("--dtype", choices=list(DTYPES), action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="a result file, of which other rows stay")
    parser.add_argument("--table", type=Path, help="print what a result file has, measure nothing")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text())["rows"]))
        return
    torch.set_num_threads(1)
    with torch.inference_mode():
        for dtype in options.dtype or DTYPES:
            for shape in SHAPES:
                if options.shape and shape.name not in options.shape:
                    continue
                rows = measure(shape, dtype, options.rounds)
                for row in rows:
                    ratio = row["projectors"]
                    print(
                        f"{shape.name:24}{dtype:6}{row['call']:30}{row['ms']:10.2f} ms"
                        f"{ratio['ratio']:8.2f} x  spread {ratio['spread']:.0%}",
                        flush=True,
                    )
                if options.output:
                    keep(options.output, rows)


if __name__ == "__main__":
    main()
