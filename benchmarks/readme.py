"""``python -m benchmarks.readme`` writes what the documents show of ``benchmarks/results``.

That is the README's tables and docs/speed.png, docs/family.md's table and docs/growth.png, the
tables of docs/models.md and docs/vllm.md, and those of docs/quality.md with its two charts.
``--check`` only tells whether the tables are those that the files give (exit status 1 if not). A
result file holds ``machine`` (with ``device``: "cpu" or "cuda") and ``rows``, as ``report`` writes
them. Absolute times are shown for GPUs only: those of a shared CPU say little.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from . import charts, table, vllm
from .accuracy import charts as accuracy_charts
from .accuracy import tables as accuracy_tables
from .cpu.targets import PER_CALL
from .e2e import table as e2e_table
from .family import report as family
from .fidelity import charts as fidelity_charts
from .fidelity import tables as fidelity_tables
from .machine import RESULTS, ROOT
from .projector import PREFIX as PROJECTOR
from .shapes import LLAVA, LLAVA_NEXT, QWEN
from .targets import Row, find

EAGER = "†"  # marks a ratio of eager calls
BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"
README, FAMILY = ROOT / "README.md", ROOT / "docs" / "family.md"
MODELS, QUALITY = ROOT / "docs" / "models.md", ROOT / "docs" / "quality.md"
VLLM = ROOT / "docs" / "vllm.md"
ACCURACY, FIDELITY, FLOOR = "accuracy", "fidelity", "floor-"  # how these files' names begin
# Of the last CPU in alphabetical order
PICTURE, GROWTH = ROOT / "docs" / "speed.png", ROOT / "docs" / "growth.png"

# By what is compared: operator, variant, shape, against what, and how the README words that.
GROUPS = {
    "The paper's scores, m = 64 directions": [
        ("score_and_select", "m = 64, k = 64", LLAVA, "paper", "the paper's algorithm"),
        ("sensitivity", "m = 64, h = 0.01", LLAVA, "paper", "the paper's scores"),
        ("sensitivity", "m = 64, h = 0.01", LLAVA, "GEMM", "a bare GEMM of its FLOPs"),
    ],
    "The closed form, over all directions (other numbers, nearly the same order)": [
        ("score_and_select", "closed form, k = 64", LLAVA, "paper", "the paper's algorithm"),
        ("score_and_select", "closed form, k = 160", LLAVA_NEXT, "paper", "the paper's algorithm"),
        ("score_and_select", "closed form, k = 128", QWEN, "paper", "the paper's algorithm"),
        ("expected_sensitivity", "closed form", LLAVA, "paper", "the paper's scores"),
    ],
    "Selection alone (the same picks)": [
        ("select", "k = 64", LLAVA, "loop", "the authors' loop"),
        ("select", "5 crops, k = 128 each", LLAVA_NEXT, "loop", "the authors' loops, one a crop"),
        ("select", "5 crops, k = 64 each", LLAVA_NEXT, "loop", "the authors' loops, one a crop"),
        ("select", "k = 640", LLAVA_NEXT, "loop", "one authors' loop over all crops"),
        ("select", "k = 640", LLAVA_NEXT, "better loop", "one that keeps the minimum"),
    ],
    "What the host spends on a call": [
        ("select", "k = 64", LLAVA, "eager", "host time of an eager call"),
        ("score_and_select", "closed form, k = 64", LLAVA, "eager", "host time of an eager call"),
    ],
}


def generate(results: list[dict[str, Any]]) -> str:
    """The README's section: a table for CPUs and one for GPUs, machines side by side."""
    sections = []
    for device, kind in (("cpu", "CPU"), ("cuda", "GPU")):
        found = [result for result in results if result["machine"]["device"] == device]
        sections.append(section(found) if found else f"{kind}: not measured yet.")
    return "\n\n".join(sections)


