"""The selection family against the loops of pruning libraries: ``python -m benchmarks.family``.

Rows have the format of ``benchmarks.report``. A line in ``OPERATORS`` adds an operator or variant.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import zoprune_kernels as zk
from zoprune_kernels import reference

from . import baselines, family_baselines, table
from .cases import Case, Group
from .report import measure_group
from .shapes import DIRECTIONS, DTYPES, Shape, patches
from .verify import Check

SHAPES = [
    Shape(f"{tokens} -> {keep}, D 1024", tokens, 1, 1, 1024, (keep,))
    for tokens, keep in ((576, 64), (2880, 320), (16384, 1024))
]
GRID_WIDTH = {576: 24, 2880: 60, 16384: 128}
# Steps of a loop that are timed where all k take minutes; each step takes the same time.
FEW_STEPS = 4
CHECKED_PICKS, CHECKED_RIVALS = 8, 256
GAIN_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Tokens:
    """One image: scores [N] in [0, 1], keys [N, D], positions [N, 2]."""

    scores: Tensor
    keys: Tensor
    positions: Tensor
    k: int


Gains = Callable[[Tokens, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Operator:
    """What is called, which baselines' times add up to the loop's, and the gain of the picks.

    ``gains(tokens, picked, candidates)`` are the fp64 gains of candidates after some picks.
    """

    op: str
    variant: str
    run: Callable[[Tokens], Tensor]
    loop: dict[str, tuple[Callable[[Tokens], Any], Callable[[Tokens], float]]]
    gains: Gains


def whole(loop: Callable[..., Tensor], *names: str, **options: Any) -> dict[str, Any]:
    """A baseline that is run as it is: ``loop(scores, keys, k, ...)``."""

    def run(x: Tokens) -> Tensor:
        return loop(
            x.scores.to(x.keys.dtype), x.keys, x.k, *(getattr(x, n) for n in names), **options
        )

    return {f"{loop.__name__} {sorted(options)}": (run, lambda x: 1.0)}


def few_steps(loop: Callable[[Tokens, int], Tensor], name: str) -> dict[str, Any]:
    """A loop whose steps take equal times, of which a few are run."""
    return {name: (partial(loop, k=FEW_STEPS), lambda x: x.k / FEW_STEPS)}


def unit(x: Tokens, rows: Tensor) -> Tensor:
    return reference.unit_keys(x.keys[rows].double())


def largest_cosine(x: Tokens, picked: Tensor, candidates: Tensor) -> Tensor:
    return (unit(x, candidates) @ unit(x, picked).T).max(dim=1).values


def sads_gains(x: Tokens, picked: Tensor, candidates: Tensor) -> Tensor:
    weight = reference.normalised_scores(x.scores.double())[candidates]
    return weight * (1 - largest_cosine(x, picked, candidates)) if len(picked) else weight


def maxmin_gains(x: Tokens, picked: Tensor, candidates: Tensor) -> Tensor:
    if not len(picked):
        return x.scores[candidates].double()
    return 1 - largest_cosine(x, picked, candidates)


def dpp_gains(x: Tokens, picked: Tensor, candidates: Tensor) -> Tensor:
    z = unit(x, candidates)
    basis = torch.linalg.qr(unit(x, picked).T).Q
    rest = 1 - (z @ basis).square().sum(1) if len(picked) else torch.ones(len(z)).double()
    return x.scores[candidates].double() ** 2 * rest


def soft_gains(x: Tokens, picked: Tensor, candidates: Tensor) -> Tensor:
    cosine = unit(x, candidates) @ unit(x, picked).T
    distance = torch.cdist(x.positions[candidates].double(), x.positions[picked].double())
    close = torch.exp(-(distance**2) / (2 * 1.5**2) - (1 - cosine) ** 2 / (2 * 0.05**2))
    close = torch.where(distance <= 5, close, 0.0)
    return x.scores[candidates].double() * (1 - close).prod(dim=1)


def exponential_gains(x: Tokens, picked: Tensor, candidates: Tensor) -> Tensor:
    cosine = unit(x, candidates) @ unit(x, picked).T
    return x.scores[candidates].double() - torch.exp((cosine - 1) / 0.05).sum(dim=1)


def hard_gains(x: Tokens, picked: Tensor, candidates: Tensor) -> Tensor:
    gains = x.scores[candidates].double()
    if not len(picked):
        return gains
    return torch.where(largest_cosine(x, picked, candidates) > 0.8, 0.0, gains)


def coverage_gains(x: Tokens, picked: Tensor, candidates: Tensor) -> Tensor:
    z = reference.unit_keys(x.keys.double())
    covered = (z @ z[picked].T).amax(1).clamp_min(0) if len(picked) else torch.zeros(len(z))
    added = (z @ z[candidates].T - covered[:, None]).clamp_min(0).sum(0)
    return x.scores[candidates].double() * added


def soft_steps(x: Tokens, k: int) -> Tensor:
    return family_baselines.adaptprune(x.scores.to(x.keys.dtype), x.keys, k, x.positions)


COSINES: dict[str, Any] = {"cosines": (lambda x: family_baselines.cosines(x.keys), lambda x: 1.0)}
stored: dict[int, Tensor] = {}


def scope_steps(x: Tokens, k: int) -> Tensor:
    if id(x) not in stored:
        stored.clear()
        stored[id(x)] = family_baselines.cosines(x.keys)
    return family_baselines.scope_steps(stored[id(x)], x.scores.to(x.keys.dtype), k)


def selected(method: str) -> Callable[[Tokens], Tensor]:
    return lambda x: zk.select(x.scores, x.keys, x.k, method=method, sort=False)


def suppressed(use_positions: bool, **options: Any) -> Callable[[Tokens], Tensor]:
    return lambda x: zk.select_suppress(
        x.scores, x.keys, x.k, x.positions if use_positions else None, sort=False, **options
    )


NMS = {"threshold": 0.8}
EXPONENTIAL = {"sigma_similarity": 0.05, "strength": 1.0}
OPERATORS = [
    Operator("select", "sads", selected("sads"), whole(baselines.authors_selection), sads_gains),
    Operator(
        "select", "maxmin", selected("maxmin"), whole(baselines.authors_selection), maxmin_gains
    ),
    Operator(
        "select_dpp",
        "CDPruner",
        lambda x: zk.select_dpp(x.scores, x.keys, x.k, sort=False),
        whole(family_baselines.cdpruner),
        dpp_gains,
    ),
    Operator(
        "select_suppress", "soft", suppressed(True), few_steps(soft_steps, "soft"), soft_gains
    ),
    Operator(
        "select_suppress",
        "exponential",
        suppressed(False, rule="exponential", **EXPONENTIAL),
        whole(family_baselines.exponential, **EXPONENTIAL),
        exponential_gains,
    ),
    Operator(
        "select_suppress",
        "hard",
        suppressed(False, rule="hard", **NMS),
        whole(family_baselines.hard_suppression, **NMS),
        hard_gains,
    ),
    Operator(
        "select_coverage",
        "SCOPE",
        lambda x: zk.select_coverage(x.scores, x.keys, x.k, sort=False),
        COSINES | few_steps(scope_steps, "scope"),
        coverage_gains,
    ),
]


def check(operator: Operator, x: Tokens, picks: Tensor) -> list[Check]:
    """The first picks against random other tokens, by their gains in fp64."""
    shortfall = 0.0 if picks.unique().numel() == x.k else float("inf")
    others = torch.randperm(len(x.scores), generator=torch.Generator().manual_seed(0))
    others = others[~torch.isin(others, picks)][:CHECKED_RIVALS]
    for step, pick in enumerate(picks[:CHECKED_PICKS]):
        gains = operator.gains(x, picks[:step], torch.cat([pick[None], others]))
        shortfall = max(shortfall, float(1 - gains[0] / gains.max()))
    return [Check(f"first {CHECKED_PICKS} picks", shortfall, GAIN_TOLERANCE)]


def group(shape: Shape, dtype: str, names: set[str]) -> Group:
    """All operators at one shape, with the loops they are compared with."""
    keys = patches(shape.tokens, shape.outputs, torch.Generator().manual_seed(0)).to(DTYPES[dtype])
    scores = keys[:, 0].float()
    scores = (scores - scores.min() + 1e-6) / (scores.max() - scores.min())
    index, width = torch.arange(shape.tokens), GRID_WIDTH[shape.tokens]
    positions = torch.stack([index // width, index % width], dim=1).float()
    x = Tokens(scores, keys, positions, shape.keep[0])
    plain, cases = {}, []
    for operator in OPERATORS:
        if operator.op not in names:
            continue
        for name, (run, _) in operator.loop.items():
            plain[name] = partial(run, x)
        terms = [(name, factor(x)) for name, (_, factor) in operator.loop.items()]
        cases.append(
            Case(
                operator.op,
                operator.variant,
                partial(operator.run, x),
                partial(check, operator, x),
                {"loop": terms},
            )
        )
    return Group(shape, dtype, plain, cases)


def run(
    shapes: list[Shape], dtypes: list[str], names: set[str], progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Rows as ``benchmarks.report`` has them; one round of the largest shape."""
    rows = []
    for dtype in dtypes:
        for shape in shapes:
            rounds = 1 if shape.tokens > 10_000 else 3
            rows += measure_group(group(shape, dtype, names), rounds, progress)
    return rows


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.family", description=__doc__)
    names = sorted({operator.op for operator in OPERATORS})
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="OP")
    parser.add_argument("--tokens", nargs="+", type=int, choices=list(GRID_WIDTH))
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=["fp32"])
    parser.add_argument("--output", type=Path, help="where to write the rows as JSON")
    options = parser.parse_args(arguments)
    shapes = [s for s in SHAPES if not options.tokens or s.tokens in options.tokens]
    with torch.inference_mode():
        rows = run(shapes, options.dtype, set(options.only), lambda text: print(f"  {text}"))
    print("\n".join(table.ratios(rows, DIRECTIONS)))
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n")
    return int(any("refused" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
