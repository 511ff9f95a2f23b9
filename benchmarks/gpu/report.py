"""``make gpu-report OUT=DIR``: checks, tests and measures on this machine's GPU, losing nothing.

    make gpu-report OUT=DIR                       # the first run, within 580 s
    make gpu-report OUT=DIR ARGS=--second         # what failed once more, then fp16 and races
    make gpu-report OUT=DIR ARGS="--only e2e"     # one part
    python -m benchmarks.gpu --adopt DIR [DIR ..] # takes DIRs' results into benchmarks/results

Every part runs in a process of its own with a limit of its own, so that none hides the others;
``runner`` says what is in DIR. A part that did not run now keeps what an earlier run of the same
GPU found. ``ZOPRUNE_COMMIT`` or ``--commit`` names the commit where there is no git. Exit status 1
if a part failed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import plan
from .runner import (
    FAILED,
    LOG,
    OK,
    PART,
    REPORT,
    ROOT,
    SKIPPED,
    Part,
    Row,
    read_json,
    run,
    write_json,
)

SECONDS = 580
DEFAULT = ROOT / "build" / "gpu-report"


def merge(report: Row, name: str, part: Row, commit: str) -> Row:
    """The report after one more part: it replaces what an earlier run of that part found.

    One that failed replaces only what it has found again, one that was skipped nothing.
    """
    before = report.get("parts", {}).get(name, {})
    skipped = part["status"].startswith(SKIPPED)
    if skipped and before and not before["status"].startswith(SKIPPED):
        return report
    moved = ("rows", "ceilings", "machine")
    kept = {key: value for key, value in part.items() if key not in moved}
    if part["status"] != OK:
        kept = before | kept
    new = [row | {"part": name} for row in part.get("rows", [])]
    again = {_key(row) for row in new}
    rows = [
        row
        for row in report.get("rows", [])
        if row["part"] != name or (part["status"] != OK and _key(row) not in again)
    ] + new
    about = report.get("machine", {}) | part.get("machine", {})
    return {
        "machine": about,
        "directions": 64,
        "parts": report.get("parts", {}) | {name: kept | {"commit": commit}},
        "ceilings": report.get("ceilings", {}) | part.get("ceilings", {}),
        "rows": rows,
        "memory": [],
        "targets": report.get("targets", []),
    }


def _key(row: Row) -> tuple[str | None, ...]:
    return tuple(row.get(name) for name in ("op", "variant", "shape", "dtype"))


class Report:
    """``report.json`` of a folder, which is written anew after every part."""

    def __init__(self, folder: Path, commit: str) -> None:
        self.folder, self.commit = folder, commit
        self.content = read_json(folder / REPORT)
        self.failed = False
        # A run that was ended in between left what its last part had found.
        left = self.content.get("running")
        if left and (found := read_json(folder / PART)):
            self.add(left, {"status": f"{FAILED}: ended", "seconds": 0.0, "output": "", **found})

    def start(self, name: str) -> None:
        (self.folder / PART).unlink(missing_ok=True)  # that of a part which is in the report
        write_json(self.folder / REPORT, self.content | {"running": name})

    def add(self, name: str, part: Row) -> None:
        name_now = part.get("machine", {}).get("name")
        name_before = self.content.get("machine", {}).get("name", name_now)
        if name_now and name_now != name_before:  # results of another card stay by its name
            write_json(self.folder / f"earlier-{REPORT}", self.content)
            self.content = {}
        self.failed |= part["status"].startswith(FAILED)
        self.content = merge(self.content, name, part, self.commit)
        self.content["targets"] = verdicts(self.content["rows"])
        write_json(self.folder / REPORT, self.content)


def verdicts(rows: list[Row]) -> list[Row]:
    """Whether rows meet the targets; none where this Python cannot tell: rows are worth more."""
    try:
        from .targets import targets

        return [target.verdict(rows) for dtype in ("bf16", "fp16") for target in targets(dtype)]
    except Exception as error:
        print(f"targets: {type(error).__name__}: {error}", file=sys.stderr)
        return []


def wanted(options: argparse.Namespace, report: Report, parts: Mapping[str, Part]) -> list[str]:
    """The parts of this run, in their order."""
    if options.only:
        return list(options.only)
    if not options.second:
        return [name for name in plan.FIRST if name in parts]
    before = report.content.get("parts", {})
    mends = [
        name
        for name in plan.FIRST
        if name in parts and name not in plan.NEEDED and before.get(name, {}).get("status") != OK
    ]
    needed = [name for name in plan.NEEDED if name in parts]
    return [*needed, *mends, *(name for name in plan.SECOND if name in parts)]


def join(reports: Sequence[Row]) -> Row:
    """One report of several of the same card: of a part that several have, the last one's."""
    joined: Row = {}
    for report in reports:
        about = report.get("machine", {})
        for name, part in report.get("parts", {}).items():
            rows = [row for row in report.get("rows", []) if row["part"] == name]
            found = part | {"rows": rows, "machine": about}
            if name == "ceilings":
                found["ceilings"] = report.get("ceilings", {})
            joined = merge(joined, name, found, part["commit"])
    return joined | {"targets": verdicts(joined.get("rows", []))}


def adopt(folders: Sequence[Path]) -> int:
    """Copies what is in the folders' reports to ``benchmarks/results/<gpu>.json``.

    What the parts printed stays behind: it names the places of one machine.
    """
    from ..machine import RESULTS, file_name

    reports = [read_json(folder / REPORT) for folder in folders]
    places = ", ".join(str(folder / REPORT) for folder in folders)
    cards = {about["name"] for report in reports if (about := report.get("machine"))}
    if len(cards) != 1 or not any(report.get("rows") for report in reports):
        got = " and ".join(sorted(cards)) if len(cards) > 1 else "none"
        print(f"{places}: expected measured rows of one card, got {got}", file=sys.stderr)
        return 1
    target = RESULTS / file_name(cards.pop())
    adopted = join(reports)
    for part in adopted["parts"].values():
        part.pop("output", None)
    write_json(target, adopted)
    print(f"{target}; python -m benchmarks.readme writes the documents")
    return 0


def main(arguments: list[str], parts: Mapping[str, Part] = plan.PARTS) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=DEFAULT, help="folder (default %(default)s)")
    parser.add_argument("--second", action="store_true", help="failed parts, fp16, racecheck")
    parser.add_argument("--only", nargs="+", choices=list(parts), metavar="PART", help="some parts")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="limit of all parts together"
    )
    parser.add_argument("--commit", help="name of the measured commit")
    parser.add_argument(
        "--adopt", type=Path, nargs="+", metavar="DIR", help="take DIRs' results; run nothing"
    )
    options = parser.parse_args(arguments)
    if options.adopt:
        return adopt(options.adopt)
    folder = options.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the part at hand, too
    if options.commit:
        os.environ["ZOPRUNE_COMMIT"] = options.commit
    from ..git import commit

    report = Report(folder, commit())
    run(wanted(options, report, parts), parts, options.seconds, folder, report.start, report.add)
    (folder / PART).unlink(missing_ok=True)
    print(f"{folder / REPORT}, {folder / LOG}")
    try:
        from .summary import table

        print(table(report.content))
    except Exception as error:  # everything is in the file
        print(f"no table: {type(error).__name__}: {error}", file=sys.stderr)
    return int(report.failed)
