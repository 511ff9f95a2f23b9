"""Checks every case, then times all cases and baselines of a group in turns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any

from .case import Case, Group, Row, checked
from .timing import SHORTEST_SAMPLE, Times, in_turns

# Rounds of a group of cases, and for how many seconds quick ones may take more.
ROUNDS, SECONDS = 5, 5.0
LONE_SAMPLE = 0.5  # seconds of calls, where there is one round: the machine has other work at times

Progress = Callable[[str], None]


def measure_group(group: Group, rounds: int, progress: Progress) -> list[Row]:
    """One row for each case; one whose check fails is refused and not timed."""
    place = f"{group.shape.name}, {group.dtype}"
    rows: dict[Case, Row] = {}
    for case in group.cases:
        progress(f"{place}: checking {case.name}")
        rows[case] = group.row(case) | checked(case, group.inputs)  # warms the case up, too
    group = group.only(lambda case: "refused" not in rows[case])
    calls = dict(group.baselines) | {case.name: case.run for case in group.cases}
    times = in_turns(
        {name: partial(run, group.inputs) for name, run in calls.items()},
        rounds,
        seconds=0 if rounds == 1 else SECONDS,
        sample=LONE_SAMPLE if rounds == 1 else SHORTEST_SAMPLE,
        progress=lambda name: progress(f"{place}: {name}"),
    )
    for case in group.cases:
        rows[case] |= outcome(case, times)
    return list(rows.values())


def outcome(case: Case, times: Mapping[str, Times]) -> Row:
    """The times of a case and its ratio to what it is against."""
    own = times[case.name]
    against = {}
    for label, terms in case.against.items():
        other = reduce(Times.__add__, [times[name].scaled(factor) for name, factor in terms])
        against[label] = other.ratio_to(own) | {"seconds": other.median, "of": terms}
    return {"seconds": own.median, "rounds": len(own.seconds), "against": against} | case.noted


def warm_up(functions: Mapping[str, Callable[[], Any]]) -> None:
    for function in functions.values():
        function()


def quickest(functions: Mapping[str, Callable[[], Any]]) -> str:
    """The name of the function that takes the least time, each after a first call."""
    warm_up(functions)
    times = in_turns(functions, rounds=1)
    return min(functions, key=lambda name: times[name].median)


def show_progress(text: str) -> None:
    """One line of a terminal that is written over."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
