"""docs/fidelity.png: rank correlation with the truth against m, and against h."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..charts import INK, SOFT, figure, titled, where
from .estimators import PAPER_M, STEP

COLOURS = {"fp32": "#2b6cb0", "bf16": "#b7791f", "fp16": "#c53030"}
LOSSES = "1 - Spearman (lower is better)"


def fidelity(result: dict[str, Any], path: Path) -> None:
    rows = [row for row in result["rows"] if row["projector"] == "trained"]
    exact = next(row for row in rows if row["estimator"] == "closed form")
    with figure(path, 10, 4.8) as drawn:
        titled(
            drawn,
            "How close each estimator comes to the true order of tokens",
            f"{where(result['machine'])}; trained projector, truth in float64 with "
            f"{result['directions']:,} directions",
        )
        space = {"left": 0.08, "right": 0.98, "top": 0.78, "bottom": 0.13, "wspace": 0.08}
        over_m, over_h = drawn.subplots(1, 2, sharey=True, gridspec_kw=space)
        for name, colour, marker in (
            ("rewritten", "#2b6cb0", "o"),
            ("rewritten, orthogonal", "#2f855a", "s"),
        ):
            some = [
                row
                for row in rows
                if (row["estimator"], row["dtype"], row["h"]) == (name, "fp32", STEP)
            ]
            line(over_m, some, "m", f"{name}, fp32", colour, marker)
        for name, marker in (("paper-literal", "v"), ("rewritten", "o")):
            for dtype, colour in COLOURS.items():
                some = [
                    row
                    for row in rows
                    if (row["estimator"], row["dtype"], row["m"]) == (name, dtype, PAPER_M)
                    and row["h"] > 0
                ]
                if len(some) > 1:
                    line(over_h, some, "h", f"{name}, {dtype}", colour, marker)
        for plot, label in (
            (over_m, f"directions m, h = {STEP}"),
            (over_h, f"step h, m = {PAPER_M}"),
        ):
            plot.axhline(1 - exact["spearman"], color=SOFT, linestyle=":", label="closed form")
            plot.set_xscale("log", base=2 if plot is over_m else 10)
            plot.set_yscale("log")
            plot.set_xlabel(label)
            place = (1, 1) if plot is over_m else (0.45, 0.72)
            plot.legend(frameon=False, fontsize=9, loc="upper right", bbox_to_anchor=place)
        over_m.set_ylabel(LOSSES, color=INK)


def line(
    plot: Any, rows: list[dict[str, Any]], axis: str, label: str, colour: str, mark: str
) -> None:
    points = sorted((row[axis], max(1 - row["spearman"], 1e-6)) for row in rows)
    plot.plot(*zip(*points, strict=True), label=label, color=colour, marker=mark, markersize=5)
