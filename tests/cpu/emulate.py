"""python -m tests.cpu.emulate [processor]: every operator on x86-64 processors that are not here.

Runs the certified calls of zoprune_kernels.testing in QEMU's user mode (qemu-x86_64, 7.2 or newer,
of Debian's package qemu-user-static), which ends the program at an instruction that the processor
lacks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ISA = {"Nehalem": "scalar", "Haswell": "avx2"}  # the newest that QEMU knows is AVX2
CALLS = """if True:
    import ctypes, torch
    torch.set_num_threads(1)
    from zoprune_kernels import _native, testing
    calls = [call for dtype in testing.DTYPES for call in testing.calls(dtype)]
    checks = [check for call in calls for check in call.check()]
    wrong = [str(check) for check in checks if not check.passed]
    assert checks and not wrong, wrong
    library = ctypes.CDLL(str(_native.LIBRARY))
    library.zoprune_cpu_isa.restype = ctypes.c_char_p
    print(library.zoprune_cpu_isa().decode(), len(checks))
"""


def main(*processors: str) -> int:
    qemu = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
    if qemu is None:
        print("qemu-x86_64: not found; install Debian's qemu-user-static or the like")
        return 1
    # QEMU's own child would be this processor's again, so the interpreter itself is what it runs.
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": path}
    for processor in processors or ISA:
        command = [qemu, "-cpu", processor, os.path.realpath(sys.executable), "-c", CALLS]
        run = subprocess.run(command, env=environment, text=True, capture_output=True)
        isa, count = (run.stdout.split() or ["", ""])[-2:]
        if run.returncode or isa != ISA.get(processor, isa):
            print(f"{processor}: failed with {isa or 'no'} kernels\n{run.stderr[-3000:]}")
            return 1
        print(f"{processor}: {isa} kernels, {count} results certified", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
