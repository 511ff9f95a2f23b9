"""The report of a GPU in a few dozen lines."""

from __future__ import annotations

from ..e2e import table as e2e_table
from .runner import Row


def table(report: Row) -> str:
    about = report.get("machine", {})
    where = (about.get(name, "?") for name in ("name", "torch", "commit"))
    lines = ["{}, torch {}, commit {}".format(*where), f"{'part':14}{'seconds':>8}  result"]
    for name, part in report["parts"].items():
        lines.append(f"{name:14}{part['seconds']:>8}  {part['status']}{told(part)}")
    for name, text in report["ceilings"].items():
        lines.append(f"{name:40}{text}")
    if end_to_end := report["parts"].get("e2e", {}).get("e2e"):
        lines += [e2e_table.HEADING, *map(e2e_table.line, end_to_end["rows"])]
        lines.append(e2e_table.verdict(end_to_end["setting"], end_to_end["rows"]))
    if report["rows"]:
        lines.append(
            f"{'operator':58}{'us':>9}{'eager us: host':>15}{'whole':>9}{'launches':>9}"
            "  times faster than (eager: whole against whole)"
        )
    lines += map(line, report["rows"])
    for verdict in report["targets"]:
        measured, met = "-", "not measured"
        if verdict["measured"] is not None:
            measured = f"{verdict['measured']:.3g} {verdict['unit']}"
            met = "yes" if verdict["met"] else "NO"
        goal = f"{verdict['goal']:g} {verdict['unit']}"
        note = f"  {verdict['note']}" if verdict["note"] else ""
        lines.append(f"{verdict['target']:58}{goal:>10}{measured:>12}  {met}{note}")
    return "\n".join(lines)


def told(part: Row) -> str:
    """What a part counted."""
    if tests := part.get("tests"):
        failed = tests["failed"]
        return f", {tests['passed']} tests passed, {len(failed)} failed {' '.join(failed[:5])}"
    if checks := part.get("checks"):
        failed = [f"{row['op']} ({row['dtype']})" for row in checks if not row["passed"]]
        return f", {len(checks) - len(failed)} calls right, {len(failed)} wrong {' '.join(failed)}"
    return ""


def line(row: Row) -> str:
    """One measured row: under a graph, then what an eager call takes."""
    name = f"{row['op']} ({row['variant']}), {row['shape']}, {row['dtype']}"
    if "refused" in row:
        return f"{name:58}  REFUSED {row['refused'][:200]}"
    eager = row.get("eager", {})
    host, whole = (f"{eager[n] * 1e6:.1f}" if n in eager else "-" for n in ("host", "whole"))
    against = "  ".join(
        f"{label} {v['ratio']:.3g}{' (eager)' if v.get('eager') else ''}"
        for label, v in row["against"].items()
    )
    missing = "".join(
        f"  no {what}: {why[:80]}" for what, why in row.get("not_measured", {}).items()
    )
    launches = len(row["kernels"])
    times = f"{row['seconds'] * 1e6:>9.1f}{host:>15}{whole:>9}{launches:>9}"
    return f"{name:58}{times}  {against}{missing}"
