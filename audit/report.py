"""One row per compiled kernel: what it uses, and what is wrong with it."""

from __future__ import annotations

from typing import NamedTuple

# Shared memory that one block may use, bytes, by compute capability (CUDA C++ programming guide).
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}


class Row(NamedTuple):
    """``products``: whether the kernel multiplies matrices, and so must use the tensor cores.

    ``waits``: whether it waits for the kernel before it touches memory; ``chained``: whether it
    must, because it may be started ahead of that one's end.
    """

    kernel: str
    dtype: str
    capability: int
    registers: int
    shared: int
    spills: int
    tensor_core: int
    tma: int
    products: bool
    waits: bool = False
    chained: bool = False

    def problems(self) -> list[str]:
        found = []
        if self.spills:
            found.append(f"{self.spills} spill instructions")
        if self.products and not self.tensor_core:
            found.append("no tensor-core instruction")
        if self.waits != self.chained:
            found.append("memory before the wait" if self.chained else "waits in vain")
        if self.shared > SHARED_LIMIT[self.capability]:
            found.append(f"more than {SHARED_LIMIT[self.capability]} bytes of shared memory")
        return found


def table(rows: list[Row]) -> str:
    """The rows as text, ending with the number of problems."""
    head = (
        f"{'kernel':46}{'dtype':10}{'target':8}{'registers':>10}{'shared KB':>11}{'spills':>8}"
        f"{'tensor':>8}{'TMA':>5}  problems"
    )
    lines = [head]
    for row in rows:
        lines.append(
            f"{row.kernel:46}{row.dtype:10}sm_{row.capability:<5}{row.registers:>10}"
            f"{row.shared / 1024:>11.1f}{row.spills:>8}{row.tensor_core:>8}{row.tma:>5}"
            f"  {'; '.join(row.problems()) or '-'}"
        )
    bad = sum(bool(row.problems()) for row in rows)
    return "\n".join([*lines, f"{len(rows)} kernels, {bad} with problems"])
