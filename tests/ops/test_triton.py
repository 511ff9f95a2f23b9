"""Runs the Triton kernels on the CPU: under the interpreter, and through the compiler's audit."""

import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from packaging.version import Version

triton = pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.proves(
    "zoprune_kernels/triton",
    "audit",
    "zoprune_kernels/reference",
    "tests/ops/interpreted_triton.py",
)


def run(*arguments: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]


@pytest.mark.skipif(
    Version(triton.__version__) < Version("3.7") and Version(numpy.__version__) >= Version("2.4"),
    reason="Triton 3.6's interpreter converts arrays to scalars, which NumPy 2.4 forbids",
)
def test_kernels_under_the_interpreter():
    run("pytest", "-p", "no:cacheprovider", "tests/ops/interpreted_triton.py", TRITON_INTERPRET="1")


def test_kernels_compile_for_hopper_without_spills_and_with_tensor_cores():
    run("audit", "--fast")
