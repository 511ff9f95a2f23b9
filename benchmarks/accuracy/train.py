"""``make train``: trains the small model from nothing, tower first, then what answers. Resumable.

    python -m benchmarks.accuracy.train --device cuda --seconds 105

Pictures and questions are made on the device as they are needed. Progress, logs and checkpoints go
to ``--out``; a run that is started again there goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

BEGAN = time.perf_counter()  # before torch and transformers are imported
SECONDS = {"cuda": (60, 120), "cpu": (5 * 3600, 3600)}  # of the stages
BATCH = {"cuda": (128, 128), "cpu": (16, 32)}
CLOSING = 2  # seconds for the last measurements


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy.train")
    parser.add_argument("--device", choices=SECONDS, default="cpu")
    parser.add_argument("--seconds", type=float, help="in which all is done")
    parser.add_argument("--batch", type=int, nargs=2, help="pictures a step, in either stage")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--light", action="store_true", help="small checkpoints: only the weights")
    parser.add_argument("--out", type=Path, default=Path("build/train"))
    options = parser.parse_args(arguments)
    import torch

    from . import compose, train_answers, train_tower

    torch.backends.cuda.enable_cudnn_sdp(False)  # the others are as fast, and start at once
    torch.set_float32_matmul_precision("high")
    for split in ("train", "dev"):
        compose.atlas(split, options.device)
    ready = time.perf_counter() - BEGAN
    print(f"ready after {ready:.1f} s", flush=True)
    of_tower, of_answers = SECONDS[options.device]
    left = max(1.0, (options.seconds or of_tower + of_answers) - ready - CLOSING)
    left /= of_tower + of_answers
    sizes = options.batch or BATCH[options.device]
    common = {"device": options.device, "rate": options.rate, "light": options.light}
    train_tower.train(options.out, of_tower * left, sizes[0], **common)
    train_answers.train(options.out, of_answers * left, sizes[1], **common)
    print(f"done after {time.perf_counter() - BEGAN:.1f} s", flush=True)


if __name__ == "__main__":
    main()
