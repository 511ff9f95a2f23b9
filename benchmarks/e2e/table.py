"""The end-to-end benchmark's rows as lines for the terminal and as a table for docs/models.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]

PREFIX = "e2e-"  # of the result files

GOAL = {"cpu": 1.10, "cuda": 1.03}  # time to the first token, ours over the oracle's
HEADING = (
    f"{'':27}{'ours over oracle':>26}{'times faster than':>22}{'tokens/s':>10}   peak memory, MiB\n"
    f"{'model, batch, kept':27}{'first token (low - high)':>26}{'unpruned':>14}{'paper':>8}"
    f"{'/unpruned':>10}   unpruned oracle ours paper"
)


def line(row: Row) -> str:
    """One row for the terminal."""
    name = f"{row['model']}, {row['batch']}, {row['keep']} of {row['tokens']}"
    if "refused" in row:
        return f"{name:27}  REFUSED {row['refused']}"
    over = row["over_oracle"]
    spread = f"{over['ratio']:.3f} ({over['lowest']:.3f} - {over['highest']:.3f})"
    unpruned, paper = (times_faster(row, other) for other in ("unpruned", "paper"))
    peaks = row.get("peak_mib", {})
    memory = " ".join(f"{peaks[n]:.0f}" for n in ("unpruned", "oracle", "ours", "paper") if peaks)
    return f"{name:27}{spread:>26}{unpruned:>13.2f}x{paper:>7.2f}x{throughput(row):>10}   {memory}"


def times_faster(row: Row, other: str) -> float:
    """To the first token: how many times the time of ours another variant takes."""
    return row["first_token_seconds"][other] / row["first_token_seconds"]["ours"]


def throughput(row: Row) -> str:
    """Tokens a second, ours over the unpruned model's; "-" where that was not measured."""
    measured = row.get("tokens_per_second")
    return f"{measured['ours'] / measured['unpruned']:.3g}x" if measured else "-"


def verdict(setting: Row, rows: Sequence[Row]) -> str:
    """Whether every row is within the goal of the oracle."""
    goal = GOAL[setting["device"]]
    ratios = [row["over_oracle"]["ratio"] for row in rows if "over_oracle" in row]
    worst = max(ratios, default=float("inf"))
    met = "yes" if worst <= goal and len(ratios) == len(rows) else "NO"
    return f"first token within {goal - 1:.0%} of the oracle's: {met}, at most {worst - 1:+.1%}"


def document(results: Sequence[Row], gpu_results: Sequence[Row]) -> str:
    """The section of docs/models.md: this benchmark's result files, and those of GPUs."""
    found = [(result["machine"], result) for result in results]
    for result in gpu_results:
        if measured := result.get("parts", {}).get("e2e", {}).get("e2e"):
            found.append((result["machine"], measured))
    sections = [markdown(about, result["setting"], result["rows"]) for about, result in found]
    return "\n\n".join(sections) or "Not measured yet."


def markdown(about: Row, setting: Row, rows: Sequence[Row]) -> str:
    """The table of docs/models.md, without absolute times of a CPU: it may be a shared one."""
    on_gpu = setting["device"] == "cuda"
    where = "" if on_gpu else f"{about['threads']} threads, "
    lines = [
        f"**{about['name']}**, {where}torch {about['torch']}, transformers "
        f"{setting['transformers']}, {setting['dtype']}, {setting['layers']} of 32 language "
        f"layers, {about['date'][:10]}:",
        "",
        "| model | batch | kept | first token, over the oracle's (in a round) "
        "| faster than unpruned | than the paper's | tokens/s over unpruned "
        "| peak: unpruned, oracle, ours, paper |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["model"], row["batch"], f"{row['keep']} of {row['tokens']}"]
        if "refused" in row:
            cells += [f"refused: {row['refused']}", "", "", "", ""]
        else:
            median, low, high = (row["over_oracle"][n] - 1 for n in ("ratio", "lowest", "highest"))
            cells += [f"{median:+.1%} ({low:+.0%} to {high:+.0%})"]
            if on_gpu:
                cells[-1] += f", {row['first_token_seconds']['ours'] * 1e3:.1f} ms"
            cells += [f"{times_faster(row, other):.3g}x" for other in ("unpruned", "paper")]
            cells += [throughput(row), memory(row)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def memory(row: Row) -> str:
    peaks = row.get("peak_mib")
    if peaks is None:
        return "-"
    names = ("unpruned", "oracle", "ours", "paper")
    return ", ".join(f"{peaks[name]:.0f}" for name in names) + " MiB"
