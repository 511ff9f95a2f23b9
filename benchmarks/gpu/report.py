"""``make gpu-report``: builds, tests, sanitizes and measures on this machine's GPU.

Every part runs in a process of its own with a time limit, so that none hides the others; ``--only``
runs some of them again. Writes ``benchmarks/results/<gpu>.json``, where parts that did not run now
keep what an earlier run of the same GPU found, and prints a short table last. Exit status 1 if a
part failed; without a GPU nothing is measured or written.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..cpu.report import RESULTS, ROOT, Row, commit, file_name
from ..e2e import table as e2e_table
from ..shapes import DIRECTIONS
from .targets import targets

FINISHED, FAILED, SKIPPED = "ok", "FAILED", "skipped: no GPU"


@dataclass(frozen=True)
class Part:
    """A command line and its time limit in seconds. It may write rows or facts to the file that
    the environment variable ``ZOPRUNE_PART_OUTPUT`` names."""

    command: list[str]
    limit: int
    needs_gpu: bool = True
    package: str = "torch"  # the part is skipped where this is not installed


def measuring(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.gpu.parts", *arguments]


def pytest(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]


GPU_TESTS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_gpu_*.py"))
PARTS = {
    "build": Part([sys.executable, "setup.py", "build_ext", "--inplace"], 150, needs_gpu=False),
    "info": Part([sys.executable, "-m", "zoprune_kernels.info"], 30, needs_gpu=False),
    "gpu-tests": Part(pytest(*GPU_TESTS), 150),
    "select-bf16": Part(measuring("selection", "bf16"), 60),
    "family-bf16": Part(measuring("family", "bf16"), 40),
    "scoring-bf16": Part(measuring("scoring", "bf16"), 90),
    "ceilings": Part(measuring("ceilings"), 40),
    "memcheck": Part(measuring("sanitizer", "memcheck"), 60),
    "racecheck": Part(measuring("sanitizer", "racecheck"), 60),
    "e2e": Part(
        [sys.executable, "-m", "benchmarks.e2e", "--device", "cuda"], 120, package="transformers"
    ),
    "vllm": Part(
        [sys.executable, "-m", "benchmarks.vllm", "--device", "cuda"], 300, package="vllm"
    ),
    "select-fp16": Part(measuring("selection", "fp16"), 60),
    "scoring-fp16": Part(measuring("scoring", "fp16"), 90),
    "tests": Part(pytest("tests", *(f"--ignore={path}" for path in GPU_TESTS)), 150),
}


def run_part(part: Part, limit: float) -> Row:
    """Its status, its time, the end of what it printed and what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output.json"
        environment = os.environ | {
            "ZOPRUNE_PART_OUTPUT": str(output),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "python")]),
        }
        start = time.monotonic()
        try:
            done = subprocess.run(
                part.command,
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=limit,
            )
            text, status = done.stdout, FINISHED if done.returncode == 0 else FAILED
        except subprocess.TimeoutExpired as expired:
            text, status = expired.stdout or b"", f"{FAILED}: over {limit:.0f} s"
        except OSError as error:
            text, status = str(error).encode(), FAILED
        seconds = round(time.monotonic() - start, 1)
        written = json.loads(output.read_text()) if output.exists() else {}
    tail = text.decode(errors="replace")[-4000:]
    return {"status": status, "seconds": seconds, "output": tail} | written


def run_parts(
    names: list[str], budget: float, has_gpu: bool, say: Callable[[str], None]
) -> dict[str, Row]:
    """Runs parts one after another, none beyond the budget of seconds for all."""
    end = time.monotonic() + budget
    results: dict[str, Row] = {}
    for name in names:
        part = PARTS[name]
        left = end - time.monotonic()
        if part.needs_gpu and not has_gpu:
            results[name] = {"status": SKIPPED, "seconds": 0.0, "output": ""}
        elif importlib.util.find_spec(part.package) is None:
            status = f"skipped: {part.package} is not installed"
            results[name] = {"status": status, "seconds": 0.0, "output": ""}
        elif left < 5:
            results[name] = {"status": f"{FAILED}: no time left", "seconds": 0.0, "output": ""}
        else:
            say(f"{name} ...")
            results[name] = run_part(part, min(part.limit, left))
            if results[name]["status"] != FINISHED:
                say(results[name]["output"])
        say(f"{name}: {results[name]['status']}, {results[name]['seconds']} s")
    return results


