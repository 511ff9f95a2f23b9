"""The selection family against the loops of pruning libraries: ``python -m benchmarks.family``.

Part of ``make bench``. Measures in turns and verifies each result before its ratio counts, like
``benchmarks.cpu``. A complete run is written to ``benchmarks/results/family-<cpu>.json``;
``python -m benchmarks.readme`` makes the table and the picture of docs/family.md of it. A partial
run (``--only``, ``--tokens``, ``--dtype``) is written only to ``--output``; so is a run with a
refused result, whose exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

import torch

from zoprune_kernels.testing import patches

from .. import table
from ..case import Case, Group, Row
from ..machine import RESULTS, file_name, machine
from ..measure import ROUNDS, Progress, measure_group, show_progress
from ..shapes import DTYPES, Shape
from ..targets import Target, find, ratio
from . import growth
from .cases import FEW_STEPS, LOOPS, OPERATORS, Tokens, scaled

SHAPES = [
    Shape(f"{tokens} -> {keep}, D 1024", tokens, 1, 1, 1024, (keep,))
    for tokens, keep in ((576, 64), (2880, 320), (16384, 1024))
]
GRID_WIDTH = {576: 24, 2880: 60, 16384: 128}
OPS = sorted({operator.op for operator in OPERATORS})
PREFIX = "family-"  # of the result files' names


def make_tokens(shape: Shape, dtype: str) -> Tokens:
    """Seeded tokens like an image's, of which the best-scored are kept."""
    keys = patches(shape.tokens, shape.outputs, torch.Generator().manual_seed(0)).to(DTYPES[dtype])
    scores = keys[:, 0].float()
    scores = (scores - scores.min() + 1e-6) / (scores.max() - scores.min())
    index, width = torch.arange(shape.tokens), GRID_WIDTH[shape.tokens]
    positions = torch.stack([index // width, index % width], dim=1).float()
    return Tokens(scores, keys, positions, scores.topk(shape.keep[0]).indices.sort().values)


def group(shape: Shape, x: Tokens, dtype: str, operators: list[Case[Tokens]]) -> Group[Tokens]:
    """Operators at one shape, with the loops they are compared with."""
    cases = [scaled(operator, x) for operator in operators]
    return Group(shape, dtype, x, LOOPS, cases).only(lambda case: True)


def run(shapes: list[Shape], dtypes: list[str], ops: set[str], progress: Progress) -> list[Row]:
    """Rows as ``benchmarks.cpu`` has them; one round of the largest shape."""
    rows = []
    operators = [operator for operator in OPERATORS if operator.op in ops]
    for dtype in dtypes:
        for shape in shapes:
            rounds = 1 if shape.tokens > 10_000 else ROUNDS
            x = make_tokens(shape, dtype)
            rows += measure_group(group(shape, x, dtype, operators), rounds, progress)
    return rows


def targets() -> list[Target]:
    """A ratio to reach for each operator and shape, in fp32."""
    return [
        Target(
            f"{operator.op} ({operator.variant}), {shape.name}",
            operator.goal,
            "x",
            ratio(operator.op, operator.variant, shape, "fp32", "loop"),
        )
        for operator in OPERATORS
        for shape in SHAPES
        if operator.goal is not None
    ]


def section(result: Row) -> str:
    """The table of one result file in Markdown: a column for each shape."""
    about, rows = result["machine"], result["rows"]
    sizes = " | ".join(f"{shape.tokens:,} to {shape.keep[0]:,}" for shape in SHAPES)
    lines = [
        f"**{about['name']}**, {about['threads']} threads, torch {about['torch']}, fp32 keys of "
        f"{SHAPES[0].outputs} dimensions: times faster, medians of one run (`make bench`, "
        f"{about['date'][:10]})",
        "",
        f"| operator | against | {sizes} | goal |",
        f"|---|---|{'---|' * len(SHAPES)}---|",
    ]
    for operator in OPERATORS:
        cells = []
        for shape in SHAPES:
            row = find(rows, operator.op, operator.variant, shape, "fp32")
            star = "\\*" if "steps_measured" in row else ""
            found = row.get("against", {}).get("loop", {})
            same = {name for name, _ in found.get("of", [])} == operator.baselines
            cells.append(table.ratio(found) + star if same else "-")
        goal = f"{operator.goal:g}x" if operator.goal else ""
        name = f"`{operator.op}`, {operator.variant}"
        lines.append(f"| {name} | {operator.opponent} | {' | '.join(cells)} | {goal} |")
    steps = f"\\* {FEW_STEPS} steps of the loop were timed and scaled to k: they take equal times."
    return "\n".join([*lines, "", steps])


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.family", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=OPS, metavar="OP", help="some operators")
    parser.add_argument("--tokens", nargs="+", type=int, choices=list(GRID_WIDTH))
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=["fp32"])
    parser.add_argument("--output", type=Path, help="where to write a partial run")
    options = parser.parse_args(arguments)

    shapes = [s for s in SHAPES if not options.tokens or s.tokens in options.tokens]
    partial_run = options.only or options.tokens or options.dtype != ["fp32"]
    with torch.inference_mode():
        rows = run(shapes, options.dtype, set(options.only or OPS), show_progress)
        grown = [] if partial_run else growth.measure(show_progress)
    show_progress("")
    result = {
        "machine": machine()
        | {"command": shlex.join(["python", "-m", "benchmarks.family", *arguments])},
        "rows": rows,
        "growth": grown,
        "targets": [target.verdict(rows) for target in targets()],
    }
    print("\n".join([*table.ratios(rows, 0), *table.targets(result["targets"])]))
    refused = any("refused" in row for row in rows)
    output = options.output
    if output is None and not partial_run and not refused:
        output = RESULTS / (PREFIX + file_name(result["machine"]["name"]))
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n")
        print(f"\nwritten to {output}")
    return int(refused)
