"""What numbers are measured on and with, and where they are kept."""

from __future__ import annotations

import datetime
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

import zoprune_kernels
from zoprune_kernels import backend

from .git import commit

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
OPS = (
    "directions",
    "fold_metric",
    "expected_sensitivity",
    "sensitivity",
    "score_and_select",
    "project_and_select",
    "select",
)


def machine() -> dict[str, Any]:
    """This CPU, the software on it and the backends that serve the operators."""
    served = {op: backend.candidates(op, "cpu") for op in OPS}
    return {
        "device": "cpu",
        "name": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "zoprune_kernels": zoprune_kernels.__version__,
        "backends": {
            op: next(name for name, reason in found if reason is None)
            for op, found in served.items()
        },
        "date": now(),
        "commit": commit(),
    }


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes")


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def file_name(device: str) -> str:
    """A device's name as a file name: lower case, words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".json"
