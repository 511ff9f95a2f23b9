"""Options that several subcommands share."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from .errors import UsageError

# Those of zoprune_kernels.methods, which would import torch: ``--help`` does without.
METHODS = ("sads", "maxmin", "topk", "random", "mmr", "dpp", "suppress", "coverage")
KEEP = "a count (64; 1 is one token) or a ratio with a point in it (0.25; 1.0 is all of them)"


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def print_json(facts: dict[str, Any]) -> None:
    json.dump(facts, sys.stdout, indent=2, ensure_ascii=False)
    print()


def budget(text: str, most: int | None = None) -> int | float:
    """What ``--keep`` says: a count from 1 to ``most``, as an int, or a ratio as a float."""
    limit = "" if most is None else f" from 1 to {most}"
    try:
        value: int | float = int(text) if text.strip().lstrip("+-").isdigit() else float(text)
    except ValueError:
        value = 0
    valid = value <= 1 if isinstance(value, float) else most is None or value <= most
    if not (valid and value > 0):
        raise UsageError(
            f"--keep: expected a count{limit} or a ratio in (0, 1] such as 0.25, got '{text}'"
        )
    return value


def within(argument: str, value: int, least: int, most: int) -> None:
    """Refuse a number out of its range."""
    if not least <= value <= most:
        raise UsageError(f"{argument}: expected a number from {least} to {most}, got {value}")
