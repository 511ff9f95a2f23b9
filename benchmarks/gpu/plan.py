"""The parts of ``make gpu-report`` in the order of their worth, each with its limit in seconds."""

from __future__ import annotations

import importlib.util
import os
import sys

from .runner import ROOT, Part


def measuring(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.gpu.parts", *arguments]


def gpu_tests() -> list[str]:
    """The tests that need a GPU, with the plug-ins that are there.

    Few processes: those that share a GPU take turns on it. Each takes the next test, so that two or
    three are busy with torch.compile's, which tests/conftest.py puts first, and the others go on.
    """
    tests = (ROOT / "tests").rglob("test_gpu_*.py")
    files = sorted(str(t.relative_to(ROOT)) for t in tests if t.stem != "test_gpu_report")
    # pyproject.toml's -q would take the names away that -v gives.
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-v", "--durations=15"]
    command += ["-p", "no:cacheprovider", "-p", "no:benchmark", *files]
    if importlib.util.find_spec("xdist"):
        processes = max(1, min(10, (os.cpu_count() or 1) * 5 // 8))
        command += ["-n", str(processes), "--dist", "load", "--maxschedchunk", "1"]
    if importlib.util.find_spec("pytest_timeout"):
        command += ["--timeout", "60"]
    return command


# A process to a core, and no pools of processes or threads beside them.
ALONE = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
# The library is built only where the one that lies there does not fit; without it nothing counts.
FIRST = {
    "library": Part(measuring("library"), 170, vital=True),
    "check": Part(measuring("check"), 50),
    "gpu-tests": Part(gpu_tests(), 75, package="pytest", environment=ALONE),
    "ceilings": Part(measuring("ceilings"), 15),
    "select-bf16": Part(measuring("selection", "bf16"), 60),
    "scoring-bf16": Part(measuring("scoring", "bf16"), 60),
    "family-bf16": Part(measuring("family", "bf16"), 35),
    "e2e": Part(
        [sys.executable, "-m", "benchmarks.e2e", "--device", "cuda"], 105, package="transformers"
    ),
    "memcheck": Part(measuring("sanitizer", "memcheck"), 70),
}
SECOND = {
    "profile": Part(measuring("profile"), 100),
    "racecheck": Part(measuring("sanitizer", "racecheck"), 90),
    "select-fp16": Part(measuring("selection", "fp16"), 60),
    "scoring-fp16": Part(measuring("scoring", "fp16"), 60),
    "family-fp16": Part(measuring("family", "fp16"), 35),
}
ASKED_FOR = {  # by --only
    "vllm": Part(
        [sys.executable, "-m", "benchmarks.vllm", "--device", "cuda"], 300, package="vllm"
    ),
}
PARTS = FIRST | SECOND | ASKED_FOR
NEEDED = ("library",)  # before any other part