def section(results: list[dict[str, Any]]) -> str:
    """Machines of one kind: each has a column for every dtype, and one for the floor."""
    on_cpu = results[0]["machine"]["device"] == "cpu"
    columns = [(result, dtypes_of(result)) for result in results]
    lines, few_directions = [], False
    for title, group in GROUPS.items():
        if on_cpu and all(against == "eager" for *_, against, _ in group):
            continue
        cells = sum(len(dtypes) + 1 for _, dtypes in columns)
        lines.append(f"| **{title}** |{' |' * (2 + cells)}")
        for line in group:
            row, few = table_row(columns, line, on_cpu)
            if row:
                lines.append(row)
            few_directions |= few
    heading = []
    for result, dtypes in columns:
        place = f"{result['machine']['name']}, " if len(results) > 1 else ""
        heading += [place + dtype for dtype in dtypes]
        heading.append(f"{place}over a projector forward ({', '.join(dtypes)})")
    found = [
        *map(caption, results),
        "",
        f"| operator | shape | against | {' | '.join(heading)} |",
        f"|---|---|---|{'---|' * len(heading)}",
        *lines,
    ]
    notes = [memory_note(result) for result in results]
    if few_directions:
        notes.append(
            "\\* The paper's scores were timed with a few of their 64 directions and scaled: their "
            "time is linear in that number."
        )
    if any(EAGER in line for line in lines):
        notes.append(
            f"{EAGER}: the other cannot be captured in a CUDA graph; both are eager calls, from an "
            "idle GPU until the result is there. All other times are those of CUDA graphs."
        )
    if any(" - |" in line for line in lines):
        notes.append("-: not measured yet.")
    return "\n".join([*found, "", *filter(None, notes)]).rstrip()


def table_row(
    columns: list[tuple[dict[str, Any], list[str]]], line: tuple, on_cpu: bool
) -> tuple[str, bool]:
    """One line of the table, empty where nothing was measured, and whether it was scaled from few
    directions."""
    op, variant, shape, against, words = line
    cells, few_directions = [], False
    for result, dtypes in columns:
        rows = [find(result["rows"], op, variant, shape, dtype) for dtype in dtypes]
        for row in rows:
            few = row.get("directions_measured", result["directions"]) < result["directions"]
            cells.append(cell(row, against, on_cpu) + ("\\*" if few else ""))
            few_directions |= few
        if against != "paper" or op == "sensitivity":
            cells.append("")
        else:
            floors = [row.get("against", {}).get("projector") for row in rows]
            known = [table.ratio(f, inverse=True) if f else "-" for f in floors]
            cells.append(", ".join(known) if any(floors) else "-")
    if set(cells) <= {"-", ""}:
        return "", few_directions
    row = f"| `{op}`, {variant} | {shape.name} | {words} | {' | '.join(cells)} |"
    return row, few_directions


def dtypes_of(result: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["dtype"] for row in result["rows"]))


def caption(result: dict[str, Any]) -> str:
    about = result["machine"]
    where = f"{about['threads']} threads, " if about["device"] == "cpu" else ""
    command = "bench" if about["device"] == "cpu" else "gpu-report"
    # Parts of a GPU's report may be of different commits: those that its rows are of.
    parts = {row["part"] for row in result["rows"] if "part" in row}
    commits = sorted({result["parts"][part]["commit"] for part in parts})
    of = f", commit {', '.join(commits)}" if commits else ""
    return (
        f"**{about['name']}**, {where}torch {about['torch']}: times faster, medians of one run "
        f"(`make {command}`, {about['date'][:10]}{of})"
    )


def cell(row: Row, against: str, on_cpu: bool) -> str:
    """A ratio, on a GPU with the time; ``eager``: what the host spends on a call."""
    if against == "eager" and "eager" in row:
        return microseconds(row["eager"]["host"])
    if against not in row.get("against", {}):
        return "-"
    found = row["against"][against]
    text = table.ratio(found)
    if on_cpu:
        return text
    own = row["eager"]["whole"] if found.get("eager") else row["seconds"]
    return f"{text}, {microseconds(own)}{EAGER if found.get('eager') else ''}"


def microseconds(seconds: float) -> str:
    """Three digits; larger numbers whole."""
    time = seconds * 1e6
    return f"{time:,.0f} µs" if time >= 100 else f"{time:.3g} µs"


def memory_note(result: dict[str, Any]) -> str:
    """One sentence on peak extra memory, or nothing where it was not measured."""
    rows = result.get("memory", [])
    own = [row for row in rows if row["shape"] == LLAVA.name and "extra_mib" in row]
    paper = [row["extra_mib"] for row in own if row["op"] == "paper-literal scores"]
    pruning = [row["extra_mib"] for row in own if row["op"] in PER_CALL]
    if not paper or not pruning:
        return ""
    return (
        f"Peak memory beyond inputs and outputs at {LLAVA.name}'s shape: at most "
        f"{max(pruning):.0f} MiB for scoring and selecting, whatever m, {max(paper):.0f} MiB for "
        "the paper's scores as published."
    )


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
        (README, "benchmark"): generate(results),
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
            charts.speed(result, PICTURE)
    for result in of_family:
        charts.growth(result, GROWTH)
    accuracy_charts.quality(accuracy, QUALITY.with_suffix(".png"))
    fidelity_charts.fidelity(fidelity, QUALITY.with_name("fidelity.png"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
