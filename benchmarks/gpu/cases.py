"""What is measured on a GPU: each operator, its check, and what it is compared with."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import zoprune_kernels as zk

from .. import baselines, verify
from ..family import cases as family_cases
from ..shapes import LLAVA, LLAVA_NEXT, QWEN, STEP, Inputs, Shape, make_inputs
from ..verify import Check
from . import timing as gpu_timing

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
Row = dict[str, Any]
Call = Callable[["Set"], Any]


@dataclass(frozen=True)
class Set:
    """One copy of everything that the calls of a shape read."""

    inputs: Inputs
    metric: Tensor  # [H, H]
    keys: Tensor  # [N, D]
    scores: Tensor  # [N]
    products: Tensor  # [4 N, H], what a bare GEMM of one direction's size multiplies

    def copy(self, fields: Sequence[str]) -> Set:
        """Another set with some fields of its own."""
        return dataclasses.replace(self, **{name: _copied(getattr(self, name)) for name in fields})

    def size(self, fields: Sequence[str]) -> int:
        """Bytes of some fields."""
        tensors: list[Tensor] = []
        for value in (getattr(self, name) for name in fields):
            tensors += [value.x, *value.layers] if isinstance(value, Inputs) else [value]
        return gpu_timing.total_bytes(tensors)


def _copied(value: Inputs | Tensor, device: str | None = None) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, copy=True)
    fields = [getattr(value, f.name) for f in dataclasses.fields(value)]
    return Inputs(*(_copied(f, device) if isinstance(f, Tensor) else f for f in fields))


def make_set(shape: Shape, dtype: torch.dtype, device: str = "cuda") -> Set:
    inputs = _copied(make_inputs(shape, dtype), device)
    w1, b1, w2, _ = inputs.layers
    metric = zk.fold_metric(w1, w2)
    keys = baselines.projector(inputs.x, *inputs.layers)
    scores = zk.expected_sensitivity(inputs.x, w1, b1, metric)
    products = torch.randn(4 * shape.tokens, shape.hidden, device=device).to(dtype)
    return Set(inputs, metric, keys, scores, products)


@dataclass(frozen=True)
class Case:
    """One operator call. ``against`` names baselines with the factor that makes the work equal."""

    op: str
    variant: str
    call: Call
    check: Callable[[Any, Set], list[Check]]
    against: dict[str, list[tuple[str, float]]]


def selection_cases(shape: Shape) -> tuple[list[Case], dict[str, Call]]:
    """``select`` with the projector's outputs as keys."""
    cases, plain = [], {}
    for k in shape.keep:
        loop, better = f"loop {k}", f"running minimum {k}"
        plain[loop] = lambda s, k=k: baselines.authors_selection(s.scores, s.keys, k)
        plain[better] = lambda s, k=k: baselines.running_minimum_selection(s.scores, s.keys, k)
        cases.append(
            Case(
                "select",
                f"k = {k}",
                lambda s, k=k: zk.select(s.scores, s.keys, k),
                lambda got, s: [verify.selection(got, s.scores, s.keys)],
                {"loop": [(loop, 1.0)], "better loop": [(better, 1.0)]},
            )
        )
    return cases, plain


def family_selection_cases(shape: Shape) -> tuple[list[Case], dict[str, Call]]:
    """The other selections as benchmarks/family/cases.py has them, without its loops: those look at
    the data, which a graph cannot."""
    k = shape.keep[0]

    def tokens(s: Set) -> family_cases.Tokens:
        index = torch.arange(shape.tokens, device=s.keys.device)
        grid = torch.stack([index // 24, index % 24], dim=1).float()
        return family_cases.Tokens(s.scores, s.keys, grid, index[:k])

    def on_cpu(x: family_cases.Tokens) -> family_cases.Tokens:
        return family_cases.Tokens(*(t.cpu() for t in (x.scores, x.keys, x.positions, x.kept)))

    cases = [
        Case(
            operator.op,
            f"{operator.variant}, k = {k}",
            lambda s, run=operator.run: run(tokens(s)),
            lambda got, s, check=operator.check: check(on_cpu(tokens(s)), got.cpu()),
            {},
        )
        for operator in family_cases.OPERATORS
        if operator.op in ("select_dpp", "select_suppress", "select_coverage")
    ]
    return cases, {}


def scoring_cases(shape: Shape) -> tuple[list[Case], dict[str, Call]]:
    """Scores alone, and scores, projector outputs and selection in one call."""
    k = shape.keep[0]
    plain: dict[str, Call] = {
        "projector": lambda s: baselines.projector(s.inputs.x, *s.inputs.layers),
        "loop": lambda s: baselines.authors_selection(s.scores, s.keys, k),
        "GEMM": lambda s: F.linear(s.products, s.inputs.layers[2]),
        "paper": lambda s: baselines.paper_sensitivity(
            s.inputs.x, *s.inputs.layers, s.inputs.directions, STEP
        ),
    }
    first_layer = shape.tokens * shape.inputs * shape.hidden  # multiply-adds
    per_direction = shape.inputs * shape.hidden + shape.tokens * shape.hidden * shape.outputs
    gemm = 4 * shape.tokens * shape.hidden * shape.outputs
    closed = (first_layer + shape.tokens * shape.hidden**2) / gemm
    sampled = (first_layer + 64 * per_direction) / gemm
    whole = [("paper", 1.0), ("projector", 1.0), ("loop", 1.0)]

    def closed_scores(got: Tensor, s: Set) -> list[Check]:
        return [verify.expected_sensitivity(got, s.inputs, s.metric)]

    def sampled_scores(got: Tensor, s: Set, step: float = STEP) -> list[Check]:
        return [verify.sensitivity(got, s.inputs, s.inputs.directions, step)]

    def picks(got: Any, s: Set) -> list[Check]:
        return [verify.own_selection(got[-2], got[-1], s.inputs)]

    def sample(step: float) -> Call:
        return lambda s: zk.sensitivity(
            s.inputs.x, *s.inputs.layers[:3], s.inputs.directions, step=step
        )

    cases = [
        Case(
            "expected_sensitivity",
            "closed form",
            lambda s: zk.expected_sensitivity(s.inputs.x, *s.inputs.layers[:2], s.metric),
            closed_scores,
            {"paper": [("paper", 1.0)], "GEMM": [("GEMM", closed)]},
        ),
        Case(
            "sensitivity",
            "m = 64, h = 0.01",
            sample(STEP),
            sampled_scores,
            {"paper": [("paper", 1.0)], "GEMM": [("GEMM", sampled)]},
        ),
        Case(
            "sensitivity",
            "m = 64, h = 0",
            sample(0.0),
            lambda got, s: sampled_scores(got, s, 0.0),
            {"paper": [("paper", 1.0)], "GEMM": [("GEMM", sampled)]},
        ),
        Case(
            "score_and_select",
            f"closed form, k = {k}",
            lambda s: zk.score_and_select(s.inputs.x, *s.inputs.layers, k, metric=s.metric),
            picks,
            {"paper": whole},
        ),
        Case(
            "score_and_select",
            f"m = 64, k = {k}",
            lambda s: zk.score_and_select(
                s.inputs.x, *s.inputs.layers, k, directions=s.inputs.directions
            ),
            picks,
            {"paper": whole},
        ),
        Case(
            "project_and_select",
            f"closed form, k = {k}",
            lambda s: zk.project_and_select(s.inputs.x, *s.inputs.layers, k, metric=s.metric),
            picks,
            {"paper": whole},
        ),
    ]
    return cases, plain


@dataclass(frozen=True)
class Group:
    """Cases, the shapes that they are measured at, and what of a set they read."""

    build: Callable[[Shape], tuple[list[Case], dict[str, Call]]]
    shapes: tuple[Shape, ...]
    reads: tuple[str, ...]


GROUPS = {
    "selection": Group(selection_cases, (LLAVA, LLAVA_NEXT), ("scores", "keys")),
    "family": Group(family_selection_cases, (LLAVA, LLAVA_NEXT), ("scores", "keys")),
    "scoring": Group(scoring_cases, (LLAVA, LLAVA_NEXT, QWEN), ("inputs", "metric", "products")),
}


def measure(name: str, dtype: str) -> Iterator[Row]:
    """A row for each case of a group: checked, timed, compared. A row tells its own error."""
    group = GROUPS[name]
    for shape in group.shapes:
        first = make_set(shape, DTYPES[dtype])
        count = gpu_timing.copies_beyond_cache(first.size(group.reads))
        sets = [first, *(first.copy(group.reads) for _ in range(count - 1))]
        cases, plain = group.build(shape)
        baseline_seconds: dict[str, float] = {}
        for case in cases:
            row: Row = {"op": case.op, "variant": case.variant, "shape": shape.name, "dtype": dtype}
            try:
                yield row | _measured(case, plain, sets, baseline_seconds)
            except Exception as error:  # an operator that fails must not hide the others
                yield row | {"refused": f"{type(error).__name__}: {error}"}


def _measured(
    case: Case, plain: dict[str, Call], sets: list[Set], baseline_seconds: dict[str, float]
) -> Row:
    first = sets[0]
    checks = case.check(case.call(first), first)
    failed = [str(check) for check in checks if not check.passed]
    if failed:
        return {"refused": "; ".join(failed)}
    samples = gpu_timing.seconds_per_call([lambda s=s: case.call(s) for s in sets])
    seconds = statistics.median(samples)
    against = {}
    for label, terms in case.against.items():
        for name, _ in terms:
            if name not in baseline_seconds:
                calls = [lambda s=s, name=name: plain[name](s) for s in sets]
                baseline_seconds[name] = statistics.median(gpu_timing.seconds_per_call(calls))
        other = sum(baseline_seconds[name] * factor for name, factor in terms)
        against[label] = {"ratio": other / seconds, "seconds": other, "of": terms}
    kernels = gpu_timing.kernel_names(lambda: case.call(first))
    return {
        "seconds": seconds,
        "samples": [min(samples), max(samples), len(samples)],
        "checks": [str(check) for check in checks],
        "against": against,
        "kernels": kernels,
    }
