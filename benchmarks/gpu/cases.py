"""What is measured on a GPU: the cases of every device, and the other selections."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

import zoprune_kernels as zk
from zoprune_kernels import environment
from zoprune_kernels.testing import Check, certify_select

from .. import scoring, selection
from ..case import Case, Group, Row, Run, Terms, checked
from ..family import cases as family
from ..shapes import LLAVA, LLAVA_NEXT, QWEN, Inputs, Shape, make_inputs, with_copies
from . import timing

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
GRID_WIDTH = 24
# A loop that looks at the data, or one of thousands of launches, takes seconds to capture.
FORMS = scoring.Forms()


def selection_group(shape: Shape, dtype: str, device: str) -> Group[Inputs]:
    inputs = make_inputs(shape, DTYPES[dtype]).to(device)
    cases = [*selection.cases(shape), isolated(shape.keep[0])]
    return Group(shape, dtype, inputs, selection.plain(shape), cases)


def isolated(k: int) -> Case[Inputs]:
    """DivPrune's first pick, which compares all tokens with each other."""
    return Case(
        "select",
        f"k = {k}, isolated first",
        lambda x: zk.select(x.scores, x.keys, k, first="isolated"),
        lambda x, got: [certify_select(got, x.scores, x.keys, in_order=False, first="isolated")],
    )


def scoring_group(shape: Shape, dtype: str, device: str) -> Group[Inputs]:
    inputs = make_inputs(shape, DTYPES[dtype]).to(device)
    cases = scoring.cases(shape, FORMS)
    if shape is PARTS["scoring"].shapes[0]:  # of one only: every kernel is compiled once more
        few = ("expected_sensitivity", "score_and_select", "sensitivity")
        cases += [chained(next(case for case in cases if case.op == op)) for op in few]
    return Group(shape, dtype, inputs, scoring.plain(shape, FORMS), cases)


def chained(case: Case[Inputs]) -> Case[Inputs]:
    """The same bits by kernels that are started ahead of time, as with ZOPRUNE_CUDA_PDL=1."""

    def run(x: Inputs) -> Any:
        before, environment.dependent_launches = environment.dependent_launches, True
        try:
            return case.run(x)
        finally:
            environment.dependent_launches = before

    def check(x: Inputs, got: Any) -> list[Check]:
        pairs = zip(tree_leaves(got), tree_leaves(case.run(x)), strict=True)
        different = sum(not torch.equal(ours, theirs) for ours, theirs in pairs)
        return [Check("outputs that differ", different, 0)]

    return replace(case, variant=f"{case.variant}, chained", run=run, check=check, against={})


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
        baselines = Baselines(group.baselines, copies)
        for case in group.cases:
            row = group.row(case) | checked(case, group.inputs)
            if "refused" not in row:
                row |= timed(case, baselines, copies)
            yield row


class Baselines:
    """Seconds of what a group's cases are compared with, each measured once."""

    def __init__(self, runs: Mapping[str, Run[Any]], copies: list[Any]) -> None:
        self.runs, self.copies = runs, copies
        self._captured: dict[str, float | None] = {}
        self._eager: dict[str, float] = {}

    def captured(self, name: str) -> float | None:
        """In a CUDA graph; None where it cannot be captured, as the published loop."""
        if name not in self._captured:
            calls = self._calls(name)
            able = timing.can_be_captured(calls[0])
            times = timing.seconds_per_call(calls) if able else None
            self._captured[name] = None if times is None else statistics.median(times)
        return self._captured[name]

    def eager(self, name: str) -> float:
        """As its users run it: from an idle GPU until the result is there."""
        if name not in self._eager:
            self._eager[name] = timing.eager(self._calls(name))["whole"]
        return self._eager[name]

    def _calls(self, name: str) -> list[Callable[[], Any]]:
        return [lambda x=x: self.runs[name](x) for x in self.copies]


def timed(case: Case[Any], baselines: Baselines, copies: list[Any]) -> Row:
    """Times and comparisons of a case whose result is right; each failure spoils itself only.

    Like is compared with like: graph with graph, and where a baseline cannot be captured, its eager
    time with the case's own; such a comparison is marked ``eager``.
    """
    calls = [lambda x=x: case.run(x) for x in copies]
    try:
        samples = timing.seconds_per_call(calls)
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

    def compared(terms: Terms) -> Row:
        captured = [baselines.captured(name) for name, _ in terms]
        eager = None in captured
        if eager and "eager" not in row:
            raise RuntimeError("it cannot be captured, and no eager call was measured")
        times = [baselines.eager(name) for name, _ in terms] if eager else captured
        other = sum(factor * time for (_, factor), time in zip(terms, times, strict=True))
        own = row["eager"]["whole"] if eager else seconds
        found: Row = {"ratio": other / own, "seconds": other, "of": terms}
        return found | ({"eager": True} if eager else {})

    if host := attempt("eager", lambda: timing.eager(calls)):
        row["eager"] = host
    for label, terms in case.against.items():
        if found := attempt(label, lambda terms=terms: compared(terms)):
            row["against"][label] = found
    row["kernels"] = attempt("kernels", lambda: timing.kernel_names(calls[0]))
    return row | {"kernels": row["kernels"] or []}
