"""Safetensors shards: each appears whole or not at all, under a name that follows from its images.

A shard holds, for its n-th image, ``n.features`` [k, D], ``n.indices`` int64 [k] and ``n.scores``
float32 [N]; its metadata lists the images' ids and says what made it.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

SUFFIX = ".safetensors"


def shard_path(folder: Path, ids: Sequence[str]) -> Path:
    digest = hashlib.sha256("\0".join(ids).encode()).hexdigest()[:20]
    return folder / f"{digest}{SUFFIX}"


def write_shard(
    folder: Path, images: Sequence[tuple[str, dict[str, Tensor]]], maker: dict[str, Any]
) -> Path:
    """Write the images' tensors by id; a second attempt at the same images replaces the first."""
    from safetensors.torch import save_file

    ids = [name for name, _ in images]
    tensors = {
        f"{n}.{name}": tensor.contiguous()
        for n, (_, parts) in enumerate(images)
        for name, tensor in parts.items()
    }
    path = shard_path(folder, ids)
    draft = folder / f".{path.stem}-{uuid.uuid4().hex}"
    metadata = {"images": json.dumps(ids), "maker": json.dumps(maker, sort_keys=True)}
    save_file(tensors, draft, metadata)
    os.replace(draft, path)
    return path


def finished(folder: Path, maker: dict[str, Any]) -> dict[str, Path]:
    """The shard of each image that is there; ValueError where something else made it.

    Drafts that a killed worker left behind are removed.
    """
    from safetensors import safe_open

    for draft in folder.glob(".*-*"):
        draft.unlink(missing_ok=True)
    done: dict[str, Path] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        made = json.loads(metadata.get("maker", "null"))
        if made != maker:
            raise ValueError(f"zoprune: output: expected shards of {maker}, got {path} of {made}")
        done |= dict.fromkeys(json.loads(metadata["images"]), path)
    return done


def read_shards(folder: str | Path) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each image's id and its ``features``, ``indices`` and ``scores``, in no particular order."""
    from safetensors import safe_open

    for path in sorted(Path(folder).glob(f"*{SUFFIX}")):
        with safe_open(path, "pt") as file:
            for n, name in enumerate(json.loads(file.metadata()["images"])):
                parts = ("features", "indices", "scores")
                yield name, {part: file.get_tensor(f"{n}.{part}") for part in parts}
