"""What is measured on a GPU: the cases of every device, and the other selections."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from .. import scoring, selection
from ..case import Case, Group, Row, Run, checked
from ..family import cases as family
from ..shapes import LLAVA, LLAVA_NEXT, QWEN, Inputs, Shape, make_inputs, with_copies
from . import timing

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
GRID_WIDTH = 24
# A loop that looks at the data, or one of thousands of launches, takes seconds to capture.
FORMS = scoring.Forms()


def selection_group(shape: Shape, dtype: str, device: str) -> Group[Inputs]:
    inputs = make_inputs(shape, DTYPES[dtype]).to(device)
    return Group(shape, dtype, inputs, selection.plain(shape), selection.cases(shape))


def scoring_group(shape: Shape, dtype: str, device: str) -> Group[Inputs]:
    inputs = make_inputs(shape, DTYPES[dtype]).to(device)
    return Group(shape, dtype, inputs, scoring.plain(shape, FORMS), scoring.cases(shape, FORMS))


def family_group(shape: Shape, dtype: str, device: str) -> Group[family.Tokens]:
    """The other selections, without their loops: those look at the data, which a graph cannot."""
    k = shape.keep[0]
    inputs = make_inputs(shape, DTYPES[dtype]).to(device)
    index = torch.arange(shape.tokens, device=device)
    grid = torch.stack([index // GRID_WIDTH, index % GRID_WIDTH], dim=1).float()
    tokens = family.Tokens(inputs.scores, inputs.keys, grid, index[:k])

    def on_cpu(case: Case[family.Tokens]) -> Case[family.Tokens]:
        check = case.check
        return replace(
            case,
            variant=f"{case.variant}, k = {k}",
            check=lambda x, got: check(x.to("cpu"), got.cpu()),
            against={},
        )

    wanted = ("select_dpp", "select_suppress", "select_coverage")
    cases = [on_cpu(case) for case in family.OPERATORS if case.op in wanted]
    return Group(shape, dtype, tokens, {}, cases)


@dataclass(frozen=True)
class Part:
    """Groups of one kind, the shapes that they are measured at, and what of the inputs they read.

    ``reads`` names what is copied, so that no call finds its inputs in the cache.
    """

    build: Callable[[Shape, str, str], Group[Any]]
    shapes: tuple[Shape, ...]
    reads: tuple[str, ...]


SCORED = ("x", "w1", "b1", "w2", "b2", "metric", "keys", "native_scores", "rows")
PARTS = {
    "selection": Part(selection_group, (LLAVA, LLAVA_NEXT), ("scores", "native_scores", "keys")),
    "scoring": Part(scoring_group, (LLAVA, LLAVA_NEXT, QWEN), SCORED),
    "family": Part(family_group, (LLAVA, LLAVA_NEXT), ("scores", "keys")),
}


def measure(name: str, dtype: str, device: str = "cuda") -> Iterator[Row]:
    """A row for each case of a part: checked, timed, compared. A row tells its own error."""
    part = PARTS[name]
    for shape in part.shapes:
        try:
            group = part.build(shape, dtype, device)
            size = timing.total_bytes([getattr(group.inputs, read) for read in part.reads])
            more = range(timing.copies_beyond_cache(size) - 1)
            copies = [group.inputs, *(with_copies(group.inputs, part.reads) for _ in more)]
        except Exception as error:  # the other shapes may do
            place = {"op": name, "variant": "inputs", "shape": shape.name, "dtype": dtype}
            yield place | {"refused": f"{type(error).__name__}: {error}"}
            continue
        baseline_seconds: dict[str, float] = {}
        for case in group.cases:
            row = group.row(case) | checked(case, group.inputs)
            if "refused" not in row:
                row |= timed(case, group.baselines, copies, baseline_seconds)
            yield row


def timed(
    case: Case[Any],
    plain: dict[str, Run[Any]],
    copies: list[Any],
    baseline_seconds: dict[str, float],
) -> Row:
    """Times and comparisons of a case whose result is right; each failure spoils itself only."""
    try:
        samples = timing.seconds_per_call([lambda x=x: case.run(x) for x in copies])
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    seconds = statistics.median(samples)
    row: Row = {"seconds": seconds, "samples": [min(samples), max(samples), len(samples)]}
    row |= {"against": {}, "kernels": []} | case.noted

    def attempt(what: str, measured: Callable[[], Any]) -> Any:
        try:
            return measured()
        except Exception as error:
            row.setdefault("not_measured", {})[what] = f"{type(error).__name__}: {error}"
            return None

    def seconds_of(name: str) -> float:
        if name not in baseline_seconds:
            calls = [lambda x=x: plain[name](x) for x in copies]
            baseline_seconds[name] = statistics.median(timing.seconds_per_call(calls))
        return baseline_seconds[name]

    for label, terms in case.against.items():
        other = attempt(
            label, lambda terms=terms: sum(factor * seconds_of(name) for name, factor in terms)
        )
        if other is not None:
            row["against"][label] = {"ratio": other / seconds, "seconds": other, "of": terms}
    if host := attempt("eager", lambda: timing.eager(lambda: case.run(copies[0]))):
        row["eager"] = host
    row["kernels"] = attempt("kernels", lambda: timing.kernel_names(lambda: case.run(copies[0])))
    return row | {"kernels": row["kernels"] or []}
