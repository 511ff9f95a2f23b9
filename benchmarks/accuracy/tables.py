"""The accuracy report in Markdown, for docs/quality.md and the README."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
KINDS = {
    "digit": "which digit is red",
    "shape": "which shape is red",
    "word": "which word is red",
    "colour": "what color is the 7",
    "there": "is there a 7",
    "count": "how many digits",
    "corner": "what is in the upper left corner",
    "beside": "what is left of the 7",
}


def by_method(result: Row) -> str:
    """Methods against budgets: right answers in per cent, half the 95 % interval behind."""
    keeps, table = arranged(result)
    lines = [
        f"| selection | {' | '.join(map(str, keeps))} | ms a picture |",
        f"|---|{'---|' * (len(keeps) + 1)}",
    ]
    for name, rows in table.items():
        cells = [percent(rows[k]) for k in keeps]
        time = result["seconds"][name] * 1e3
        lines.append(f"| {rows[keeps[0]]['words']} | {' | '.join(cells)} | {time:.2g} |")
    full = result["rows"][0]
    head = f"All 576 tokens: **{percent(full)} %** right. Fewer, in per cent:"
    return "\n".join([head, "", *lines])


def by_kind(result: Row) -> str:
    """Kinds of questions against budgets, with the default selection."""
    keeps, table = arranged(result)
    default = next(iter(table.values()))
    lines = [
        f"| question | 576 | {' | '.join(map(str, keeps))} |",
        f"|---|{'---|' * (len(keeps) + 1)}",
    ]
    for kind, words in KINDS.items():
        rows = [result["rows"][0], *(default[k] for k in keeps)]
        cells = [f"{100 * row['kinds'][kind]:.1f}" for row in rows]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(lines)


def percent(row: Row) -> str:
    low, high = row["interval"]
    return f"{100 * row['right']:.1f} ± {50 * (high - low):.1f}"


def arranged(result: Row) -> tuple[list[int], dict[str, dict[int, Row]]]:
    table: dict[str, dict[int, Row]] = {}
    for row in result["rows"][1:]:
        table.setdefault(row["method"], {})[row["kept"]] = row
    return list(next(iter(table.values()))), table


def for_readme(result: Row) -> str:
    """One line of the recommended selection: what fewer tokens cost the small model."""
    keeps, table = arranged(result)
    default = next(iter(table.values()))
    rows = [result["rows"][0], *(default[k] for k in keeps)]
    return "\n".join(
        [
            f"| visual tokens | {' | '.join(str(row['kept']) for row in rows)} |",
            f"|---|{'---|' * len(rows)}",
            f"| right answers, % | {' | '.join(percent(row) for row in rows)} |",
            "",
            f"A model of {result['weights'] / 1e6:.1f} million weights, {result['questions']:,} "
            f"questions about {result['pictures']} held-out pictures, closed form and SADS, 95 % "
            f"intervals (`make accuracy`, {result['machine']['date'][:10]}).",
        ]
    )


def document(result: Row) -> str:
    """The section of docs/quality.md."""
    chosen = result["development"]
    return "\n\n".join(
        [
            f"{result['questions']:,} questions about {result['pictures']} pictures of the test "
            f"split; after ±, half the 95 % interval over pictures; three seeds where there is "
            f"chance. MMR's trade-off and `max_similarity` were chosen with {chosen['kept']} "
            f"tokens on {chosen['questions']:,} questions of the development split. Times are "
            f"medians of 12 pictures with 64 tokens on {result['machine']['name']}, which had "
            f"other work: they rank, they do not promise (`make accuracy`, "
            f"{result['machine']['date'][:10]}).",
            by_method(result),
            "![Right answers against kept tokens](quality.png)",
            "By kind of question, closed form and SADS:",
            by_kind(result),
        ]
    )
