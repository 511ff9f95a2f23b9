"""``make fidelity``: every estimator of sensitivity against a truth in float64.

The truth is the paper's score with 4,096 directions, none of which an estimator has, on the trained
projector of the small model (docs/quality.md) with held-out pictures, and on random projectors.
Writes benchmarks/results/fidelity.json; the same seeds give the same numbers, times apart.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor
from zoprune.cli.checkpoint import TRAINED
from zoprune.cli.comparison import spearman

import zoprune_kernels as zk
from zoprune_kernels.testing import patches

from ..machine import RESULTS, machine
from ..measure import show_progress
from .estimators import Tokens, estimators

RESULT = RESULTS / "fidelity.json"
DIRECTIONS, KEPT, SEEDS = 4096, 64, (0, 1, 2)
PICTURES = 4  # of the trained projector
SEED = 30_000_001  # of its pictures
RANDOM = (192, 384, 192)  # d, H, D of a random projector


def trained() -> list[Tokens]:
    """Held-out pictures as the small model's projector gets them."""
    from transformers import LlavaForConditionalGeneration

    from ..accuracy.evaluate import Split
    from ..accuracy.methods import Projector

    model = LlavaForConditionalGeneration.from_pretrained(TRAINED, dtype=torch.float32)
    split = Split.of(model.eval(), "test", SEED, PICTURES)
    weights = [w.double() for w in Projector.of(model.model.multi_modal_projector).weights]
    return [Tokens(x.double(), *weights) for x in (picture.x for picture in split.pictures)]


def random() -> list[Tokens]:
    """Tokens like an image's and a projector with normal weights, of unit pre-activations."""
    d, hidden, outputs = RANDOM
    generator = torch.Generator().manual_seed(0)
    x = patches(576, d, generator).double()
    x = x / x.square().mean().sqrt()

    def normal(scale: float, *shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64) * scale

    w1, b1 = normal(1 / math.sqrt(d), hidden, d), normal(0.1, hidden)
    return [Tokens(x, w1, b1, normal(1 / math.sqrt(hidden), outputs, hidden), normal(0.1, outputs))]


def measure(projector: str, images: list[Tokens]) -> list[dict[str, Any]]:
    truths = []
    for i, tokens in enumerate(images):
        show_progress(f"{projector}: the truth of image {i + 1} of {len(images)}")
        truths.append(tokens.truth(DIRECTIONS))
    rows = []
    for estimator in estimators():
        show_progress(f"{projector}: {estimator.name}, {estimator.dtype}, m = {estimator.m}")
        found, times = [], []
        for tokens, truth in zip(images, truths, strict=True):
            keys = tokens.keys()
            for seed in SEEDS if estimator.chance else SEEDS[:1]:
                start = time.perf_counter()
                scores = estimator.run(tokens, seed)
                times.append(time.perf_counter() - start)
                found.append(agreement(scores, truth, keys))
        error, rank, top, sads = np.mean(found, axis=0)
        rows.append(
            {
                "projector": projector,
                "estimator": estimator.name,
                "dtype": estimator.dtype,
                "m": estimator.m,
                "h": estimator.step,
                "error": float(f"{error:.3g}"),
                "spearman": round(float(rank), 5),
                "top": round(float(top), 4),
                "kept": round(float(sads), 4),
                "seconds": float(f"{np.median(times):.3g}"),
            }
        )
    return rows


def agreement(scores: Tensor, truth: Tensor, keys: Tensor) -> tuple[float, float, float, float]:
    """Mean relative error after one common scale, Spearman, and shares of the kept 64 in common.

    The scale is there because a root mean square over directions is a little above their mean, by
    nearly the same factor for all tokens, and no selection sees a factor.
    """
    scores = scores.double()
    scaled = scores * (truth.sum() / scores.sum())
    error = ((scaled - truth).abs() / truth).mean()
    shares = [
        float(torch.isin(ours, theirs).double().mean())
        for ours, theirs in (
            (scores.topk(KEPT).indices, truth.topk(KEPT).indices),
            (zk.select(scores.float(), keys, KEPT), zk.select(truth.float(), keys, KEPT)),
        )
    ]
    return float(error), spearman(scores.float(), truth.float()), shares[0], shares[1]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fidelity", description=__doc__)
    parser.add_argument("--random", action="store_true", help="only that, printed, not written")
    options = parser.parse_args(arguments)
    with torch.inference_mode():
        rows = [] if options.random else measure("trained", trained())
        rows += measure("random", random())
    show_progress("")
    command = shlex.join(["python", "-m", "benchmarks.fidelity", *arguments])
    result = {
        "machine": machine() | {"command": command},
        "directions": DIRECTIONS,
        "kept": KEPT,
        "pictures": PICTURES,
        "random": list(RANDOM),
        "rows": rows,
    }
    from .tables import table

    for projector in ("trained", "random"):
        if any(row["projector"] == projector for row in rows):
            print(f"\n{projector}\n\n{table(result, projector)}")
    if not options.random:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        print(f"\nwritten to {RESULT}")
    return 0
