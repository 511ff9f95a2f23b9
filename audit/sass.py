"""Reads a cubin's resource use and instructions with the disassembler that Triton ships."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import triton

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# Matrix instructions of Ampere, Hopper and Blackwell (fp16/bf16/tf32).
_TENSOR_CORE = re.compile(r"\b(?:HMMA|HGMMA|UTCHMMA|UTCQMMA)\b")
_TMA = re.compile(r"\bUTMALDG\b")
_SPILL = re.compile(r"\b(?:LDL|STL)\b")


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
    counts = (len(pattern.findall(code)) for pattern in (_SPILL, _TENSOR_CORE, _TMA))
    return Code(int(registers[1]), *counts)


def run(tool: str, *arguments: str | Path) -> str:
    done = subprocess.run([_TOOLS / tool, *arguments], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr
