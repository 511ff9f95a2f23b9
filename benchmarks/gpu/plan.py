"""The parts of ``make gpu-report`` in the order of their worth, each with its limit in seconds."""

from __future__ import annotations

import importlib.util
import os
import sys

from .runner import ROOT, Part


def measuring(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.gpu.parts", *arguments]


def gpu_tests() -> list[str]:
    """The tests that need a GPU, with the plug-ins that are there."""
    tests = (ROOT / "tests").rglob("test_gpu_*.py")
    files = sorted(str(t.relative_to(ROOT)) for t in tests if t.stem != "test_gpu_report")
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *files]
    if importlib.util.find_spec("xdist"):
        command += ["-n", str(min(14, os.cpu_count() or 1))]
    if importlib.util.find_spec("pytest_timeout"):
        command += ["--timeout", "60"]
    return command


# The library is built only where the one that lies there does not fit; without it nothing counts.
FIRST = {
    "library": Part(measuring("library"), 170, vital=True),
    "check": Part(measuring("check"), 60),
    "gpu-tests": Part(gpu_tests(), 110, package="pytest"),
    "ceilings": Part(measuring("ceilings"), 20),
    "select-bf16": Part(measuring("selection", "bf16"), 40),
    "scoring-bf16": Part(measuring("scoring", "bf16"), 60),
    "family-bf16": Part(measuring("family", "bf16"), 60),
    "e2e": Part(
        [sys.executable, "-m", "benchmarks.e2e", "--device", "cuda"], 105, package="transformers"
    ),
    "memcheck": Part(measuring("sanitizer", "memcheck"), 90),
}
SECOND = {
    "select-fp16": Part(measuring("selection", "fp16"), 40),
    "scoring-fp16": Part(measuring("scoring", "fp16"), 60),
    "family-fp16": Part(measuring("family", "fp16"), 60),
    "profile": Part(measuring("profile"), 60),
    "racecheck": Part(measuring("sanitizer", "racecheck"), 120),
}
ASKED_FOR = {  # by --only
    "vllm": Part(
        [sys.executable, "-m", "benchmarks.vllm", "--device", "cuda"], 300, package="vllm"
    ),
}
PARTS = FIRST | SECOND | ASKED_FOR
NEEDED = ("library",)  # before any other part
