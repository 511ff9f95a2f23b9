"""The CPU's targets."""

from __future__ import annotations

from ..shapes import LLAVA, LLAVA_NEXT, MANY_TOKENS, SHAPES
from ..targets import Target, memory, ratio

PER_CALL = {
    "expected_sensitivity",
    "sensitivity",
    "select",
    "score_and_select",
    "project_and_select",
}


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
        Target(
            f"extra memory whatever m, {dtype}",
            64,
            "MiB",
            memory(PER_CALL, LLAVA, dtype),
            at_most=True,
        ),
        Target(
            f"extra memory, select 1,000 of 100,000 x 1024, {dtype}",
            256,
            "MiB",
            memory({"select"}, MANY_TOKENS, dtype),
            at_most=True,
        ),
    ]
    found += [
        Target(
            f"project_and_select in projector forwards, {shape.name}, {dtype}",
            2.0 if dtype == "bf16" else 1.6,
            "x",
            ratio(
                "project_and_select",
                f"{closed}, k = {shape.keep[0]}",
                shape,
                dtype,
                "projector",
                inverse=True,
            ),
            at_most=True,
        )
        for shape in SHAPES
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
