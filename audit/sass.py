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
# What waits for the kernel before, and what must not come before that: accesses to global memory,
# and ends and jumps to where the code does not say.
_WAIT = "ACQBULK"
_LATER = {"LD", "LDG", "LDGSTS", "ST", "STG", "ATOM", "ATOMG", "RED", "REDG", "UBLKCP", "PREEXIT"}
_LATER |= {"UTMALDG", "UTMASTG", "UTMAREDG", "BRX", "BRXU", "JMP", "JMX", "JMXU", "RET", "EXIT"}
_LABEL, _TARGET = re.compile(r"^(\.\w+):", re.MULTILINE), re.compile(r"`\((.+?)\)")


class Code(NamedTuple):
    """Registers per thread, counts of instructions, and whether it waits for the kernel before."""

    registers: int
    spills: int
    tensor_core: int
    tma: int
    waits: bool


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
    return Code(int(registers[1]), *counts, waits_first(code))


def waits_first(code: str) -> bool:
    """Whether a kernel's machine code waits for the kernel before it touches global memory.

    What comes before the wait branches nowhere else, as where sm_100 allocates tensor memory.
    """
    before, wait, _ = code.partition(_WAIT)
    within = {*_LABEL.findall(before)}
    targets = [name for name in _TARGET.findall(before) if "guardrail_trap" not in name]
    return bool(wait) and _LATER.isdisjoint(_INSTRUCTION.findall(before)) and within >= {*targets}


def run(tool: str, *arguments: str | Path) -> str:
    done = subprocess.run([_TOOLS / tool, *arguments], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr
