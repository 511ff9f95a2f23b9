"""The fidelity report in Markdown, for docs/quality.md."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def table(result: Row, projector: str) -> str:
    """Every estimator with the paper's m and h, in each dtype; then other m, other h."""
    kept = result["kept"]
    lines = [
        f"| estimator | m | h | dtype | relative error | Spearman | top {kept} in common | "
        f"kept {kept} in common (SADS) | ms an image |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        if row["projector"] == projector:
            cells = [
                row["estimator"],
                "" if row["m"] is None else f"{row['m']}",
                "" if row["h"] is None else f"{row['h']:g}",
                row["dtype"],
                f"{row['error']:.2g}",
                f"{row['spearman']:.4f}",
                f"{100 * row['top']:.0f} %",
                f"{100 * row['kept']:.0f} %",
                f"{row['seconds'] * 1e3:.2g}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def document(result: Row) -> str:
    """The section of docs/quality.md."""
    d, hidden, outputs = result["random"]
    where = f"{result['machine']['name']}, {result['machine']['threads']} threads"
    return "\n\n".join(
        [
            f"Truth: {result['directions']:,} directions in float64. Errors are mean relative ones "
            f"after one common scale. {where}, which had other work (`make fidelity`, "
            f"{result['machine']['date'][:10]}).",
            f"The trained projector, {result['pictures']} held-out pictures:",
            table(result, "trained"),
            "![Rank correlation against m and h](fidelity.png)",
            f"A random projector, {d} → {hidden} → {outputs}:",
            table(result, "random"),
        ]
    )
