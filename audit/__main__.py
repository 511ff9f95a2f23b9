"""``python -m audit``: prints the table of all GPU kernels; exit status 1 if any has a problem."""

from __future__ import annotations

import argparse
import sys

import torch

from . import cuda_kernels, specialization, triton_kernels
from .report import Row, table


def main() -> int:
    parser = argparse.ArgumentParser(prog="audit", description=__doc__)
    parser.add_argument("--fast", action="store_true", help="one architecture and dtype only")
    fast = parser.parse_args().fast
    rows: list[Row] = []
    for capability in (90,) if fast else triton_kernels.CAPABILITIES:
        rows += triton_kernels.rows(capability, torch.bfloat16)
        if capability >= 90:  # started ahead of time
            rows += triton_kernels.rows(capability, torch.bfloat16, chained=True)
        if not fast:
            rows += triton_kernels.rows(capability, torch.float16)
            rows += triton_kernels.rows(capability, torch.float32)
            rows += triton_kernels.rows(capability, torch.float32, precision="high")
    try:
        for capability in (90,) if fast else cuda_kernels.CAPABILITIES:
            rows += cuda_kernels.rows(capability)
    except RuntimeError as error:
        print(f"CUDA C++ kernels: not audited: {error}")
    print(table(rows))
    # Pointers and extents on sm_80, tensor descriptors on sm_90.
    traps = [trap for sm in (80, 90) for trap in specialization.traps(sm, torch.bfloat16)]
    print(*traps, f"{len(traps)} launches fail where an integer argument is 1", sep="\n")
    return int(any(row.problems() for row in rows) or bool(traps))


if __name__ == "__main__":
    sys.exit(main())