def machine() -> dict[str, Any]:
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
    )
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": "cuda",
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "driver": driver.stdout.strip(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes"),
        "commit": commit(),
        "command": "make gpu-report",
    }


def merge(earlier: Row, parts: dict[str, Row], about: dict[str, Any]) -> Row:
    """The content of a result file: new parts replace those of an earlier run."""
    merged = earlier.get("parts", {}) | {
        name: {key: value for key, value in part.items() if key not in ("rows", "ceilings")}
        | {"commit": about["commit"]}
        for name, part in parts.items()
    }
    rows = [row for row in earlier.get("rows", []) if row["part"] not in parts]
    rows += [row | {"part": name} for name, part in parts.items() for row in part.get("rows", [])]
    ceilings = earlier.get("ceilings", {})
    for part in parts.values():
        ceilings = part.get("ceilings", ceilings)
    verdicts = [target.verdict(rows) for dtype in ("bf16", "fp16") for target in targets(dtype)]
    return {
        "machine": about,
        "directions": DIRECTIONS,
        "parts": merged,
        "ceilings": ceilings,
        "rows": rows,
        "memory": [],
        "targets": verdicts,
    }


def table(report: Row) -> str:
    """The report in a few dozen lines."""
    lines = [f"{'part':14}{'seconds':>8}  result"]
    for name, part in report["parts"].items():
        last = part["output"].strip().splitlines()[-1:] if "tests" in name else []
        lines.append(f"{name:14}{part['seconds']:>8}  {' '.join([part['status'], *last])}")
    for name, text in report["ceilings"].items():
        lines.append(f"{name:40}{text}")
    if end_to_end := report["parts"].get("e2e", {}).get("e2e"):
        lines += [e2e_table.HEADING, *map(e2e_table.line, end_to_end["rows"])]
        lines.append(e2e_table.verdict(end_to_end["setting"], end_to_end["rows"]))
    if report["rows"]:
        lines.append(f"{'operator':58}{'us':>9}{'launches':>9}  times faster than")
    for row in report["rows"]:
        name = f"{row['op']} ({row['variant']}), {row['shape']}, {row['dtype']}"
        if "refused" in row:
            lines.append(f"{name:58}  REFUSED {row['refused'][:200]}")
            continue
        against = "  ".join(f"{label} {v['ratio']:.3g}" for label, v in row["against"].items())
        launches = len(row["kernels"])
        lines.append(f"{name:58}{row['seconds'] * 1e6:>9.1f}{launches:>9}  {against}")
    for verdict in report["targets"]:
        measured, met = "-", "not measured"
        if verdict["measured"] is not None:
            measured = f"{verdict['measured']:.3g} {verdict['unit']}"
            met = "yes" if verdict["met"] else "NO"
        goal = f"{verdict['goal']:g} {verdict['unit']}"
        lines.append(f"{verdict['target']:58}{goal:>10}{measured:>12}  {met}")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), metavar="PART", help="some parts")
    parser.add_argument("--seconds", type=float, default=465, help="limit of all parts together")
    parser.add_argument("--output", type=Path, help="file to write instead of the GPU's own")
    options = parser.parse_args(arguments)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    has_gpu = torch.cuda.is_available()
    parts = run_parts(options.only or list(PARTS), options.seconds, has_gpu, say)
    failed = any(part["status"].startswith(FAILED) for part in parts.values())
    if not has_gpu:
        empty = {"parts": parts, "ceilings": {}, "rows": [], "targets": []}
        print(f"{table(empty)}\nno GPU: nothing measured, nothing written")
        return int(failed)
    about = machine()
    output = options.output or RESULTS / file_name(about["name"])
    earlier = json.loads(output.read_text()) if output.exists() else {}
    report = merge(earlier, parts, about)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{about['name']}, torch {about['torch']}, commit {about['commit']}: {output}")
    print(table(report))
    return int(failed)
