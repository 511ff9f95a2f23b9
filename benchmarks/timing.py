"""Times of functions taken in turns, so that a change of the machine's speed hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# Shorter calls are repeated until a sample takes this long, in seconds.
SHORTEST_SAMPLE = 0.02
MOST_ROUNDS = 15
# A ratio whose spread is larger is marked: the machine was not quiet enough.
NOISY = 0.15


@dataclass(frozen=True)
class Times:
    """Seconds per call of one function, a sample for each round."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def scaled(self, factor: float) -> Times:
        return Times([factor * second for second in self.seconds])

    def __add__(self, other: Times) -> Times:
        return Times([a + b for a, b in zip(self.seconds, other.seconds, strict=True)])

    def ratio_to(self, other: Times) -> dict[str, float]:
        """The median of the rounds' ratios, their lowest, highest and ``spread``.

        The spread is the range of their middle half over the median: what the machine's noise made
        of the ratio. More than ``NOISY`` is reported as such.
        """
        each = sorted(a / b for a, b in zip(self.seconds, other.seconds, strict=True))
        middle = statistics.median(each)
        low, _, high = statistics.quantiles(each, n=4) if len(each) > 1 else [middle] * 3
        return {
            "ratio": middle,
            "lowest": each[0],
            "highest": each[-1],
            "spread": (high - low) / middle,
        }


def in_turns(
    functions: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    seconds: float = 0,
    sample: float = SHORTEST_SAMPLE,
    progress: Callable[[str], None] = lambda name: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Times]:
    """Time every function once per round: A B C, A B C, ... The caller has warmed them up.

    Quick functions get up to ``MOST_ROUNDS`` rounds, as long as ``seconds`` have not passed.
    ``sample``: seconds of the calls of a round, of which the median counts.
    """
    samples: dict[str, list[float]] = {name: [] for name in functions}
    start = time.perf_counter()
    for turn in range(MOST_ROUNDS):
        if turn >= rounds and time.perf_counter() - start > seconds:
            break
        for name, function in functions.items():
            progress(name)
            samples[name].append(_sample(function, sample, clock))
    return {name: Times(times) for name, times in samples.items()}


def _sample(function: Callable[[], Any], shortest: float, clock: Callable[[], float]) -> float:
    """Median seconds per call over one sample; a first call tells how many calls make one."""
    calls = [_seconds(function, clock)]
    while sum(calls) < shortest:
        calls.append(_seconds(function, clock))
    return statistics.median(calls)


def _seconds(function: Callable[[], Any], clock: Callable[[], float]) -> float:
    start = clock()
    function()
    return clock() - start
