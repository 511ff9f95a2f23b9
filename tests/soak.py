"""Endurance: python -m tests.soak, or make soak; --help has the options.

What a call leaves behind, with one and with two threads of torch; every operator from many threads
at once, each result bitwise that of a lone call; and selections, each checked by its certificate.
The count of selections is kept in build/soak.json, from where --resume goes on. docs/reliability.md
has what came out.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

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
MOST_BYTES, WARM_UP = 100, 200  # bytes a call, calls
STATE = Path(__file__).parents[1] / "build" / "soak.json"


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


IMAGES = 500
RULES: list[dict] = [
    {},
    {"method": "maxmin"},
    {"method": "mmr", "tradeoff": 0.3},
    {"method": "topk", "max_similarity": 0.5},
    {"max_similarity": 0.3, "num_seed": 2},
    {"first": "isolated", "picks_per_step": 3},
    {"centre": True},
]


def batch_passes(number: int) -> bool:
    """Whether the selections of one batch, replayed in float64, are greedy's."""
    torch.manual_seed(number)
    rule = RULES[number % len(RULES)]
    tokens, dim = int(torch.randint(2, 40, ())), int(torch.randint(1, 24, ()))
    scores, keys = torch.randn(IMAGES, tokens), torch.randn(IMAGES, tokens, dim)
    valid = torch.rand(IMAGES, tokens) < 0.9
    valid[:, 0] = True
    k = min(int(torch.randint(1, 12, ())), int(valid.sum(1).min()))
    picks = OPS.select(scores, keys, k, valid=valid, sort=False, **rule)
    return certify_select(picks, scores, keys, None, valid, **rule).passed


def certified(selections: int, done: int = 0, state: Path | None = None) -> tuple[int, list[int]]:
    """How many selections were replayed, and the numbers of the batches that are not greedy's."""
    wrong: list[int] = []
    for number in range(done // IMAGES, -(-selections // IMAGES)):
        if not batch_passes(number):
            wrong.append(number)
        done = (number + 1) * IMAGES
        if state and not wrong:  # a batch that fails is tried again
            state.parent.mkdir(exist_ok=True)
            state.write_text(json.dumps({"selections": done}))
    return done, wrong


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def grows(op: str, calls: int, threads: int) -> bool:
    """Whether resident memory does; prints by how much."""
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(threads)
    arguments, options = operator_calls(torch.float32)[op]
    call = functools.partial(getattr(OPS, op), *arguments, **options)
    for _ in range(WARM_UP):  # code is read from disk, pools are filled
        call()
    before = resident()
    left = growth(call, calls)
    grown = (resident() - before) / calls
    torch.set_num_threads(torch_threads)
    print(
        f"{op}, torch's threads {threads}: {calls} calls, {left:.2f} bytes a call in use, "
        f"{grown:.1f} resident",
        flush=True,
    )
    return grown > MOST_BYTES


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--selections", type=int, default=1_000_000)
    parser.add_argument("--resume", action="store_true", help="count on from build/soak.json")
    args = parser.parse_args()
    failed = False
    for op, threads in itertools.product(GROWING if args.calls else (), (1, 2)):
        failed |= grows(op, args.calls, threads)
    if args.minutes:
        end = time.monotonic() + 60 * args.minutes
        in_threads(args.threads, lambda turn: turn < 1)
        before = bytes_in_use()
        made, wrong = in_threads(args.threads, lambda turn: time.monotonic() < end)
        left = (bytes_in_use() - before) / max(made, 1)
        failed |= bool(wrong) or left > MOST_BYTES
        print(
            f"{args.threads} threads, {args.minutes:g} minutes: {made} calls, {len(wrong)} differ "
            f"{sorted(set(wrong))}, {left:.2f} bytes a call",
            flush=True,
        )
    if args.selections:
        begun = args.resume and STATE.exists()
        start = json.loads(STATE.read_text())["selections"] if begun else 0
        done, refused = certified(args.selections, start, STATE)
        failed |= bool(refused)
        print(f"{done} selections replayed, refused: {refused or 'none'}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
