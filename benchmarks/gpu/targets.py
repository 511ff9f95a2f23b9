"""The H200's targets; docs/kernels-selection.md and docs/kernels.md say what to expect."""

from __future__ import annotations

from ..shapes import LLAVA, LLAVA_NEXT
from ..targets import Target, kind, microseconds, ratio


def targets(dtype: str) -> list[Target]:
    closed = "closed form, k = 64"
    return [
        Target(
            f"closed-form score_and_select, {dtype}",
            120,
            "us",
            microseconds("score_and_select", closed, LLAVA, dtype),
            at_most=True,
        ),
        Target(
            f"closed-form score_and_select vs the paper's, {dtype}",
            60,
            "x",
            ratio("score_and_select", closed, LLAVA, dtype, "paper"),
            basis=kind("score_and_select", closed, LLAVA, dtype, "paper"),
        ),
        Target(
            f"m = 64 scores: time over a bare GEMM of their FLOPs, {dtype}",
            1.3,
            "x",
            ratio("sensitivity", "m = 64, h = 0.01", LLAVA, dtype, "GEMM", inverse=True),
            at_most=True,
        ),
        Target(
            f"select 64 of 576, per pick, {dtype}",
            0.4,
            "us",
            microseconds("select", "k = 64", LLAVA, dtype, calls=64),
            at_most=True,
        ),
        Target(
            f"select 640 of 2880, {dtype}",
            200,
            "us",
            microseconds("select", "k = 640", LLAVA_NEXT, dtype),
            at_most=True,
        ),
    ]
