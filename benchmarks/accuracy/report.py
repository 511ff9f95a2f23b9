"""``make accuracy``: right answers of the small model against kept visual tokens.

``python -m benchmarks.accuracy`` makes its choices (MMR's trade-off, ``max_similarity``) on the
development split and its table on the test split, of which no digit and no photograph was seen in
training or in development. It writes benchmarks/results/accuracy.json, and the same seeds give the
same table; ``--pictures`` makes a quick look that is only printed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from zoprune.cli.checkpoint import TRAINED

from ..machine import RESULTS, machine
from ..measure import show_progress
from . import methods as ways
from . import questions
from .evaluate import Split, answer, interval, share

RESULT = RESULTS / "accuracy.json"
KEEPS = (192, 128, 64, 32, 16, 8)
SEEDS = (0, 1, 2)
PICTURES = 160  # of the test split, some 2,100 questions; half as many for development
DEVELOPMENT, TEST = 10_000_001, 20_000_001  # seeds of the pictures; those of training are below
CHOSEN_AT = 32  # tokens
TRADEOFFS = (0.3, 0.5, 0.7, 0.9)
SIMILARITIES = (0.5, 0.7, 0.8, 0.9, 0.95)


def choose(model: Any, split: Split) -> dict[str, Any]:
    """The options that answer most of the development split right from ``CHOSEN_AT`` tokens."""

    def best(name: str, values: tuple[float, ...]) -> tuple[float, dict[str, float]]:
        found = {}
        for value in values:
            show_progress(f"development: {name} {value:g}")
            scored = ways.scored(
                **({"method": "mmr"} if name == "tradeoff" else {}), **{name: value}
            )
            found[value] = share(answer(model, split, ways.Method("", "", scored), CHOSEN_AT))
        return max(found, key=lambda v: found[v]), {f"{v:g}": round(s, 4) for v, s in found.items()}

    tradeoff, by_tradeoff = best("tradeoff", TRADEOFFS)
    similarity, by_similarity = best("max_similarity", SIMILARITIES)
    return {
        "kept": CHOSEN_AT,
        "questions": sum(map(len, split.asked)),
        "tradeoff": tradeoff,
        "max_similarity": similarity,
        "of": {"tradeoff": by_tradeoff, "max_similarity": by_similarity},
    }


def rows_of(model: Any, split: Split, chosen: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a method and budget: the share of right answers, its interval, and by kind."""
    full = answer(model, split, ways.methods(0.5, 0.9)[0], 576)
    rows = [row("all", "all tokens", 576, [full], split, full)]
    base: dict[int, list[list[float]]] = {}
    for method in ways.methods(chosen["tradeoff"], chosen["max_similarity"]):
        for k in KEEPS:
            show_progress(f"{split.name}: {method.words}, {k} tokens")
            seeds = SEEDS if method.chance else SEEDS[:1]
            right = [answer(model, split, method, k, seed) for seed in seeds]
            base.setdefault(k, mean(right))
            rows.append(row(method.name, method.words, k, right, split, base[k]))
    return rows


def mean(right: list[list[list[bool]]]) -> list[list[float]]:
    """Over seeds, question by question."""
    return [list(np.mean(of_picture, axis=0)) for of_picture in zip(*right, strict=True)]


def row(
    name: str,
    words: str,
    k: int,
    right: list[list[list[bool]]],
    split: Split,
    base: list[list[float]],
) -> dict[str, Any]:
    averaged = mean(right)
    low, high = interval(averaged)
    ahead = [
        [a - b for a, b in zip(*pair, strict=True)] for pair in zip(averaged, base, strict=True)
    ]
    kinds: dict[str, list[float]] = {}
    for picture, of_picture in zip(split.kinds, averaged, strict=True):
        for kind, ok in zip(picture, of_picture, strict=True):
            kinds.setdefault(kind, []).append(ok)
    return {
        "method": name,
        "words": words,
        "kept": k,
        "seeds": len(right),
        "right": round(share(averaged), 4),
        "interval": [round(low, 4), round(high, 4)],
        # against the first method with as many tokens, on the same questions
        "ahead": [round(share(ahead), 4), *(round(v, 4) for v in interval(ahead))],
        "kinds": {kind: round(float(np.mean(kinds[kind])), 4) for kind in questions.KINDS},
        "of_seeds": [round(share(one), 4) for one in right],
    }


def seconds(split: Split, chosen: dict[str, Any], model: Any, k: int = 64) -> dict[str, float]:
    """Median seconds to score and select (and merge) one picture, methods in turn."""
    found: dict[str, list[float]] = {}
    words = model.get_input_embeddings()(torch.arange(6, 12))
    compared = ways.methods(chosen["tradeoff"], chosen["max_similarity"])
    for old in split.pictures[:12]:
        for method in compared:
            picture = ways.Picture(old.projector, old.x, old.index)
            start = time.perf_counter()
            method.keep(picture, k, 0, words)
            found.setdefault(method.name, []).append(time.perf_counter() - start)
    return {name: float(np.median(times)) for name, times in found.items()}


def main(arguments: list[str]) -> int:
    from transformers import LlavaForConditionalGeneration

    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--model", type=Path, default=TRAINED, help="the trained checkpoint")
    parser.add_argument("--pictures", type=int, help="a quick look at so many, not written")
    options = parser.parse_args(arguments)
    size = options.pictures or PICTURES
    model = LlavaForConditionalGeneration.from_pretrained(options.model, dtype=torch.float32)
    model.eval()
    with torch.inference_mode():
        show_progress("drawing pictures")
        development = Split.of(model, "dev", DEVELOPMENT, max(8, size // 2))
        chosen = choose(model, development)
        split = Split.of(model, "test", TEST, size)
        rows = rows_of(model, split, chosen)
        times = seconds(split, chosen, model)
    show_progress("")
    command = shlex.join(["python", "-m", "benchmarks.accuracy", *arguments])
    result = {
        "machine": machine() | {"command": command},
        "weights": sum(p.numel() for p in model.parameters()),
        "pictures": size,
        "questions": sum(map(len, split.asked)),
        "seeds": {"development": DEVELOPMENT, "test": TEST},
        "development": chosen,
        "seconds": {name: round(value, 6) for name, value in times.items()},
        "rows": rows,
    }
    from .tables import by_kind, by_method

    print(f"{by_method(result)}\n\n{by_kind(result)}")
    if options.pictures is None:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        print(f"\nwritten to {RESULT}")
    return 0
