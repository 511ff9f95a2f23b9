"""``python -m release.matrix``: one wheel, built against the oldest torch, under many versions.

    python -m release.matrix                       # all; writes docs/compatibility.md
    python -m release.matrix --only oldest newest --quick          # in minutes; --write writes, too

Every environment is fresh and has no part of the source tree; it is removed when its tests are
done. An environment that cannot be had on this machine is listed as such. --quick runs a part of
the tests, which the page says.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from . import wheels
from .environments import ROOT, Environment, copy_tests, run

BUILD = ROOT / "build" / "matrix"
PAGE = ROOT / "docs" / "compatibility.md"
TESTS = ("tests/test_build.py", "tests/ops", "tests/adapters", "tests/hf", "tests/test_demo.py")
QUICK = ("tests/test_build.py", "tests/ops/test_registration.py", "tests/ops/test_select_cpu.py")
TOOLS = ("pytest>=8", "pytest-xdist>=3", "pillow", "scikit-image", "safetensors", "packaging")
# The interpreter of Triton 3.6 does not work with NumPy 2.4 and later: its tests skip there.
ROWS = {
    #            Python  torch     Triton   NumPy    transformers
    "oldest": ("3.10", "2.11.0", "3.6.0", "2.2.6", "4.57.6"),
    "gpu": ("3.12", "2.11.0", "3.6.0", "2.5.2", "5.17.0"),  # the GPU machine's software, GPU apart
    "build": ("3.11", "2.13.0", "3.7.1", "2.4.6", "5.24.0"),
    "before": ("3.11", "2.14.1", "3.8.0", "2.4.1", "5.18.0"),
    "newest": ("3.13", "2.15.0", "3.9.0", "2.5.2", "5.24.0"),
    "python314": ("3.14", "2.15.0", "3.9.0", "2.5.2", "5.24.0"),
}
HEADER = ("Python", "torch", "Triton", "NumPy", "transformers")


@dataclass
class Result:
    """What one environment came to."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0
    reason: str = ""  # why it did not run
    quick: bool = False

    @property
    def text(self) -> str:
        if self.reason:
            return self.reason
        failed = f", **{self.failed} failed**" if self.failed else ""
        part = " (--quick)" if self.quick else ""
        return f"{self.passed} passed{failed}, {self.skipped} skipped{part}"


def run_row(name: str, wheel: Path, tests: tuple[str, ...]) -> Result:
    python, torch, triton, numpy, transformers = ROWS[name]
    environment = Environment(name, python=python, folder=BUILD)
    start = time.monotonic()
    try:
        environment.create()
    except FileNotFoundError as error:
        return Result(name, reason=f"not tried: {error}")
    packages = (f"torch=={torch}", f"triton=={triton}", f"numpy=={numpy}")
    environment.install(wheel, *packages, f"transformers=={transformers}", *TOOLS)
    report = BUILD / f"{name}.xml"
    report.unlink(missing_ok=True)
    folder = copy_tests(BUILD / f"tests-{name}")
    environment.pytest(folder, f"--junitxml={report}", *tests, check=False)
    environment.remove()
    if not report.exists():
        return Result(name, failed=1, reason="**pytest did not finish**")
    suite = ElementTree.parse(report).getroot()[0]
    tests_run, skipped = int(suite.get("tests")), int(suite.get("skipped"))
    failed = int(suite.get("failures")) + int(suite.get("errors"))
    return Result(name, tests_run - failed - skipped, failed, skipped, time.monotonic() - start)


def line(result: Result) -> str:
    """Of the table: versions, counts, day and commit."""
    commit = run(["git", "log", "-1", "--format=%h"], cwd=ROOT, output=True).strip()
    cells = (result.name, *ROWS[result.name], result.text, str(datetime.date.today()), commit)
    return f"| {' | '.join(cells)} |"


def write_page(lines: dict[str, str]) -> None:
    """Put the lines into docs/compatibility.md; those of other environments stay."""
    text = PAGE.read_text()
    begin, end = "<!-- matrix:begin -->\n", "<!-- matrix:end -->"
    start, stop = text.index(begin) + len(begin), text.index(end)
    before = {old.split(" | ")[0][2:]: old for old in text[start:stop].splitlines()}
    lines = {name: lines.get(name) or before.get(name) for name in ROWS}
    header = f"| | {' | '.join(HEADER)} | tests | day | commit |\n{'|---' * (len(HEADER) + 4)}|\n"
    table = header + "\n".join(filter(None, lines.values()))
    PAGE.write_text(f"{text[:start]}{table}\n{text[stop:]}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="release.matrix", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="a part of the tests: minutes")
    parser.add_argument("--write", action="store_true", help="the page, also with --quick")
    parser.add_argument("--wheel", type=Path, help="instead of building one")
    arguments = parser.parse_args()
    wheel = arguments.wheel or wheels.build_wheel("cpu")
    if not arguments.wheel:
        wheels.check_wheel(wheel, cuda=False)
    os.environ["PYTEST_ADDOPTS"] = "-W ignore::FutureWarning"
    lines, failed = {}, False
    for name in arguments.only:
        versions = ", ".join(map(" ".join, zip(HEADER, ROWS[name], strict=True)))
        print(f"{name}: {versions}", flush=True)
        result = run_row(name, wheel, QUICK if arguments.quick else TESTS)
        print(f"{name}: {result.text}, {result.seconds:.0f} s", flush=True)
        result.quick = arguments.quick and not result.reason
        lines[name] = line(result)
        failed |= result.failed > 0
        if arguments.write or not arguments.quick:
            write_page(lines)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
