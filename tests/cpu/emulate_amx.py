"""python -m tests.cpu.emulate_amx [tests]: tests of the operators with the kernels for AMX.

Builds the library as it is, but for its question whether there is AMX, and runs the tests on a copy
of the tree with the tile instructions carried out by amx.cpp, in ten minutes. Where Linux
lets the process use the processor's own tiles, those are tested.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "amx"
TESTS = ("tests/ops", "tests/cpu", "tests/adapters")


def main(*arguments: str) -> int:
    options = ["-DZOPRUNE_CUDA=OFF", "-DZOPRUNE_ASSUME_AMX=ON"]
    options.append(f"-DPython3_EXECUTABLE={sys.executable}")
    configure = ["cmake", "-S", ROOT, "-B", BUILD / "cmake", "-GNinja", *options]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", BUILD / "cmake"], check=True)
    emulator = BUILD / "amx.so"
    compile_emulator = "g++ -std=c++17 -O2 -mavx512f -shared -fPIC".split()
    subprocess.run([*compile_emulator, ROOT / "tests/cpu/amx.cpp", "-o", emulator], check=True)
    tree = BUILD / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    left_out = shutil.ignore_patterns("build", "dist", ".git", ".venv", "__pycache__")
    shutil.copytree(ROOT, tree, ignore=left_out)
    shutil.copy2(BUILD / "cmake" / "libzoprune.so", tree / "zoprune_kernels")
    environment = os.environ | {
        "LD_PRELOAD": str(emulator),
        "ZOPRUNE_CPU_ISA": "amx",
        "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'python'}",
        "OMP_NUM_THREADS": "1",
        # Here and in processes of tests, without pytest's own handler of the signal that amx.cpp
        # answers, and with programs that AddressSanitizer watches.
        "PYTEST_ADDOPTS": "-p no:faulthandler",
        "ASAN_OPTIONS": "verify_asan_link_order=0",
    }
    pytest = [sys.executable, "-m", "pytest", "-n", "0"]
    return subprocess.run([*pytest, *(arguments or TESTS)], cwd=tree, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
