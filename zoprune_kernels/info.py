"""``python -m zoprune_kernels.info``: what is installed, and what would run where.

For every operator and device type it names the backend that runs and why no faster one does.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform

import torch

from . import _native, backend
from .operators import OPERATORS


def version(package: str) -> str:
    """Of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _cpu_isa() -> str:
    if backend.native_error is not None:
        return "none: the native library is not loaded"
    try:
        return _native.cpu_isa()
    except RuntimeError as error:
        return f"none: {error}"


def _gpus() -> str:
    if not torch.cuda.is_available():
        return "none"
    properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return ", ".join(f"{gpu.name} (sm_{gpu.major}{gpu.minor})" for gpu in properties)


def facts() -> list[tuple[str, str]]:
    """What is installed, as (name, value); names of the native library's parts are indented."""
    build = _native.build_info()
    cuda = f"{build['cuda']} for sm_{build['cuda_archs']}" if build.get("cuda") else "not compiled"
    return [
        ("zoprune_kernels", version("zoprune_kernels")),
        ("python", platform.python_version()),
        ("torch", torch.__version__),
        ("triton", version("triton")),
        ("native library", backend.native_error or "loaded"),
        ("  built with torch", build.get("torch", "not built")),
        ("  compiler", build.get("compiler", "not built")),
        ("  CPU instruction sets", build.get("cpu_isas", "not built")),
        ("  CUDA", cuda if build else "not built"),
        ("CPU instruction set used", _cpu_isa()),
        ("CPU threads", str(torch.get_num_threads())),
        ("GPUs", _gpus()),
        ("ZOPRUNE_BACKEND", os.environ.get("ZOPRUNE_BACKEND", "auto (not set)")),
    ]


def _choice(op: str, device: str) -> tuple[str, str]:
    """The backend that would run, and why not those preferred to it."""
    passed_over: list[str] = []
    for name, reason in backend.candidates(op, device):
        if reason is None:
            return name, "; ".join(passed_over)
        passed_over.append(f"{name}: {reason}")
    return "error", "; ".join(passed_over)


def choices() -> list[dict[str, str]]:
    """For every operator and device type the backend that would run, and why no faster one."""
    keys = ("operator", "device", "backend", "why_not_faster")
    pairs = [(op, device) for op in OPERATORS for device in backend.PREFERENCE]
    return [dict(zip(keys, (*pair, *_choice(*pair)), strict=True)) for pair in pairs]


def report() -> str:
    """The whole report, as printed by ``python -m zoprune_kernels.info``."""
    lines = [f"{name:26}{value}" for name, value in facts()]
    lines += ["", f"{'operator':28}{'device':8}{'backend':11}why not a faster one"]
    for op, device, name, reasons in map(dict.values, choices()):
        lines.append(f"{op:28}{device:8}{name:11}{reasons}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    print(report())
