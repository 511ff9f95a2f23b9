"""Reads a cubin's resource use and instructions with the disassembler that Triton ships."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import triton

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# An instruction's name without its modifiers, behind its address and predicate.
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@\S+ )?([A-Z0-9]+)", re.MULTILINE)
# Matrix instructions of Ampere, Hopper and Blackwell (fp16/bf16/tf32).
_TENSOR_CORE = ("HMMA", "HGMMA", "UTCHMMA", "UTCQMMA")
_TMA = ("UTMALDG",)
_SPILL = ("LDL", "STL")


class Code(NamedTuple):
    """Registers per thread, and counts of instructions."""

    registers: int
    spills: int
    tensor_core: int
    tma: int


def read(cubin: bytes) -> Code:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        return count(run("cuobjdump", "-res-usage", path), run("nvdisasm", "-c", path))


def count(usage: str, code: str) -> Code:
    """One kernel's resource usage and machine code in numbers."""
    registers = re.search(r"REG:(\d+)", usage)
    assert registers, usage
    found = Counter(_INSTRUCTION.findall(code))
    counts = (sum(found[name] for name in names) for names in (_SPILL, _TENSOR_CORE, _TMA))
    return Code(int(registers[1]), *counts)


def run(tool: str, *arguments: str | Path) -> str:
    done = subprocess.run([_TOOLS / tool, *arguments], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr
