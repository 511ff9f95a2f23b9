"""Parts of ``make gpu-report`` that run in this package: ``python -m benchmarks.gpu.parts PART``.

    selection DTYPE | family DTYPE | scoring DTYPE | ceilings | sanitizer TOOL | sanitized

Each writes what it found to the file that ``ZOPRUNE_PART_OUTPUT`` names, after every row, so that
a time limit loses no more than the row at hand.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import zoprune_kernels as zk

from .. import verify
from . import cases as gpu_cases
from . import timing as gpu_timing


def write(content: dict[str, Any]) -> None:
    if path := os.environ.get("ZOPRUNE_PART_OUTPUT"):
        Path(path).write_text(json.dumps(content))


def measure(group: str, dtype: str) -> int:
    rows = []
    with torch.inference_mode():
        for row in gpu_cases.measure(group, dtype):
            rows.append(row)
            write({"rows": rows})
            print(row["op"], row["variant"], row["shape"], row.get("refused", row.get("seconds")))
    return int(any("refused" in row for row in rows))


def ceilings() -> int:
    found = {"copy, read and written": f"{gpu_timing.copy_bandwidth() / 1e12:.2f} TB/s"}
    for dtype in (torch.bfloat16, torch.float16):
        name = f"8192^3 matrix product, {str(dtype).removeprefix('torch.')}"
        found[name] = f"{gpu_timing.matrix_rate(dtype) / 1e12:.0f} TFLOP/s"
        write({"ceilings": found})
    return 0


def sanitizer(tool: str) -> int:
    """Runs ``sanitized`` under compute-sanitizer; reports where that does not work at all."""
    executable = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(executable).exists():
        print("compute-sanitizer is not installed")
        return 1
    # Every tensor an allocation of its own, so that a step beyond it is seen.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = [executable, "--tool", tool, "--error-exitcode", "9", "--kernel-name"]
    command += ["kernel_substring=select_kernel", sys.executable, "-m", "benchmarks.gpu.parts"]
    return subprocess.run([*command, "sanitized"], env=environment).returncode


def sanitized() -> int:
    """A few selections of every kind, small enough for compute-sanitizer."""
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for images, tokens, dim, k in ((1, 63, 24, 20), (2, 300, 520, 150), (1, 131, 7, 5)):
            scores = torch.rand(images, tokens, device="cuda")
            keys = torch.randn(images, tokens, dim, device="cuda").to(dtype)
            picks = zk.select(scores, keys, k, valid=scores > 0.1, max_similarity=0.9)
            assert picks.shape == (images, k)
            zk.select(scores, keys, k, first="isolated", centre=True, picks_per_step=4)
            zk.select_dpp(scores, keys, k, must_keep=scores > 0.95)
            zk.select_suppress(scores, keys, k, rule="exponential", valid=scores > 0.1)
            zk.select_coverage(scores, keys, k, scores, scores > 0.95, sort=False)
            picks = zk.select(scores, keys, k)
            for image in range(images):
                check = verify.selection(picks[image], scores[image], keys[image])
                assert check.passed, check
            sizes = torch.tensor([0, tokens // 3, tokens], dtype=torch.int32, device="cuda")
            zk.select_varlen(scores[0], keys[0], sizes, sizes, tokens)
    scores, keys = torch.rand(3000, device="cuda"), torch.randn(3000, 8, device="cuda")
    zk.select_coverage(scores, keys, 4)  # too many tokens to keep their cosines
    torch.cuda.synchronize()
    print("all selections are right")
    return 0


def main(arguments: list[str]) -> int:
    name, *rest = arguments
    if name in gpu_cases.GROUPS:
        return measure(name, *rest)
    return {"ceilings": ceilings, "sanitizer": sanitizer, "sanitized": sanitized}[name](*rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
