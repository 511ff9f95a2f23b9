"""``python -m benchmarks.readme`` writes what the documents show of ``benchmarks/results``.

That is the README's tables, docs/speed.md's and docs/speed.png, docs/family.md's table and
docs/growth.png, the tables of docs/models.md and docs/vllm.md, and those of docs/quality.md with
its two charts.
``--check`` only tells whether the tables are those that the files give (exit status 1 if not). A
result file holds ``machine`` (with ``device``: "cpu" or "cuda") and ``rows``, as ``report`` writes
them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from . import charts, speed, vllm
from .accuracy import charts as accuracy_charts
from .accuracy import tables as accuracy_tables
from .e2e import table as e2e_table
from .family import report as family
from .fidelity import charts as fidelity_charts
from .fidelity import tables as fidelity_tables
from .machine import RESULTS, ROOT
from .projector import PREFIX as PROJECTOR

BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"
README, SPEED, FAMILY = ROOT / "README.md", ROOT / "docs" / "speed.md", ROOT / "docs" / "family.md"
MODELS, QUALITY = ROOT / "docs" / "models.md", ROOT / "docs" / "quality.md"
VLLM = ROOT / "docs" / "vllm.md"
ACCURACY, FIDELITY, FLOOR = "accuracy", "fidelity", "floor-"  # how these files' names begin
# Of the last CPU in alphabetical order
GROWTH = ROOT / "docs" / "growth.png"


def generate_family(results: list[dict[str, Any]]) -> str:
    """The section of docs/family.md: one table for each result file, and the picture."""
    if not results:
        return "Not measured yet."
    picture = "![Time over the number of tokens and of picks, on logarithmic axes](growth.png)"
    return "\n\n".join([*map(family.section, results), picture])


def replace(document: str, section: str, name: str = "benchmark") -> str:
    """The document's text with ``section`` between the markers of that name."""
    begin, end = (marker.replace("benchmark", name) for marker in (BEGIN, END))
    if (
        document.count(begin) != 1
        or document.count(end) != 1
        or document.index(begin) > document.index(end)
    ):
        raise SystemExit(f"expected one line {begin} and, below it, one line {end}")
    head, rest = document.split(begin)
    tail = rest.split(end)[1]
    return f"{head}{begin}\n{section}\n{end}{tail}"


def load(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The result files of a folder in alphabetical order, by the prefix of their names."""
    quoted = (PROJECTOR, FLOOR)  # by documents as they are
    reports = (family.PREFIX, e2e_table.PREFIX, vllm.PREFIX, ACCURACY, FIDELITY)
    prefixes = (*quoted, *reports, "")
    found: dict[str, list[dict[str, Any]]] = {prefix: [] for prefix in prefixes}
    for path in sorted(folder.glob("*.json")):
        prefix = next(prefix for prefix in found if path.name.startswith(prefix))
        found[prefix].append(json.loads(path.read_text()))
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing, tell if they are current"
    )
    options = parser.parse_args(arguments)
    found = load(RESULTS)
    results, of_family = found[""], found[family.PREFIX]
    (accuracy,), (fidelity,) = found[ACCURACY], found[FIDELITY]
    sections = {
        (README, "benchmark"): speed.summary(results),
        (SPEED, "benchmark"): speed.document(results),
        (README, "quality"): accuracy_tables.for_readme(accuracy),
        (FAMILY, "benchmark"): generate_family(of_family),
        (MODELS, "benchmark"): e2e_table.document(found[e2e_table.PREFIX], results),
        (VLLM, "benchmark"): vllm.document(found[vllm.PREFIX]),
        (QUALITY, "accuracy"): accuracy_tables.document(accuracy),
        (QUALITY, "fidelity"): fidelity_tables.document(fidelity),
    }
    outdated = 0
    for (path, name), section in sections.items():
        before = path.read_text()
        after = replace(before, section, name)
        if options.check and before != after:
            print(f"{path.name}: its table differs from benchmarks/results; run", file=sys.stderr)
            print("python -m benchmarks.readme", file=sys.stderr)
            outdated = 1
        if not options.check:
            path.write_text(after)
    if options.check:
        return outdated
    for result in results:
        if result["machine"]["device"] == "cpu":
            charts.speed(result, SPEED.with_suffix(".png"))
    for result in of_family:
        charts.growth(result, GROWTH)
    accuracy_charts.quality(accuracy, QUALITY.with_suffix(".png"))
    fidelity_charts.fidelity(fidelity, QUALITY.with_name("fidelity.png"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
