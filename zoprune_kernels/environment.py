"""What the process's environment asks for. A leaf: it imports nothing of this package."""

from __future__ import annotations

import os

BACKENDS = ("auto", "cuda", "triton", "cpu", "reference")


def backend() -> str:
    """``ZOPRUNE_BACKEND`` as it is now; ``auto`` where it is not set.

    Raises:
        RuntimeError: it names no backend.
    """
    name = os.environ.get("ZOPRUNE_BACKEND", "auto")
    if name not in BACKENDS:
        raise RuntimeError(f"ZOPRUNE_BACKEND: expected one of {', '.join(BACKENDS)}, got '{name}'")
    return name


def switch(name: str, default: bool) -> bool:
    """A variable as it is now: 1 or 0.

    Raises:
        RuntimeError: it is neither.
    """
    wish = os.environ.get(name, str(int(default)))
    if wish not in ("0", "1"):
        raise RuntimeError(f"{name}: expected 0 or 1, got '{wish}'")
    return wish == "1"


# When the package was imported. What every choice of a backend goes by:
requested = backend()
# Programmatic dependent launch of the Triton kernels: 2 % of a closed-form call in a CUDA graph.
dependent_launches = switch("ZOPRUNE_CUDA_PDL", False)
# Whether a scoring call like one before it goes straight to its launches.
replays = switch("ZOPRUNE_CUDA_REPLAY", True)
