"""Finds and loads the native library, whose kernels register themselves when it loads."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import torch

LIBRARY = Path(__file__).with_name("libzoprune.so")


def load() -> str | None:
    """Load the native library; returns None, or as text why it did not load. Never raises."""
    if not LIBRARY.exists():
        return f"{LIBRARY.name} is not built (pip install --no-build-isolation builds it)"
    try:
        torch.ops.load_library(str(LIBRARY))
    except Exception as error:
        built_for = build_info().get("torch", "an unknown version")
        return (
            f"{LIBRARY.name} was built with torch {built_for} and runs with torch >= 2.11; "
            f"torch {torch.__version__} is installed: {error}"
        )
    return None


def build_info() -> dict[str, str]:
    """The library's build: torch, compiler, cpu_isas, cuda, cuda_archs; empty where not built.

    Read from the file itself, so that it is known also where the library does not load.
    """
    if not LIBRARY.exists():
        return {}
    found = re.search(rb"zoprune_build_info\n([^\0]+)", LIBRARY.read_bytes())
    lines = found[1].decode().splitlines() if found else []
    return dict(line.split("=", 1) for line in lines)


def cpu_isa() -> str:
    """The instruction set of the CPU kernels; the library must be loaded.

    Raises:
        RuntimeError: ``ZOPRUNE_CPU_ISA`` names one that is unknown or that this processor lacks.
    """
    function = ctypes.CDLL(str(LIBRARY)).zoprune_cpu_isa
    function.restype = ctypes.c_char_p
    name = function().decode()
    if name.startswith("error: "):
        raise RuntimeError(name.removeprefix("error: "))
    return name
