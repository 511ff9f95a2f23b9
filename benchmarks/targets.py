"""Performance targets, and whether a set of measured rows meets them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .shapes import Shape

Row = dict[str, Any]

# Why a target is missed, by its text: written by hand, shown only while it is missed.
NOTES = {
    "select_coverage (ones as weights), 576 -> 64, D 1024": "(docs/family.md says why)",
}


@dataclass(frozen=True)
class Target:
    """A measured value that should reach ``goal``, or not exceed it where ``at_most``."""

    text: str
    goal: float
    unit: str  # "x", "MiB" or "us"
    look_up: Callable[[list[Row]], float | None]
    at_most: bool = False
    basis: Callable[[list[Row]], str] = lambda rows: ""  # what the value is of, where that varies

    def verdict(self, rows: list[Row]) -> Row:
        """``measured`` and ``met`` are None where the row was not measured or was refused."""
        measured, met = self.look_up(rows), None
        if measured is not None:
            met = measured <= self.goal if self.at_most else measured >= self.goal
        missed = met is False
        return {
            "target": self.text,
            "goal": self.goal,
            "unit": self.unit,
            "measured": measured,
            "met": met,
            "note": " ".join(filter(None, (self.basis(rows), NOTES.get(self.text, "") * missed))),
        }


def find(rows: list[Row], op: str, variant: str, shape: Shape, dtype: str) -> Row:
    """The row of one case, empty where it was not measured."""
    key = (op, variant, shape.name, dtype)
    for row in rows:
        if (row["op"], row["variant"], row["shape"], row["dtype"]) == key:
            return row
    return {}


def ratio(
    op: str, variant: str, shape: Shape, dtype: str, against: str, *, inverse: bool = False
) -> Callable[[list[Row]], float | None]:
    """Looks up how many times faster a row is than what it is against, slower if ``inverse``."""

    def look_up(rows: list[Row]) -> float | None:
        row = find(rows, op, variant, shape, dtype)
        if against not in row.get("against", {}):
            return None
        found = row["against"][against]["ratio"]
        return 1 / found if inverse else found

    return look_up


def kind(
    op: str, variant: str, shape: Shape, dtype: str, against: str
) -> Callable[[list[Row]], str]:
    """Looks up whether a ratio is one of eager calls: the other cannot be captured in a graph."""

    def look_up(rows: list[Row]) -> str:
        found = find(rows, op, variant, shape, dtype).get("against", {}).get(against, {})
        return "both eager" if found.get("eager") else ""

    return look_up


def microseconds(
    op: str, variant: str, shape: Shape, dtype: str, *, calls: int = 1
) -> Callable[[list[Row]], float | None]:
    """Looks up a time, divided by ``calls``."""

    def look_up(rows: list[Row]) -> float | None:
        seconds = find(rows, op, variant, shape, dtype).get("seconds")
        return None if seconds is None else seconds * 1e6 / calls

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
