"""Triton's launcher with the real kernels and descriptors, on a driver that runs nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.proves(
    "zoprune_kernels/triton",
    "tests/cuda/fake_driver",
    "tests/cuda/launched_triton.py",
    "tests/cuda/replayed_triton.py",
)


@pytest.mark.skipif(not shutil.which("g++"), reason="the fake driver needs g++")
def test_launches_are_valid(tmp_path):
    source = ROOT / "tests/cuda/fake_driver/fake_cuda.cpp"
    include = Path(triton.__file__).parent / "backends/nvidia/include"  # it brings cuda.h
    command = ["g++", "-shared", "-fPIC", "-Wall", "-Werror", f"-I{include}", source]
    subprocess.run([*command, "-o", tmp_path / "libcuda.so.1"], check=True)
    environment = {"LD_LIBRARY_PATH": tmp_path, "TRITON_LIBCUDA_PATH": tmp_path}
    files = ("launched_triton.py", "replayed_triton.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT / "tests/cuda",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
