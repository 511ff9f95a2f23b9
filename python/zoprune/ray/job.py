"""The job: every image that has no shard yet goes to a worker."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from ..budgets import as_keep, is_count
from .encoder import Encoder
from .shards import finished

logger = logging.getLogger("zoprune")
PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def prune_images(
    source: Any,
    checkpoint: str,
    output: str | Path,
    keep: int | float = 64,
    *,
    workers: int = 2,
    shard: int = 64,
    dtype: str = "bfloat16",
    device: str | None = None,
    gpus: float | None = None,
    **options: Any,
) -> dict[str, str]:
    """Encode and prune images into safetensors shards of ``shard`` images.

    What is in ``output`` already is not done again, so a job that was stopped goes on. A worker
    that dies is replaced, and its images are done again: each image is in exactly one shard.

    Args:
        source: a folder (searched for pictures at every depth), or a Ray Dataset with the columns
            ``id`` (str) and ``image`` (uint8 [H, W, 3]) or ``path``.
        checkpoint: a model of ``zoprune.prune``; its vision tower and projector are loaded.
        keep, options: as ``zoprune.prune`` takes them.
        workers: how many at once; each holds a model.
        gpus: of each worker, by default 1 where Ray has any.
        dtype, device: of the model; the device defaults to a GPU where the worker has one.

    Returns:
        The images that could not be read, and why. They are tried again by the next job.

    Raises:
        ValueError: ``output`` holds shards of another checkpoint or other options; two images have
            one id; a count is none.
        FileNotFoundError: the folder holds no pictures.
    """
    import ray

    keep = as_keep(keep)
    for name, count in (("workers", workers), ("shard", shard)):
        if not is_count(count, 1):
            raise ValueError(f"zoprune: {name}: expected a count >= 1, got {count!r}")
    folder = Path(output).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    maker = {"checkpoint": str(checkpoint), "keep": keep, "dtype": dtype, **options}
    done = set(finished(folder, maker))
    dataset = source if hasattr(source, "map_batches") else _pictures(Path(source))
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    if done:
        dataset = dataset.filter(lambda row: row["id"] not in done)
    if not ray.is_initialized():
        ray.init()
    if gpus is None:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
    results = dataset.map_batches(
        Encoder,
        fn_constructor_args=(str(folder), maker, device),
        batch_size=shard,
        concurrency=workers,
        num_gpus=gpus,
    ).take_all()
    twice = [name for name, count in Counter(row["id"] for row in results).items() if count > 1]
    if twice:
        raise ValueError(
            f"zoprune: source: expected an id of its own for each image, got {twice[0]} twice"
        )
    failed = {row["id"]: row["error"] for row in results if row["error"]}
    logger.info(
        "zoprune: %d images before, %d now, %d could not be read",
        len(done),
        len(results) - len(failed),
        len(failed),
    )
    return failed


def _pictures(folder: Path) -> Any:
    """A dataset of the pictures under a folder, in the order of their names."""
    import ray

    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
    if not paths:
        raise FileNotFoundError(f"zoprune: source: expected a folder with pictures, got {folder}")
    return ray.data.from_items(
        [{"id": str(p.relative_to(folder)), "path": str(p.resolve())} for p in paths]
    )
