"""``python -m zoprune.ray FOLDER CHECKPOINT OUTPUT --keep 64 --workers 8``."""

from __future__ import annotations

import argparse
import sys

from ..budgets import as_keep
from .job import prune_images


def _keep(text: str) -> int | float:
    try:
        return as_keep(float(text) if "." in text else int(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m zoprune.ray", description=__doc__)
    parser.add_argument("source", metavar="FOLDER", help="pictures, at every depth")
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("output", metavar="OUTPUT", help="for the shards; a job may go on here")
    parser.add_argument(
        "--keep", type=_keep, default=64, help="visual tokens, or a ratio such as 0.25"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shard", type=int, default=64, help="images in one file")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    given = parser.parse_args(arguments)
    failed = prune_images(
        given.source,
        given.checkpoint,
        given.output,
        given.keep,
        workers=given.workers,
        shard=given.shard,
        dtype=given.dtype,
    )
    for name, error in failed.items():
        print(f"{name}: {error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
