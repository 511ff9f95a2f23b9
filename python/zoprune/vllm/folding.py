"""The folded metric on disk, so that a server's next start finds it: safetensors, by content."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor


def fingerprint(weights: dict[str, Tensor], *details: object) -> str:
    """SHA-256 of the weights and of what else the fold depends on."""
    digest = hashlib.sha256(repr(details).encode())
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(weight.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def folded(
    key: str, device: torch.device, fold: Callable[[], dict[str, Tensor]]
) -> tuple[dict[str, Tensor], str]:
    """What ``fold`` returns, from disk where it is there; and which of the two it was."""
    from safetensors.torch import load_file, save_file

    path = cache_folder() / f"{key}.safetensors"
    if path.exists():
        try:
            return load_file(path, device=str(device)), "from the cache"
        except Exception:  # written by half: fold and write again
            path.unlink(missing_ok=True)
    result = fold()
    if not result:
        return result, "not needed"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            pass
        save_file({name: t.contiguous().cpu() for name, t in result.items()}, file.name)
        os.replace(file.name, path)
    except OSError as error:
        return result, f"folded, not cached ({error})"
    return result, "folded"


def cache_folder() -> Path:
    import vllm.envs as envs

    return Path(envs.VLLM_CACHE_ROOT) / "zoprune"
