"""How fast: the tables that docs/speed.md and the README show of ``benchmarks/results``.

Absolute times are shown for GPUs only: those of a shared CPU say little.
"""

from __future__ import annotations

from typing import Any

from . import table
from .cpu.targets import PER_CALL
from .shapes import LLAVA, LLAVA_NEXT, QWEN
from .targets import Row, find

EAGER = "†"  # marks a ratio of eager calls

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


SHOWN = (
    ("score_and_select", "m = 64, k = 64", LLAVA, "paper"),
    ("sensitivity", "m = 64, h = 0.01", LLAVA, "paper"),
    ("score_and_select", "closed form, k = 64", LLAVA, "paper"),
    ("score_and_select", "closed form, k = 128", QWEN, "paper"),
    ("expected_sensitivity", "closed form", LLAVA, "paper"),
    ("select", "k = 64", LLAVA, "loop"),
    ("select", "k = 640", LLAVA_NEXT, "better loop"),
)
# What the README shows of it: whole calls, scores and picks.
SUMMARY = {title: [line for line in group if line[:4] in SHOWN] for title, group in GROUPS.items()}


def document(results: list[dict[str, Any]]) -> str:
    """A table for CPUs and one for GPUs, machines of a kind side by side."""
    sections = []
    for device, kind in (("cpu", "CPU"), ("cuda", "GPU")):
        found = [result for result in results if result["machine"]["device"] == device]
        sections.append(section(found, GROUPS) if found else f"{kind}: not measured yet.")
    return "\n\n".join(sections)


def summary(results: list[dict[str, Any]]) -> str:
    """Few lines of all machines, CPUs first."""
    return section(sorted(results, key=on_gpu), SUMMARY, times=False)


def on_gpu(result: dict[str, Any]) -> bool:
    return result["machine"]["device"] == "cuda"


def section(
    results: list[dict[str, Any]], groups: dict[str, list[tuple]], times: bool = True
) -> str:
    """A table: each machine has a column for every dtype, and one for the floor."""
    columns = [(result, dtypes_of(result)) for result in results]
    lines, few_directions = [], False
    for title, group in groups.items():
        found = [table_row(columns, line, times) for line in group]
        if not any(row for row, _ in found):
            continue
        cells = sum(len(dtypes) + 1 for _, dtypes in columns)
        lines.append(f"| **{title}** |{' |' * (2 + cells)}")
        lines += [row for row, _ in found if row]
        few_directions |= any(few for _, few in found)
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
            "idle GPU until the result is there, which the host decides and which varies from run "
            "to run. All other times are those of CUDA graphs."
        )
    if any(" - |" in line for line in lines):
        notes.append("-: not measured yet.")
    return "\n".join([*found, "", *filter(None, notes)]).rstrip()


def table_row(
    columns: list[tuple[dict[str, Any], list[str]]], line: tuple, times: bool
) -> tuple[str, bool]:
    """One line of the table, empty where nothing was measured, and whether it was scaled from few
    directions."""
    op, variant, shape, against, words = line
    cells, few_directions = [], False
    for result, dtypes in columns:
        rows = [find(result["rows"], op, variant, shape, dtype) for dtype in dtypes]
        for row in rows:
            few = row.get("directions_measured", result["directions"]) < result["directions"]
            cells.append(cell(row, against, times and on_gpu(result)) + ("\\*" if few else ""))
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


def cell(row: Row, against: str, times: bool) -> str:
    """A ratio, or also the time; ``eager``: what the host spends on a call."""
    if against == "eager" and "eager" in row:
        return microseconds(row["eager"]["host"])
    if against not in row.get("against", {}):
        return "-"
    found = row["against"][against]
    text, mark = table.ratio(found), EAGER if found.get("eager") else ""
    if not times:
        return text + mark
    return f"{text}, {microseconds(row['eager']['whole'] if mark else row['seconds'])}{mark}"


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
