"""Slow proofs: tests that run again only when what they prove has changed.

A module says so: ``pytestmark = pytest.mark.proves("csrc/cuda", "csrc/include")``. With
``--proofs=record`` (``make test-full``) all run, and the content below the paths of those that
passed is written to proofs.json as a hash; with ``--proofs=changed`` (``make test``, and with it
continuous integration) they run only where the content has another hash. Without the option, and so
where a module is named on the command line, they run.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "tests" / "proofs.json"
SUFFIXES = {".py", ".h", ".cpp", ".cu", ".cuh", ".txt", ".map"}


@functools.cache
def digest(paths: tuple[str, ...]) -> str:
    """Of the names and the content of all source files below the paths."""
    content = hashlib.sha256()
    for path in paths:
        top = ROOT / path
        files = [top] if top.is_file() else [f for f in top.rglob("*") if f.suffix in SUFFIXES]
        assert files, f"{path}: no source file"
        for file in sorted(files):
            content.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes() + b"\0")
    return content.hexdigest()


def proves(item: pytest.Item) -> tuple[str, ...] | None:
    """The paths that a test is a slow proof of, its own file among them."""
    marker = item.get_closest_marker("proves")
    return marker and (*marker.args, str(item.path.relative_to(ROOT)))


def recorded() -> dict[str, dict]:
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}


def drop_proved(items: list[pytest.Item]) -> list[pytest.Item]:
    """Take those out whose proof still holds; returns them."""
    known = recorded()
    dropped = []
    for item in items:
        paths = proves(item)
        if paths and known.get(paths[-1], {}).get("sha256") == digest(paths):
            dropped.append(item)
    items[:] = [item for item in items if item not in dropped]
    return dropped


class Recorder:
    """Writes what was proved in a session, whichever process ran it."""

    def __init__(self) -> None:
        self.passed: dict[tuple[str, ...], int] = {}
        self.failed: set[tuple[str, ...]] = set()

    def add(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name != "proves":
                continue
            paths = tuple(value)
            if report.failed:
                self.failed.add(paths)
            elif report.when == "call" and report.passed:
                self.passed[paths] = self.passed.get(paths, 0) + 1

    def write(self) -> None:
        known = recorded()
        for paths, count in self.passed.items():
            if paths not in self.failed:
                today = str(datetime.date.today())
                known[paths[-1]] = {"sha256": digest(paths), "passed": count, "date": today}
        RECORD.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
