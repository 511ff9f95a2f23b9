"""Endurance: python -m tests.soak, or make soak; --help has the options.

Every operator from many threads at once, each result bitwise that of a lone call; what a call
leaves on the heap; and selections, each checked by its certificate. docs/reliability.md has what
came out.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from tests.ops.memory import bytes_in_use, growth
from zoprune_kernels.testing import DTYPES, certify_select, operator_calls

OPS = torch.ops.zoprune
GROWING = (
    "sensitivity",
    "expected_sensitivity",
    "score_and_select",
    "project_and_select",
    "select",
)


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(7), b.nan_to_num(7))


def tensors(result: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def every_call() -> list[tuple[str, Callable[[], list[Tensor]]]]:
    def run(op: str, arguments: tuple, options: dict) -> list[Tensor]:
        return tensors(getattr(OPS, op)(*arguments, **options))

    return [
        (op, functools.partial(run, op, *call))
        for dtype in DTYPES
        for op, call in operator_calls(dtype).items()
    ]


def in_threads(threads: int, goes_on: Callable[[int], bool]) -> tuple[int, list[str]]:
    """How many calls were made, and the operators one of whose results differed."""
    calls = every_call()
    expected = [call() for _, call in calls]
    made, wrong = itertools.count(), []

    def work(number: int) -> None:
        for turn in itertools.count():
            if not goes_on(turn):
                return
            for i in range(len(calls)):
                op, call = calls[(i + number) % len(calls)]
                want = expected[(i + number) % len(calls)]
                if not all(same(a, b) for a, b in zip(call(), want, strict=True)):
                    wrong.append(op)
                next(made)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return next(made), wrong


def certified(selections: int) -> tuple[int, int]:
    """How many selections were replayed in float64, and how many of them are not greedy's."""
    done, wrong, images = 0, 0, 500
    rules = [
        {},
        {"method": "maxmin"},
        {"method": "mmr", "tradeoff": 0.3},
        {"method": "topk", "max_similarity": 0.5},
        {"max_similarity": 0.3, "num_seed": 2},
        {"first": "isolated", "picks_per_step": 3},
        {"centre": True},
    ]
    while done < selections:
        rule = rules[done // images % len(rules)]
        tokens, dim = int(torch.randint(2, 40, ())), int(torch.randint(1, 24, ()))
        scores, keys = torch.randn(images, tokens), torch.randn(images, tokens, dim)
        valid = torch.rand(images, tokens) < 0.9
        valid[:, 0] = True
        k = min(int(torch.randint(1, 12, ())), int(valid.sum(1).min()))
        picks = OPS.select(scores, keys, k, valid=valid, sort=False, **rule)
        if not certify_select(picks, scores, keys, None, valid, **rule).passed:
            wrong += images
        done += images
    return done, wrong


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--selections", type=int, default=1_000_000)
    args = parser.parse_args()
    torch.manual_seed(0)
    failed = False
    for op in GROWING if args.calls else ():
        arguments, options = operator_calls(torch.float32)[op]
        before = resident()
        left = growth(functools.partial(getattr(OPS, op), *arguments, **options), args.calls)
        grown = (resident() - before) / args.calls
        failed |= grown > 100
        print(f"{op}: {args.calls} calls, {left:.2f} bytes a call in use, {grown:.1f} resident")
    if args.minutes:
        end = time.monotonic() + 60 * args.minutes
        in_threads(args.threads, lambda turn: turn < 1)
        before = bytes_in_use()
        made, wrong = in_threads(args.threads, lambda turn: time.monotonic() < end)
        failed |= bool(wrong)
        print(
            f"{args.threads} threads: {made} calls, {len(wrong)} differ {sorted(set(wrong))}, "
            f"{(bytes_in_use() - before) / max(made, 1):.2f} bytes a call"
        )
    if args.selections:
        done, refused = certified(args.selections)
        failed |= refused > 0
        print(f"{done} selections replayed, {refused} in batches that are refused")
    sys.exit(failed)


if __name__ == "__main__":
    main()
