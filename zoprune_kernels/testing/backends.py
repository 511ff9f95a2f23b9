"""Runs calls by one backend or by every one that is there.

A process chooses its backend once, so each runs in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ..operators import OPERATORS
from .calls import Call

# Every operator as its PyTorch fallback, whatever the backend of this process.
fallback = SimpleNamespace(**{name: operator.fallback for name, operator in OPERATORS.items()})

Result = Any  # what the operator returned, on the CPU, or the RuntimeError that it raised


def on_backend(
    backend: str,
    calls: Sequence[Call],
    device: str = "cpu",
    environment: Mapping[str, str] | None = None,
) -> list[Result]:
    """Results of calls by a backend (``reference``, ``cpu``, ``triton``, ``cuda``, ``auto``).

    ``environment`` adds variables, such as ``ZOPRUNE_CPU_ISA``. Raises RuntimeError where the
    backend cannot run at all.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "calls.pt", Path(folder) / "results.pt"
        torch.save([(call.op, call.arguments) for call in calls], given)
        root = str(Path(__file__).parents[2])
        variables = os.environ | {"ZOPRUNE_BACKEND": backend} | dict(environment or {})
        variables["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", __name__, str(given), str(found), device]
        run = subprocess.run(command, env=variables, capture_output=True, text=True)
        if run.returncode:
            raise RuntimeError(f"backend {backend}: {run.stderr.strip()[-2000:]}")
        return [
            RuntimeError(error) if error is not None else result
            for error, result in torch.load(found, weights_only=True)
        ]


def on_every_backend(calls: Sequence[Call], device: str = "cpu") -> dict[str, list[Result]]:
    """Results by backend, of each that can run some operator on the device's tensors here."""
    from .. import backend

    kind = torch.device(device).type
    usable = [
        name
        for name in backend.PREFERENCE[kind]
        if any(backend.why_not(call.op, name, kind) is None for call in calls)
    ]
    return {name: on_backend(name, calls, device) for name in usable}


def _main(given: str, found: str, device: str) -> None:
    import zoprune_kernels  # noqa: F401  registers the operators

    results: list[tuple[str | None, Any]] = []  # an error's text, or None and a result
    for op, arguments in torch.load(given, weights_only=True):
        try:
            result = Call(op, arguments).to(device).run()
        except RuntimeError as error:
            results.append((str(error), None))
            continue
        on_host = torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.cpu, result)
        results.append((None, on_host))
    torch.save(results, found)


if __name__ == "__main__":
    _main(*sys.argv[1:])
