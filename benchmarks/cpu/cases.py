"""What is measured: each operator at each shape and dtype, its check, what it is against."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import zoprune_kernels as zk
from zoprune_kernels import philox

from .. import baselines, verify
from ..shapes import DIRECTIONS, DTYPES, LLAVA_NEXT, QWEN, STEP, Inputs, Shape, make_inputs
from ..timing import in_turns
from ..verify import Check

# Directions measured where all 64 would take minutes. Time is linear in their number: the
# paper-literal times of whole pipelines are scaled up to 64, and the operator's own m = 64 rows
# compare the same few directions on both sides.
FEW_DIRECTIONS = 4
LARGE = (LLAVA_NEXT, QWEN)

SETUP = ("directions", "fold_metric")
SCORING = ("expected_sensitivity", "sensitivity", "score_and_select", "project_and_select")
SELECTION = ("select",)
OPS = (*SETUP, *SCORING, *SELECTION)


@dataclass(frozen=True, eq=False)
class Case:
    """One operator call. ``against`` names baselines with the factor that makes the work equal."""

    op: str
    variant: str
    run: Callable[[], Any]
    check: Callable[[Any], list[Check]]
    against: dict[str, list[tuple[str, float]]]
    directions: int | None = None  # how many were measured, where directions matter

    @property
    def name(self) -> str:
        return f"{self.op} ({self.variant})"


@dataclass(frozen=True)
class Group:
    """Cases that share baselines and are timed in turns with them."""

    shape: Shape
    dtype: str
    baselines: Mapping[str, Callable[[], Any]]
    cases: list[Case]

    def only(self, keep: Callable[[Case], bool]) -> Group:
        """Some of the cases, and the baselines that they are compared with."""
        cases = [case for case in self.cases if keep(case)]
        used = {name for case in cases for terms in case.against.values() for name, _ in terms}
        needed = {name: run for name, run in self.baselines.items() if name in used}
        return Group(self.shape, self.dtype, needed, cases)


def groups(
    shape: Shape, dtype: str, ops: Container[str], *, quick: bool = False
) -> Iterator[Group]:
    """The groups of a shape and dtype that have some of ``ops``, one by one: inputs are large."""
    inputs = make_inputs(shape, DTYPES[dtype])
    few = quick or shape in LARGE
    builders = {
        SETUP: partial(setup_group, inputs, dtype),
        SCORING: partial(scoring_group, inputs, dtype, FEW_DIRECTIONS if few else DIRECTIONS),
        SELECTION: partial(selection_group, inputs, dtype),
    }
    if shape is LLAVA_NEXT:  # its projector is LLaVA-1.5's
        del builders[SETUP]
    for built, build in builders.items():
        if any(op in ops for op in built):
            yield build().only(lambda case: case.op in ops)


def setup_group(inputs: Inputs, dtype: str) -> Group:
    """What is computed once per model."""
    num, dim = DIRECTIONS, inputs.shape.inputs
    w1, _, w2, _ = inputs.layers
    exact = philox.directions(num, dim, "sphere", 1, w1.device)
    cases = [
        Case(
            "directions",
            f"{num} x {dim}",
            partial(zk.directions, num, dim, seed=1),
            lambda got: [verify.directions(got, exact)],
            {"PyTorch": [("sphere", 1)]},
        ),
        Case(
            "fold_metric",
            "once per model",
            partial(zk.fold_metric, w1, w2),
            lambda got: [verify.fold_metric(got, inputs)],
            {"PyTorch": [("fold", 1)]},
        ),
    ]
    plain = {
        "sphere": partial(baselines.sphere, num, dim),
        "fold": partial(baselines.fold, w1, w2),
    }
    warm_up(plain)
    return Group(inputs.shape, dtype, plain, cases)


def scoring_group(inputs: Inputs, dtype: str, measured: int) -> Group:
    """Scores, and whole pipelines: scores, projector outputs and selection."""
    shape, x, layers = inputs.shape, inputs.x, inputs.layers
    w1, b1, w2, _ = layers
    k, u = shape.keep[0], inputs.directions[:measured]
    metric = zk.fold_metric(w1, w2)
    keys = baselines.projector(x, *layers)
    chunk = torch.randn(min(2304, 4 * shape.tokens), shape.hidden).to(x.dtype)
    plain: dict[str, Callable[[], Any]] = {
        "projector": partial(baselines.projector, x, *layers),
        "selection loop": partial(baselines.authors_selection, keys[:, 0], keys, k),
    }
    warm_up(plain)
    gemms = {name: partial(gemm, chunk, w2) for name, gemm in baselines.GEMMS.items()}
    gemm = quickest(gemms)
    tried = u[:2]
    form = quickest(
        {name: partial(f, x, *layers, tried, STEP) for name, f in baselines.PAPER_FORMS.items()}
    )
    plain[gemm] = gemms[gemm]
    plain[form] = partial(baselines.PAPER_FORMS[form], x, *layers, u, STEP)

    # Multiply-adds of a case over those of the bare GEMM
    project = shape.tokens * shape.inputs * shape.hidden
    chunk_size = chunk.shape[0] * shape.hidden * shape.outputs
    closed = (project + shape.tokens * shape.hidden**2) / chunk_size
    per_direction = shape.inputs * shape.hidden + shape.tokens * shape.hidden * shape.outputs
    sampled = (project + measured * per_direction) / chunk_size

    all_directions = (form, DIRECTIONS / measured)
    rest = [("projector", 1.0), ("selection loop", 1.0)]

    def closed_scores(scores: Tensor) -> list[Check]:
        return [verify.expected_sensitivity(scores, inputs, metric)]

    def sampled_scores(scores: Tensor, step: float = STEP) -> list[Check]:
        return [verify.sensitivity(scores, inputs, u, step)]

    def pruned(
        check_scores: Callable[[Tensor], list[Check]], got: tuple[Tensor, Tensor]
    ) -> list[Check]:
        indices, scores = got
        return [*check_scores(scores), verify.own_selection(indices, scores, inputs)]

    def projected(got: tuple[Tensor, Tensor, Tensor]) -> list[Check]:
        tokens, indices, scores = got
        return [verify.tokens(tokens, indices, inputs), *pruned(closed_scores, (indices, scores))]

    cases = [
        Case(
            "expected_sensitivity",
            "closed form",
            partial(zk.expected_sensitivity, x, w1, b1, metric),
            closed_scores,
            {"paper": [all_directions], "GEMM": [(gemm, closed)]},
            measured,
        ),
        Case(
            "sensitivity",
            "m = 64, h = 0.01",
            partial(zk.sensitivity, x, w1, b1, w2, u, step=STEP),
            sampled_scores,
            {"paper": [(form, 1.0)], "GEMM": [(gemm, sampled)]},
            measured,
        ),
        Case(
            "score_and_select",
            f"closed form, k = {k}",
            partial(zk.score_and_select, x, *layers, k, metric=metric),
            partial(pruned, closed_scores),
            {"paper": [all_directions, *rest]},
            measured,
        ),
        Case(
            "project_and_select",
            f"closed form, k = {k}",
            partial(zk.project_and_select, x, *layers, k, metric=metric),
            projected,
            {"paper": [all_directions, *rest]},
            measured,
        ),
    ]
    if shape not in LARGE:
        cases += [
            Case(
                "sensitivity",
                "m = 64, h = 0",
                partial(zk.sensitivity, x, w1, b1, w2, u, step=0.0),
                partial(sampled_scores, step=0.0),
                {"paper": [(form, 1.0)], "GEMM": [(gemm, sampled)]},
                measured,
            ),
            Case(
                "score_and_select",
                f"m = 64, k = {k}",
                partial(zk.score_and_select, x, *layers, k, directions=u, step=STEP),
                partial(pruned, sampled_scores),
                {"paper": [(form, 1.0), *rest]},
                measured,
            ),
        ]
    return Group(shape, dtype, plain, cases)


def selection_group(inputs: Inputs, dtype: str) -> Group:
    """``select`` alone, with the projector's outputs as keys."""
    w1, b1, w2, _ = inputs.layers
    keys = baselines.projector(inputs.x, *inputs.layers)
    scores = zk.sensitivity(inputs.x, w1, b1, w2, inputs.directions[:1])
    same_dtype = scores.to(keys.dtype)
    cases, plain = [], {}
    for k in inputs.shape.keep:
        loop, better = f"loop {k}", f"running minimum {k}"
        plain[loop] = partial(baselines.authors_selection, same_dtype, keys, k)
        plain[better] = partial(baselines.running_minimum_selection, same_dtype, keys, k)
        cases.append(
            Case(
                "select",
                f"k = {k}",
                partial(zk.select, scores, keys, k),
                lambda got: [verify.selection(got, scores, keys)],
                {"loop": [(loop, 1.0)], "better loop": [(better, 1.0)]},
            )
        )
    warm_up(plain)
    return Group(inputs.shape, dtype, plain, cases)


def warm_up(functions: Mapping[str, Callable[[], Any]]) -> None:
    for function in functions.values():
        function()


def quickest(functions: Mapping[str, Callable[[], Any]]) -> str:
    """The name of the function that takes the least time, each after a first call."""
    warm_up(functions)
    times = in_turns(functions, rounds=1)
    return min(functions, key=lambda name: times[name].median)
