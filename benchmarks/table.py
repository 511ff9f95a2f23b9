"""A result file as a compact table for the terminal."""

from __future__ import annotations

from typing import Any

from .timing import NOISY

Row = dict[str, Any]


def render(report: dict[str, Any]) -> str:
    """Ratios, extra memory and targets. Absolute times of a shared CPU say little: see the file."""
    about = report["machine"]
    reference = [op for op, name in about["backends"].items() if name == "reference"]
    lines = [
        f"{about['name']}, {about['threads']} threads, torch {about['torch']}, "
        f"zoprune_kernels {about['zoprune_kernels']} ({about['commit']})",
        *([f"served by the PyTorch reference: {', '.join(reference)}"] if reference else []),
        "",
        *ratios(report["rows"], report["directions"]),
        *memory(report["memory"]),
        *targets(report["targets"]),
    ]
    return "\n".join(lines)


def ratio(found: Row, *, inverse: bool = False) -> str:
    """A ratio in Markdown, with its spread where that is too large to be passed over."""
    value = 1 / found["ratio"] if inverse else found["ratio"]
    noisy = f" (± {found['spread'] / 2:.0%})" if found.get("spread", 0) > NOISY else ""
    return f"{value:.3g}x{noisy}"


def ratios(rows: list[Row], directions: int) -> list[str]:
    if not rows:
        return []
    lines = ["times faster than            (lowest - highest of the rounds)"]
    heading, scaled, few_steps, noisy = "", False, None, 0
    for row in rows:
        place = f"{row['shape']}, {row['dtype']}"
        if place != heading:
            lines.append(place)
            heading = place
        name = f"  {row['op']} ({row['variant']})"
        if "refused" in row:
            lines.append(f"{name:<46}REFUSED {row['refused']}")
            continue
        few = row.get("directions_measured", directions) < directions
        scaled |= few
        few_steps = few_steps or row.get("steps_measured")
        mark = "*" if few or "steps_measured" in row else " "
        found = [
            f"{label} {value['ratio']:.3g} ({value['lowest']:.3g} - {value['highest']:.3g}"
            f"{', NOISY' if value['spread'] > NOISY else ''})"
            for label, value in row["against"].items()
        ]
        noisy += sum(value["spread"] > NOISY for value in row["against"].values())
        lines.append(f"{name:<46}{mark} {'   '.join(found)}")
    if scaled:
        few = min(row.get("directions_measured", directions) for row in rows)
        lines.append(
            f"* with {few} of the {directions} directions: the paper's time, linear in their "
            "number, is scaled up; m = 64 rows compare these few on both sides"
        )
    if few_steps:
        lines.append(f"* {few_steps} of the loop's k equal steps were timed, and scaled up")
    if noisy:
        lines.append(
            f"NOISY: {noisy} ratios whose middle half of the rounds spreads over more than "
            f"{NOISY:.0%}: measure again on a quieter machine"
        )
    return [*lines, ""]


def memory(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    lines = ["peak memory beyond inputs and outputs, MiB"]
    for row in rows:
        variant = f" ({row['variant']})" if row["variant"] else ""
        value = f"{row['extra_mib']:.0f}" if "extra_mib" in row else f"REFUSED {row['refused']}"
        lines.append(f"  {row['op']}{variant}, {row['shape']}, {row['dtype']}".ljust(66) + value)
    return [*lines, ""]


def targets(verdicts: list[Row]) -> list[str]:
    lines = [f"{'target':<62}{'goal':>8}{'measured':>11}  met"]
    for verdict in verdicts:
        measured, met = "-", "not measured"
        goal = f"{verdict['goal']:g} {verdict['unit']}"
        if verdict["measured"] is not None:
            measured = f"{verdict['measured']:.3g} {verdict['unit']}"
            met = "yes" if verdict["met"] else "NO"
        line = f"{verdict['target']:<62}{goal:>8}{measured:>11}  {met}"
        lines.append(f"{line}  {verdict['note']}".rstrip())
    return lines
