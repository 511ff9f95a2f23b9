"""The CPU's performance targets, and whether a set of measured rows meets them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .shapes import LLAVA, LLAVA_NEXT, MANY_TOKENS, Shape

Row = dict[str, Any]

# Why a target is missed, by its text: written by hand, shown only while it is missed.
NOTES = {
    "select_coverage (ones as weights), 576 -> 64, D 1024": "(docs/family.md says why)",
}

PER_CALL = {
    "expected_sensitivity",
    "sensitivity",
    "select",
    "score_and_select",
    "project_and_select",
}


@dataclass(frozen=True)
class Target:
    """A ratio ("x") to reach or a memory use ("MiB") not to exceed."""

    text: str
    goal: float
    unit: str
    look_up: Callable[[list[Row]], float | None]

    def verdict(self, rows: list[Row]) -> Row:
        """``measured`` and ``met`` are None where the row was not measured or was refused."""
        measured, met = self.look_up(rows), None
        if measured is not None:
            met = measured >= self.goal if self.unit == "x" else measured <= self.goal
        return {
            "target": self.text,
            "goal": self.goal,
            "unit": self.unit,
            "measured": measured,
            "met": met,
            "note": NOTES.get(self.text, "") if met is False else "",
        }


def find(rows: list[Row], op: str, variant: str, shape: Shape, dtype: str) -> Row:
    """The row of one case, empty where it was not measured."""
    key = (op, variant, shape.name, dtype)
    for row in rows:
        if (row["op"], row["variant"], row["shape"], row["dtype"]) == key:
            return row
    return {}


def ratio(
    op: str, variant: str, shape: Shape, dtype: str, against: str
) -> Callable[[list[Row]], float | None]:
    """Looks up one measured ratio."""

    def look_up(rows: list[Row]) -> float | None:
        row = find(rows, op, variant, shape, dtype)
        return row["against"][against]["ratio"] if "against" in row else None

    return look_up


def memory(ops: set[str], shape: Shape, dtype: str) -> Callable[[list[Row]], float | None]:
    """Looks up the largest extra memory among some operators' rows."""

    def look_up(rows: list[Row]) -> float | None:
        found = [
            row["extra_mib"]
            for row in rows
            if (row["shape"], row["dtype"]) == (shape.name, dtype)
            and row["op"] in ops
            and "extra_mib" in row
        ]
        return max(found, default=None)

    return look_up


def targets(dtype: str) -> list[Target]:
    """The targets of one dtype."""
    closed, sampled = "closed form", "m = 64, h = 0.01"
    found = [
        Target(
            f"closed-form scores vs the paper's, {dtype}",
            100,
            "x",
            ratio("expected_sensitivity", closed, LLAVA, dtype, "paper"),
        ),
        Target(
            f"closed-form score_and_select vs the paper's, {dtype}",
            60,
            "x",
            ratio("score_and_select", f"{closed}, k = 64", LLAVA, dtype, "paper"),
        ),
        Target(
            f"m = 64 scores vs a bare GEMM of their FLOPs, {dtype}",
            0.9,
            "x",
            ratio("sensitivity", sampled, LLAVA, dtype, "GEMM"),
        ),
        Target(
            f"select 64 of 576 vs the authors' loop, {dtype}",
            10,
            "x",
            ratio("select", "k = 64", LLAVA, dtype, "loop"),
        ),
        Target(
            f"select 640 of 2880 vs the authors' loop, {dtype}",
            20,
            "x",
            ratio("select", "k = 640", LLAVA_NEXT, dtype, "loop"),
        ),
        Target(f"extra memory whatever m, {dtype}", 64, "MiB", memory(PER_CALL, LLAVA, dtype)),
        Target(
            f"extra memory, select 1,000 of 100,000 x 1024, {dtype}",
            256,
            "MiB",
            memory({"select"}, MANY_TOKENS, dtype),
        ),
    ]
    if dtype == "bf16":
        found.append(
            Target(
                f"m = 64 scores vs the paper's, {dtype}",
                2.4,
                "x",
                ratio("sensitivity", sampled, LLAVA, dtype, "paper"),
            )
        )
    return found
