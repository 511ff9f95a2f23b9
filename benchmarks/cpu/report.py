"""``make bench``: every operator against plain PyTorch on this CPU, checked, as one short report.

Measures in turns, verifies each result before its ratio counts, and writes a complete run to
``benchmarks/results/<cpu>.json``; ``python -m benchmarks.readme`` makes the README's table of it.
A partial run (``--only``, ``--shape``, ``--dtype``, ``--quick``) is printed, and written only to
``--output``; so is a run with a refused result, whose exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

import torch

from .. import table
from ..case import Row
from ..machine import OPS, RESULTS, file_name, machine
from ..measure import ROUNDS, Progress, measure_group, show_progress
from ..shapes import DIRECTIONS, DTYPES, LLAVA, MANY_TOKENS, SHAPES, Shape
from . import memory
from .cases import groups
from .targets import targets

# Published form: gigabytes, so in one dtype only
MEMORY_CASES = {
    "bf16": list(memory.CASES),
    "fp32": [case for case in memory.CASES if case != "published"],
}


def measure_memory(dtype: str, ops: set[str], progress: Progress) -> list[Row]:
    """Peak extra memory at LLaVA-1.5's shape, and of a selection among 100,000 tokens."""
    wanted = [(case, LLAVA.name) for case in MEMORY_CASES[dtype]]
    wanted.append(("select", MANY_TOKENS.name))
    rows = []
    for case, shape in wanted:
        op = memory.CASES[case][0]
        if op in ops or (op not in OPS and "sensitivity" in ops):  # the baselines of sensitivity
            progress(f"memory {dtype}: {case}, {shape}")
            rows.append(memory.measure(case, shape, dtype))
    return rows


def run(
    shapes: list[Shape],
    dtypes: list[str],
    ops: set[str],
    *,
    quick: bool = False,
    rounds: int = ROUNDS,
    progress: Progress,
) -> dict[str, Any]:
    """All measurements asked for, as the content of a result file."""
    rounds = 1 if quick else rounds
    rows: list[Row] = []
    for dtype in dtypes:
        for shape in shapes:
            for group in groups(shape, dtype, ops, quick=quick):
                rows += measure_group(group, rounds, progress)
    memory_rows = [] if quick else [row for d in dtypes for row in measure_memory(d, ops, progress)]
    verdicts = [target.verdict(rows + memory_rows) for dtype in dtypes for target in targets(dtype)]
    return {
        "machine": machine(),
        "directions": DIRECTIONS,
        "rows": rows,
        "memory": memory_rows,
        "targets": verdicts,
    }


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=OPS, metavar="OP", help="some operators")
    parser.add_argument("--shape", nargs="+", choices=[s.name for s in SHAPES], help="some shapes")
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), help="some dtypes")
    parser.add_argument("--quick", action="store_true", help="one round, few directions, no memory")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="at least (default %(default)s)")
    parser.add_argument("--output", type=Path, help="where to write a partial run")
    options = parser.parse_args(arguments)

    with torch.inference_mode():
        report = run(
            [shape for shape in SHAPES if not options.shape or shape.name in options.shape],
            options.dtype or list(DTYPES),
            set(options.only or OPS),
            quick=options.quick,
            rounds=options.rounds,
            progress=show_progress,
        )
    show_progress("")
    report["machine"]["command"] = shlex.join(["python", "-m", "benchmarks.cpu", *arguments])
    print(table.render(report))

    refused = any("refused" in row for row in report["rows"] + report["memory"])
    part = options.only or options.shape or options.dtype or options.quick
    output = options.output
    if output is None and not part and not refused:
        output = RESULTS / file_name(report["machine"]["name"])
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report, indent=1) + "\n")
        print(f"\nwritten to {output}")
    return int(refused)
