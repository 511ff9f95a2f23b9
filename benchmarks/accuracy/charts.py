"""docs/quality.png: right answers against kept tokens, by selection and by kind of question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..charts import INK, SOFT, figure, titled, where
from .tables import KINDS, arranged

LINES = {  # method -> colour and marker; the others are in the table
    "closed": ("#2b6cb0", "o"),
    "merged": ("#2f855a", "s"),
    "fp16": ("#c53030", "v"),
    "divprune": ("#b7791f", "^"),
    "cdpruner": ("#805ad5", "D"),
    "norm": ("#718096", "P"),
    "random": ("#a0aec0", "x"),
}
COLOURS = ("#2b6cb0", "#2f855a", "#b7791f", "#805ad5", "#c53030", "#319795", "#718096", "#1a202c")


def quality(result: dict[str, Any], path: Path) -> None:
    keeps, table = arranged(result)
    full = result["rows"][0]
    with figure(path, 10, 5.6) as drawn:
        titled(
            drawn,
            "What fewer visual tokens cost",
            f"{where(result['machine'])}; {result['questions']:,} held-out questions, a model of "
            f"{result['weights'] / 1e6:.1f} million weights; bars: 95 % intervals",
        )
        space = {"left": 0.07, "right": 0.98, "top": 0.78, "bottom": 0.24, "wspace": 0.12}
        by_method, by_kind = drawn.subplots(1, 2, sharey=True, gridspec_kw=space)
        for name, (colour, marker) in LINES.items():
            rows = [table[name][k] for k in keeps]
            shares = [100 * row["right"] for row in rows]
            spread = [
                [share - 100 * row["interval"][0] for share, row in zip(shares, rows, strict=True)],
                [100 * row["interval"][1] - share for share, row in zip(shares, rows, strict=True)],
            ]
            style = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.4}
            by_method.errorbar(
                keeps, shares, spread, label=rows[0]["words"], elinewidth=0.8, **style
            )
        by_method.axhline(100 * full["right"], color=SOFT, linewidth=0.8, linestyle=":")
        by_method.set_title("by selection (dotted: all 576)", loc="left", fontsize=11, color=INK)
        default = next(iter(table.values()))
        for (kind, words), colour in zip(KINDS.items(), COLOURS, strict=True):
            rows = [full, *(default[k] for k in keeps)]
            shares = [100 * row["kinds"][kind] for row in rows]
            by_kind.plot([576, *keeps], shares, label=words, color=colour, marker="o", markersize=4)
        by_kind.set_title(
            f"by question, {next(iter(default.values()))['words']}",
            loc="left",
            fontsize=11,
            color=INK,
        )
        for plot, ticks in ((by_method, keeps), (by_kind, [576, *keeps])):
            plot.set_xscale("log", base=2)
            plot.set_xticks(ticks, [str(tick) for tick in ticks])
            plot.minorticks_off()
            plot.set_xlabel("visual tokens kept, of 576")
            place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}
            plot.legend(ncols=2, frameon=False, fontsize=8, **place)
        by_method.set_ylabel("right answers, %")
