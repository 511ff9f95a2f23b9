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


requested = backend()  # when the package was imported: what every choice of a backend goes by
