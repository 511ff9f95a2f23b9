"""``make bench``: every operator against plain PyTorch on this CPU, checked, as one short report.

Measures in turns, verifies each result before its ratio counts, and writes a complete run to
``benchmarks/results/<cpu>.json``; ``python -m benchmarks.readme`` makes the README's table of it.
A partial run (``--only``, ``--shape``, ``--dtype``, ``--quick``) is printed, and written only to
``--output``; so is a run with a refused result, whose exit status is 1.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import partial, reduce
from pathlib import Path
from typing import Any

import torch

import zoprune_kernels
from zoprune_kernels import backend

from .. import table
from ..shapes import DIRECTIONS, DTYPES, LLAVA, MANY_TOKENS, SHAPES, Shape
from ..targets import targets
from ..timing import Times, in_turns
from . import memory
from .cases import OPS, Case, Group, groups

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
# Rounds for a group of cases, and for how long quick ones may take more.
ROUNDS, SECONDS = 3, 5.0
# Published form: gigabytes, so in one dtype only
MEMORY_CASES = {
    "bf16": list(memory.CASES),
    "fp32": [case for case in memory.CASES if case != "published"],
}

Row = dict[str, Any]
Progress = Callable[[str], None]


def measure_group(group: Group, rounds: int, progress: Progress) -> list[Row]:
    """Check every case's result, then time all cases and baselines in turns: one row per case."""
    place = f"{group.shape.name}, {group.dtype}"
    rows: dict[Case, Row] = {}
    for case in group.cases:
        progress(f"{place}: checking {case.name}")
        row: Row = {"op": case.op, "variant": case.variant, "shape": group.shape.name}
        row["dtype"] = group.dtype
        try:
            checks = case.check(case.run())  # warms the case up, too
        except RuntimeError as error:
            row["refused"] = str(error)
        else:
            row["checks"] = [str(check) for check in checks]
            failed = [str(check) for check in checks if not check.passed]
            row |= {"refused": "; ".join(failed)} if failed else {}
        rows[case] = row

    group = group.only(lambda case: "refused" not in rows[case])
    functions = {**group.baselines} | {case.name: case.run for case in group.cases}
    times = in_turns(
        functions,
        rounds,
        seconds=0 if rounds == 1 else SECONDS,
        progress=lambda name: progress(f"{place}: {name}"),
    )
    for case in group.cases:
        rows[case] |= _outcome(case, times)
    return list(rows.values())


def _outcome(case: Case, times: dict[str, Times]) -> Row:
    """The times of a case and its ratio to each baseline."""
    own = times[case.name]
    against = {}
    for label, terms in case.against.items():
        other = reduce(Times.__add__, [times[name].scaled(factor) for name, factor in terms])
        ratio, low, high = other.ratio_to(own)
        against[label] = {
            "ratio": ratio,
            "lowest": low,
            "highest": high,
            "seconds": other.median,
            "of": terms,
        }
    outcome: Row = {"seconds": own.median, "rounds": len(own.seconds), "against": against}
    if case.directions is not None:
        outcome["directions_measured"] = case.directions
    return outcome


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


def commit() -> str:
    """The commit that is checked out; ``-dirty`` where anything but results differs from it."""
    git = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True)
    name = git(["git", "describe", "--always"]).stdout.strip()
    others = ["git", "diff", "--quiet", "HEAD", "--", ".", ":!benchmarks/results"]
    if not name:
        return "unknown"
    return f"{name}-dirty" if git(others).returncode else name


def machine() -> dict[str, Any]:
    """What the numbers were measured on and with."""
    served = {op: backend.candidates(op, "cpu") for op in OPS}
    return {
        "device": "cpu",
        "name": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "zoprune_kernels": zoprune_kernels.__version__,
        "backends": {
            op: next(name for name, reason in found if reason is None)
            for op, found in served.items()
        },
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes"),
        "commit": commit(),
    }


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def file_name(device: str) -> str:
    """A device's name as a file name: lower case, words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".json"


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

    def progress(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    with torch.inference_mode():
        report = run(
            [shape for shape in SHAPES if not options.shape or shape.name in options.shape],
            options.dtype or list(DTYPES),
            set(options.only or OPS),
            quick=options.quick,
            rounds=options.rounds,
            progress=progress,
        )
    progress("")
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
