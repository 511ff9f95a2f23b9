"""Finds and loads the native library, whose kernels register themselves when it loads."""

from __future__ import annotations

import ctypes
import importlib.metadata
import re
import warnings
from pathlib import Path

import torch

from .namespace import LIBRARY as LIBRARY


def load() -> str | None:
    """Load the native library; returns None, or why it did not load, after a warning of it."""
    reason = _load()
    if reason is not None:
        warnings.warn(
            "zoprune_kernels: operators on the CPU and selections on GPUs run the PyTorch "
            f"reference, many times slower: {reason}. To build it, type: {_command()}. "
            "ZOPRUNE_BACKEND=reference in the environment says that this is meant.",
            RuntimeWarning,
            stacklevel=2,
        )
    return reason


def _load() -> str | None:
    if not LIBRARY.exists():
        missing = f"{LIBRARY} is not built"
        for distribution in importlib.metadata.distributions(name="zoprune_kernels"):
            installed = Path(str(distribution.locate_file(f"zoprune_kernels/{LIBRARY.name}")))
            if installed.exists():
                missing += (
                    ", and this copy of the package hides the one installed in "
                    f"{installed.parent}, which has it (Python takes the current folder first: "
                    "start it elsewhere)"
                )
                break
        return missing
    try:
        torch.ops.load_library(str(LIBRARY))
    except Exception as error:
        built_for = build_info().get("torch", "an unknown version")
        return (
            f"{LIBRARY.name} was built with torch {built_for} and runs with torch >= 2.11; "
            f"torch {torch.__version__} is installed: {error}"
        )
    return None


def _command() -> str:
    clone = LIBRARY.parents[1]
    if (clone / "CMakeLists.txt").exists():
        return f"pip install -v --no-build-isolation -e {clone}"
    return "pip install -v --no-build-isolation --force-reinstall --no-deps . (in a clone)"


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
