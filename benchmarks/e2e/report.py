"""A whole model on a prompt: time to first token, throughput and peak memory, four ways.

    python -m benchmarks.e2e                  # this CPU: 2 of 32 language layers, some of the grid
    python -m benchmarks.e2e --full           # the whole grid, about an hour on two cores
    python -m benchmarks.e2e --device cuda    # a GPU: all layers, the whole grid, within 105 s

The variants run in turns (``variants``) on real architectures with random weights
(``models``); a row counts only if ours gave the oracle's logits. A complete run is written to
``benchmarks/results/e2e-<cpu>.json``; ``python -m benchmarks.readme`` makes a table of it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import shlex
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import zoprune

from ..case import Row
from ..gpu.runner import write_part
from ..machine import RESULTS, file_name, machine
from ..shapes import DIRECTIONS, DTYPES
from ..timing import MOST_ROUNDS, Times
from . import table as e2e_table
from .models import ARCHITECTURES, LLAVA, LLAVA_NEXT, Architecture, build, inputs_of
from .sample import NEW_TOKENS, Sample, first_token, generate
from .variants import VARIANTS, PaperSelector, twin, variants

BATCHES = (1, 8)
TOLERANCE = 1e-2  # of the largest logit: not every device gives the same bits twice
ONCE = ("unpruned", "paper")  # slow, and far from the others: measured in the first round only


@dataclass(frozen=True)
class Setting:
    """How much of the models runs, and how often."""

    device: str
    dtype: str
    layers: int  # language layers, of 32
    directions: int  # that the paper's scores are timed with; the others' time is added
    rounds: int  # at least
    seconds: float  # further rounds of a point begin within this time
    transformers: str  # its version
    # A GPU's first answers are no samples; after a few whole rounds only first tokens are
    # generated, which take a tenth of the time, and no round of a point begins after so many
    # seconds.
    warm_up: bool = False
    whole_rounds: int = MOST_ROUNDS
    limit: float = 3600


@dataclass(frozen=True)
class Point:
    """One prompt and its budgets."""

    architecture: Architecture
    batch: int
    keeps: tuple[int, ...]


ALL = [Point(a, batch, a.keep) for a in ARCHITECTURES.values() for batch in BATCHES]
# What takes some five minutes on two cores: both models and both batch sizes
SOME = [Point(LLAVA, 1, LLAVA.keep), Point(LLAVA, 8, (64,)), Point(LLAVA_NEXT, 1, (160,))]


def measure(point: Point, model: Any, pruned: Any, setting: Setting) -> list[Row]:
    """One row for each budget of a point; the unpruned model is shared by all of them."""
    inputs = inputs_of(point.architecture, model, point.batch)
    paper = PaperSelector(setting.directions)
    runs = {
        (name, 0 if name == "unpruned" else keep): run
        for keep in point.keeps
        for name, run in variants(model, pruned, inputs, keep, paper).items()
    }
    samples: dict[tuple[str, int], list[Sample]] = {key: [] for key in runs}
    if setting.warm_up:
        for run in runs.values():
            run(generate)
    start = time.perf_counter()
    for turn in range(MOST_ROUNDS):
        passed = time.perf_counter() - start
        enough = turn >= setting.rounds and passed > setting.seconds
        if enough or (turn > 0 and passed > setting.limit):
            break
        whole = turn == 0 or (turn < setting.whole_rounds and passed < setting.limit / 3)
        # Backwards in every other round, so that none always runs after the same one.
        for key, run in (list if turn % 2 == 0 else reversed)(runs.items()):
            if turn == 0 or key[0] not in ONCE:
                paper.missing = 0.0
                sample = run(generate if whole else first_token)
                samples[key].append(sample.longer_by(paper.missing))
    return [
        row_of(
            point,
            keep,
            {name: samples[name, 0 if name == "unpruned" else keep] for name in VARIANTS},
        )
        for keep in point.keeps
    ]


def row_of(point: Point, keep: int, samples: dict[str, list[Sample]]) -> Row:
    """The medians of one budget, refused where oracle and ours disagree."""
    row: Row = {
        "model": point.architecture.name,
        "batch": point.batch,
        "tokens": point.architecture.tokens,
        "keep": keep,
        "rounds": len(samples["ours"]),
    }
    expected, logits = samples["oracle"][0].logits, samples["ours"][0].logits
    row["difference"] = float((logits - expected).abs().max() / expected.abs().max())
    if not row["difference"] <= TOLERANCE:
        return row | {"refused": f"logits of ours and oracle differ by {row['difference']:.1e}"}
    first = {name: Times([sample.first for sample in found]) for name, found in samples.items()}
    whole = {
        name: Times([sample.whole for sample in found if sample.tokens == NEW_TOKENS])
        for name, found in samples.items()
    }
    over_oracle = first["ours"].ratio_to(first["oracle"])
    return row | {
        "first_token_seconds": {name: times.median for name, times in first.items()},
        "tokens_per_second": {
            name: point.batch * NEW_TOKENS / times.median for name, times in whole.items()
        },
        "peak_mib": {
            name: statistics.median(sample.peak_mib for sample in found)
            for name, found in samples.items()
        },
        "over_oracle": over_oracle,
    }


def run(points: Sequence[Point], setting: Setting) -> list[Row]:
    """The rows of all points, each printed when it is there."""
    rows: list[Row] = []
    print(e2e_table.HEADING, flush=True)
    for architecture in dict.fromkeys(point.architecture for point in points):
        model = build(architecture, setting.layers, DTYPES[setting.dtype], setting.device)
        pruned = zoprune.prune(twin(model), 1.0)
        for point in points:
            if point.architecture is architecture:
                found = measure(point, model, pruned, setting)
                print(*map(e2e_table.line, found), sep="\n", flush=True)
                rows += found
                write_part({"e2e": {"setting": asdict(setting), "rows": rows}})
        del model, pruned  # before the next one is built
    return rows


def replaces(rows: Sequence[Row], output: Path) -> bool:
    """Whether a run measured as much of the grid as the one in the file."""
    return not output.exists() or len(rows) >= len(json.loads(output.read_text())["rows"])


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.e2e", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=list(DTYPES), default="bf16")
    parser.add_argument("--layers", type=int, help="language layers (default: 2; 32 on a GPU)")
    parser.add_argument("--rounds", type=int, help="at least (default: 3; 9 on a GPU)")
    parser.add_argument("--full", action="store_true", help="the whole grid, as on a GPU")
    parser.add_argument("--model", choices=list(ARCHITECTURES), help="one model")
    parser.add_argument("--batch", type=int, choices=BATCHES, help="one batch size")
    parser.add_argument("--output", type=Path, help="where to write a partial run")
    options = parser.parse_args(arguments)
    on_gpu = options.device == "cuda"
    points = [
        point
        for point in (ALL if options.full or on_gpu else SOME)
        if options.model in (None, point.architecture.name) and options.batch in (None, point.batch)
    ]
    setting = Setting(
        device=options.device,
        dtype=options.dtype,
        layers=options.layers or (32 if on_gpu else 2),
        directions=DIRECTIONS if on_gpu else 4,
        rounds=options.rounds or (9 if on_gpu else 3),
        seconds=8 if on_gpu else 60,
        transformers=importlib.metadata.version("transformers"),
        **({"warm_up": True, "whole_rounds": 2, "limit": 15} if on_gpu else {}),
    )
    start = time.perf_counter()
    with torch.no_grad():
        rows = run(points, setting)
    print(e2e_table.verdict(asdict(setting), rows))
    print(f"{time.perf_counter() - start:.0f} s in all")
    refused = any("refused" in row for row in rows)
    partial = options.model or options.batch or options.layers or options.dtype != "bf16"
    about = machine() | {"command": shlex.join(["python", "-m", "benchmarks.e2e", *arguments])}
    output = options.output
    if output is None and not (partial or refused or on_gpu):
        output = RESULTS / f"{e2e_table.PREFIX}{file_name(about['name'])}"
        if not replaces(rows, output):
            print(f"{output} has more of the grid and stays: --full measures it anew")
            output = None
    if output is not None:
        report = {"machine": about, "setting": asdict(setting), "rows": rows}
        output.write_text(json.dumps(report, indent=1) + "\n")
        print(f"written to {output}")
    return int(refused)
