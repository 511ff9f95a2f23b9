"""``python -m release.matrix``: one wheel, built against the oldest torch, under many versions.

    python -m release.matrix                       # all; writes docs/compatibility.md
    python -m release.matrix --only oldest newest --quick          # in minutes; --write writes, too
    python -m release.matrix --resume              # goes on where an earlier run was stopped

Every environment is its own, has no part of the source tree, and is removed when its tests are
done. Its line is written as soon as it is known. An environment that cannot be had on this machine,
or not within a limit, is listed as such. --quick runs a part of the tests, which the page says.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import os
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from . import wheels
from .environments import ROOT, Environment, TooLong, copy_tests, run

BUILD = ROOT / "build" / "matrix"
PAGE = ROOT / "docs" / "compatibility.md"
TESTS = (
    "tests/test_build.py",
    "tests/test_security.py",
    "tests/ops",
    "tests/adapters",
    "tests/hf",
    "tests/test_demo.py",
)
QUICK = ("tests/test_build.py", "tests/ops/test_registration.py", "tests/ops/test_select_cpu.py")
TOOLS = "pytest>=8 pytest-xdist>=3 hypothesis>=6 pillow scikit-image safetensors packaging".split()
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
# What a row has beside that: the GPU machine's, whose timm builds towers that others only name.
BESIDE = {"gpu": ("torchvision==0.26.0", "timm==1.0.31")}
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


@dataclass
class Limits:
    """In minutes, of one environment."""

    install: float
    tests: float


def run_row(name: str, wheel: Path, tests: tuple[str, ...], limits: Limits, keep: bool) -> Result:
    python, torch, triton, numpy, transformers = ROWS[name]
    environment = Environment(name, python=python, folder=BUILD)
    start = time.monotonic()
    packages = (f"torch=={torch}", f"triton=={triton}", f"numpy=={numpy}")
    packages += (f"transformers=={transformers}", *TOOLS, *BESIDE.get(name, ()))
    try:
        if not environment.exists():
            environment.create()
        environment.install(*packages, wheel, minutes=limits.install)
    except FileNotFoundError as error:
        return Result(name, reason=f"not tried: {error}")
    except TooLong:
        return Result(name, reason=f"not tried: not installed within {limits.install:g} minutes")
    except SystemExit:
        return Result(name, reason="not tried: these versions do not install here")
    report = BUILD / f"{name}.xml"
    report.unlink(missing_ok=True)
    folder = copy_tests(BUILD / f"tests-{name}")
    try:
        arguments = (f"--junitxml={report}", *tests)
        environment.pytest(folder, *arguments, check=False, minutes=limits.tests)
    except TooLong:
        text = f"**tests not done within {limits.tests:g} minutes**"
        return Result(name, failed=1, reason=text)
    if not keep:
        environment.remove()
    if not report.exists():
        return Result(name, failed=1, reason="**pytest did not finish**")
    suite = ElementTree.parse(report).getroot()[0]
    tests_run, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    return Result(name, tests_run - failed - skipped, failed, skipped, time.monotonic() - start)


@functools.cache
def commit() -> str:
    return run(["git", "log", "-1", "--format=%h"], cwd=ROOT, output=True).strip()


def line(result: Result) -> str:
    """Of the table: versions, counts, day and commit."""
    cells = (result.name, *ROWS[result.name], result.text, str(datetime.date.today()), commit())
    return f"| {' | '.join(cells)} |"


def table() -> tuple[str, dict[str, str], str]:
    """The page before the table, the table's lines by name, and the page behind it."""
    text = PAGE.read_text()
    begin, end = "<!-- matrix:begin -->\n", "<!-- matrix:end -->"
    start, stop = text.index(begin) + len(begin), text.index(end)
    lines = {old.split(" | ")[0][2:]: old for old in text[start:stop].splitlines()}
    return text[:start], {name: lines[name] for name in ROWS if name in lines}, text[stop:]


def write_page(new: dict[str, str]) -> None:
    """Put the lines into docs/compatibility.md; those of other environments stay."""
    before, old, behind = table()
    lines = {name: new.get(name) or old.get(name) for name in ROWS}
    header = f"| | {' | '.join(HEADER)} | tests | day | commit |\n{'|---' * (len(HEADER) + 4)}|\n"
    PAGE.write_text(f"{before}{header}" + "\n".join(filter(None, lines.values())) + f"\n{behind}")


def known(quick: bool) -> set[str]:
    """The environments whose line is of this commit, passed, and of no fewer tests."""
    lines = {name: old for name, old in table()[1].items() if old.endswith(f"| {commit()} |")}
    passed = {name: old for name, old in lines.items() if " passed" in old and "failed" not in old}
    return {name for name, old in passed.items() if quick or "--quick" not in old}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="release.matrix", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="a part of the tests: minutes")
    parser.add_argument("--write", action="store_true", help="the page, also with --quick")
    parser.add_argument("--resume", action="store_true", help="without what this commit passed")
    parser.add_argument("--keep", action="store_true", help="the environments, for the next time")
    parser.add_argument("--wheel", type=Path, help="instead of building one")
    parser.add_argument("--install-limit", type=float, default=30, metavar="MINUTES")
    parser.add_argument("--limit", type=float, default=120, metavar="MINUTES", help="of the tests")
    arguments = parser.parse_args()
    limits = Limits(arguments.install_limit, arguments.limit)
    wheel = arguments.wheel
    if not wheel:
        try:
            wheels.build_environment(limits.install)
        except (TooLong, FileNotFoundError) as error:
            reason = str(error) or f"not installed within {limits.install:g} minutes"
            print(f"matrix: NOT RUN, no environment to build in: {reason}")
            return 0
        wheel = wheels.build_wheel("cpu")
        wheels.check_wheel(wheel, cuda=False)
    os.environ["PYTEST_ADDOPTS"] = "-W ignore::FutureWarning"
    tests, done = QUICK if arguments.quick else TESTS, set()
    if arguments.resume:
        done = known(arguments.quick)
    failed = False
    for name in (name for name in arguments.only if name not in done):
        versions = ", ".join(map(" ".join, zip(HEADER, ROWS[name], strict=True)))
        print(f"{name}: {versions}", flush=True)
        result = run_row(name, wheel, tests, limits, arguments.keep)
        print(f"{name}: {result.text}, {result.seconds:.0f} s", flush=True)
        result.quick = arguments.quick and not result.reason
        failed |= result.failed > 0
        tried = not result.reason.startswith("not tried") or name not in table()[1]
        if tried and (arguments.write or not arguments.quick):
            write_page({name: line(result)})
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
