"""Builds csrc/cuda's selections for the CPU, every CUDA thread a fiber, and runs cases on them.

Everything runs but the few instructions of csrc/cuda/ptx.cuh, which tests/cuda/shim replaces.
"""

from __future__ import annotations

import os
import platform
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.cuda.shim_cases import Case, expected

ROOT = Path(__file__).parents[2]
SHIM = ROOT / "tests" / "cuda" / "shim"
# What the programs are built of: tests/proofs.py
SHIM_SOURCES = (
    "csrc/cuda",
    "csrc/include",
    "tests/cuda/shim",
    "tests/cuda/shim_cases.py",
    "tests/cuda/on_cpu.py",
)
FLAGS = "-std=c++17 -O1 -g1 -Wall -Wextra -Wno-unknown-pragmas -ffp-contract=off"

needs_compiler = pytest.mark.skipif(
    platform.machine() != "x86_64" or not shutil.which("g++"),
    reason="the shim needs g++ on x86-64",
)


def build(folder: Path, sanitize: str) -> Path:
    """The program of tests/cuda/shim/select_main.cpp, under a sanitizer."""
    built = folder / "select_main"
    includes = [f"-I{SHIM}", f"-I{ROOT / 'csrc/include'}", f"-I{ROOT / 'csrc'}"]
    sources = [*sorted((ROOT / "csrc/cuda").rglob("*.cu")), SHIM / "select_main.cpp"]
    command = ["g++", *FLAGS.split(), *sanitize.split(), *includes, "-x", "c++", *sources]
    subprocess.run([*command, "-o", built], check=True)
    return built


def run(executable: Path, cases: list[Case], plant: str = "") -> subprocess.CompletedProcess:
    folder = executable.parent
    content = struct.pack("q", len(cases)) + b"".join(case.encode() for case in cases)
    (folder / "cases").write_bytes(content)
    command = [executable, folder / "cases", folder / "results", *([plant] if plant else [])]
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def select(executable: Path, cases: list[Case]) -> list[np.ndarray]:
    """The picks of each case."""
    finished = run(executable, cases)
    assert finished.returncode == 0, finished.stderr[-4000:]
    picks = np.fromfile(executable.parent / "results", np.int64)
    return np.split(picks, np.cumsum([case.total_keep for case in cases])[:-1])


def differences(cases: list[Case], results: list[np.ndarray]) -> list[str]:
    """The cases whose picks are not those of plain greedy."""
    found = []
    for number, (case, got) in enumerate(zip(cases, results, strict=True)):
        want = expected(case)
        if not np.array_equal(got, want):
            found.append(f"case {number}: {case}\ngot  {got}\nwant {want}")
    return found
