"""Peak memory of one call beyond its inputs and outputs, each measured in a process of its own.

``python -m benchmarks.cpu.memory CASE SHAPE DTYPE`` prints one number in MiB. Linux only: it
resets the peak that the kernel keeps (VmHWM) by writing to /proc/self/clear_refs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import zoprune_kernels as zk
from zoprune_kernels.testing import patches

from .. import baselines
from ..shapes import DTYPES, LLAVA, MANY_TOKENS, STEP, TINY, Inputs, make_inputs

SHAPES = {shape.name: shape for shape in (LLAVA, MANY_TOKENS, TINY)}

# Freed blocks go back to the system at once, so that resident memory is memory in use.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def _sensitivity(inputs: Inputs) -> Callable[[], Any]:
    w1, b1, w2, _ = inputs.layers
    return partial(zk.sensitivity, inputs.x, w1, b1, w2, inputs.directions, step=STEP)


def _expected_sensitivity(inputs: Inputs) -> Callable[[], Any]:
    w1, b1, w2, _ = inputs.layers
    return partial(zk.expected_sensitivity, inputs.x, w1, b1, zk.fold_metric(w1, w2))


def _pruned(op: Callable[..., Any], inputs: Inputs) -> Callable[[], Any]:
    metric = zk.fold_metric(inputs.w1, inputs.w2)
    return partial(op, inputs.x, *inputs.layers, inputs.shape.keep[0], metric=metric)


def _fold_metric(inputs: Inputs) -> Callable[[], Any]:
    return partial(zk.fold_metric, inputs.w1, inputs.w2)


def _select(inputs: Inputs) -> Callable[[], Any]:
    tokens, features = inputs.shape.tokens, inputs.shape.outputs
    keys = patches(tokens, features, torch.Generator().manual_seed(0)).to(inputs.x.dtype)
    return partial(zk.select, keys[:, 0].float(), keys, inputs.shape.keep[0])


def _paper(score: Callable[..., Tensor], inputs: Inputs) -> Callable[[], Any]:
    return partial(score, inputs.x, *inputs.layers, inputs.directions, STEP)


# name -> (operator, variant, directions, the call to measure)
CASES: dict[str, tuple[str, str, int, Callable[[Inputs], Callable[[], Any]]]] = {
    "fold_metric": ("fold_metric", "once per model", 1, _fold_metric),
    "expected_sensitivity": ("expected_sensitivity", "closed form", 1, _expected_sensitivity),
    "sensitivity-16": ("sensitivity", "m = 16", 16, _sensitivity),
    "sensitivity-128": ("sensitivity", "m = 128", 128, _sensitivity),
    "select": ("select", "", 1, _select),
    "score_and_select": (
        "score_and_select",
        "closed form",
        1,
        partial(_pruned, zk.score_and_select),
    ),
    "project_and_select": (
        "project_and_select",
        "closed form",
        1,
        partial(_pruned, zk.project_and_select),
    ),
    "paper": (
        "paper-literal scores",
        "m = 16, one by one",
        16,
        partial(_paper, baselines.paper_sensitivity),
    ),
    "published": (
        "paper-literal scores",
        "m = 64, one batch",
        64,
        partial(_paper, baselines.published_sensitivity),
    ),
}


def measure(case: str, shape: str, dtype: str) -> dict[str, Any]:
    """A result row: the peak extra memory of one case, from a new process."""
    op, variant, _, _ = CASES[case]
    command = [sys.executable, "-m", "benchmarks.cpu.memory", case, shape, dtype]
    run = subprocess.run(
        command,
        env=os.environ | ENVIRONMENT,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    row: dict[str, Any] = {"op": op, "variant": variant, "shape": shape, "dtype": dtype}
    if run.returncode != 0:
        reason = run.stderr.strip().splitlines()[-1:] or [f"exit status {run.returncode}"]
        return row | {"refused": reason[0]}
    return row | {"extra_mib": float(run.stdout)}


def peak_extra_mib(call: Callable[[], Any]) -> float:
    """Peak resident memory during ``call`` beyond what was there before, less its outputs."""
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    outputs = call()
    peak = _status("VmHWM")
    returned = outputs if isinstance(outputs, tuple) else (outputs,)
    output_bytes = sum(output.numel() * output.element_size() for output in returned)
    return max(0.0, (peak - before) / 1024 - output_bytes / 2**20)


def _status(field: str) -> int:
    """A field of /proc/self/status, in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


def main(case: str, shape: str, dtype: str) -> None:
    _, _, directions, prepare = CASES[case]
    with torch.inference_mode():
        # A tiny call first: thread pools and code paths are set up once and are not the call's own
        prepare(make_inputs(TINY, DTYPES[dtype]))()
        call = prepare(make_inputs(SHAPES[shape], DTYPES[dtype], directions))
        print(f"{peak_extra_mib(call):.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
