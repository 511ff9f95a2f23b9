"""Runs parts one after another so that nothing found is lost: the standard library only.

A folder holds ``report.json``, rewritten whole after every part, ``report.log``, which every part
writes to directly, and ``part.json``, what the part at hand has found so far. Whenever the run is
ended, by whatever, ``report.json`` is readable and has every finished part.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]

ROOT = Path(__file__).parents[2]
OK, FAILED, SKIPPED = "ok", "FAILED", "skipped"
REPORT, LOG, PART = "report.json", "report.log", "part.json"
OUTPUT = "ZOPRUNE_PART_OUTPUT"  # the variable that tells a part where to write
TAIL = 4000  # characters of a part's output that go into the report
LEAST = 5  # seconds that are worth a start
GONE = 5  # seconds that a killed process may take
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Part:
    """A command line and its time limit in seconds.

    It may write a JSON object with ``rows``, ``ceilings``, ``machine`` and the like to the file
    that ``ZOPRUNE_PART_OUTPUT`` names, as often as it likes. ``vital``: nothing after it makes
    sense if it fails. ``package``: the part is skipped where that is not installed.
    """

    command: list[str]
    limit: float
    vital: bool = False
    package: str = ""
    environment: dict[str, str] = field(default_factory=dict)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replaces the file at once: a reader finds the old content or the new, never a piece."""
    new = path.with_name(path.name + ".new")
    with new.open("w") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


def read_json(path: Path) -> Row:
    """An object; empty where there is none or the file holds something else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_part(content: Mapping[str, Any]) -> None:
    """Called in a part: what it has found so far."""
    if path := os.environ.get(OUTPUT):
        write_json(Path(path), content)


def run_part(part: Part, limit: float, folder: Path) -> Row:
    """Its status, its time, the end of what it printed and what it wrote."""
    if part.package and importlib.util.find_spec(part.package) is None:
        status = f"{SKIPPED}: {part.package} is not installed"
        return {"status": status, "seconds": 0.0, "output": ""}
    written = folder / PART
    written.unlink(missing_ok=True)
    marker = f"{os.getpid()}-{time.monotonic_ns()}"
    path = os.pathsep.join([str(ROOT), str(ROOT / "python")])
    environment = os.environ | {OUTPUT: str(written), "PYTHONPATH": path, "ZOPRUNE_PART": marker}
    environment |= part.environment
    start = time.monotonic()
    with (folder / LOG).open("ab") as log:
        begin = log.tell()
        try:
            process = subprocess.Popen(
                part.command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        except OSError as error:
            return {"status": FAILED, "seconds": 0.0, "output": str(error)}
        try:
            status = OK if process.wait(limit) == 0 else f"{FAILED}: exit {process.returncode}"
        except subprocess.TimeoutExpired:
            status = f"{FAILED}: over {limit:.0f} s"
        finally:
            end_with_children(process, marker)
    with (folder / LOG).open("rb") as log:
        log.seek(begin)
        text = log.read().decode(errors="replace")
    result = {"status": status, "seconds": round(time.monotonic() - start, 1)}
    return result | {"output": text[-TAIL:], **tests_in(text), **read_json(written)}


def _die_with_parent() -> None:
    """In the child: a report that is killed takes the part at hand along."""
    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)


def end_with_children(process: subprocess.Popen[bytes], marker: str) -> None:
    """Ends a part's session, and what it started in sessions of their own, told by a variable."""
    until = time.monotonic() + GONE
    victims = {process.pid}
    while victims and time.monotonic() < until:
        for victim in victims:
            for end in (os.killpg, os.kill):
                try:
                    end(victim, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass
        process.poll()
        victims = set(_marked(marker))  # again: what was started meanwhile, what is still dying
        time.sleep(0.01 if victims else 0)
    process.wait()


def _marked(marker: str) -> Iterable[int]:
    """Processes that have the marker in their environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"ZOPRUNE_PART={marker}".encode() in (folder / "environ").read_bytes():
                yield int(folder.name)
        except OSError:
            continue


def tests_in(text: str) -> Row:
    """What ``pytest -v`` said of each test, also where it was ended in between."""
    words = "PASSED|FAILED|ERROR|SKIPPED"
    with_workers = re.findall(rf"^\[gw\d+\] .*?({words}) (\S+::.*?) *$", text, re.MULTILINE)
    alone = re.findall(rf"^(\S+::.*?) ({words})\b", text, re.MULTILINE)
    outcome = {test: word for word, test in with_workers} | dict(alone)
    if not outcome:
        return {}
    failed = [test for test, word in outcome.items() if word in ("FAILED", "ERROR")]
    counts = {word.lower(): list(outcome.values()).count(word) for word in ("PASSED", "SKIPPED")}
    return {"tests": counts | {"failed": failed}}


def run(
    names: Iterable[str],
    parts: Mapping[str, Part],
    seconds: float,
    folder: Path,
    starting: Callable[[str], None],
    finished: Callable[[str, Row], None],
) -> None:
    """Runs parts in their order, none beyond ``seconds`` for all, and tells before and after each.

    After a vital part that fails the others are skipped.
    """
    end = time.monotonic() + seconds
    failed = ""
    for name in names:
        left = end - time.monotonic()
        if failed:
            result = {"status": f"{SKIPPED}: {failed} failed", "seconds": 0.0, "output": ""}
        elif left < LEAST:
            result = {"status": f"{SKIPPED}: no time left", "seconds": 0.0, "output": ""}
        else:
            starting(name)
            print(f"{name} ...", file=sys.stderr, flush=True)
            result = run_part(parts[name], min(parts[name].limit, left), folder)
            if parts[name].vital and result["status"] != OK:
                failed = name
        finished(name, result)
        print(f"{name}: {result['status']}, {result['seconds']} s", file=sys.stderr, flush=True)
