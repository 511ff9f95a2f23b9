"""The H200's targets; docs/kernels-selection.md and docs/kernels.md say what to expect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..shapes import LLAVA, LLAVA_NEXT, Shape
from ..targets import Row, find


@dataclass(frozen=True)
class Target:
    """``at_least``: the measured value should not be below the goal, else not above."""

    text: str
    goal: float
    unit: str
    at_least: bool
    look_up: Callable[[list[Row]], float | None]

    def verdict(self, rows: list[Row]) -> Row:
        measured = self.look_up(rows)
        met = None
        if measured is not None:
            met = measured >= self.goal if self.at_least else measured <= self.goal
        about = {"target": self.text, "goal": self.goal, "unit": self.unit}
        return about | {"measured": measured, "met": met, "note": ""}


def microseconds(
    op: str, variant: str, shape: Shape, dtype: str, calls: int = 1
) -> Callable[[list[Row]], float | None]:
    """Looks up a time, divided by ``calls``."""

    def look_up(rows: list[Row]) -> float | None:
        seconds = find(rows, op, variant, shape, dtype).get("seconds")
        return None if seconds is None else seconds * 1e6 / calls

    return look_up


def ratio(
    op: str, variant: str, dtype: str, against: str, inverse: bool = False
) -> Callable[[list[Row]], float | None]:
    """Looks up how many times faster a row of LLaVA-1.5's shape is, or slower if ``inverse``."""

    def look_up(rows: list[Row]) -> float | None:
        row = find(rows, op, variant, LLAVA, dtype)
        if "against" not in row:
            return None
        found = row["against"][against]["ratio"]
        return 1 / found if inverse else found

    return look_up


def targets(dtype: str) -> list[Target]:
    closed = "closed form, k = 64"
    return [
        Target(
            f"closed-form score_and_select, {dtype}",
            120,
            "us",
            False,
            microseconds("score_and_select", closed, LLAVA, dtype),
        ),
        Target(
            f"closed-form score_and_select vs the paper's, {dtype}",
            60,
            "x",
            True,
            ratio("score_and_select", closed, dtype, "paper"),
        ),
        Target(
            f"m = 64 scores: time over a bare GEMM of their FLOPs, {dtype}",
            1.3,
            "x",
            False,
            ratio("sensitivity", "m = 64, h = 0.01", dtype, "GEMM", inverse=True),
        ),
        Target(
            f"select 64 of 576, per pick, {dtype}",
            0.4,
            "us",
            False,
            microseconds("select", "k = 64", LLAVA, dtype, calls=64),
        ),
        Target(
            f"select 640 of 2880, {dtype}",
            200,
            "us",
            False,
            microseconds("select", "k = 640", LLAVA_NEXT, dtype),
        ),
    ]
