"""What ``python -m benchmarks.cpu`` measures: the groups of cases of a shape and dtype."""

from __future__ import annotations

from collections.abc import Container, Iterator
from functools import partial

import zoprune_kernels as zk
from zoprune_kernels import philox

from .. import baselines, scoring, selection, verify
from ..case import Case, Group
from ..measure import quickest, warm_up
from ..shapes import DIRECTIONS, DTYPES, LLAVA_NEXT, QWEN, STEP, Inputs, Shape, make_inputs

# Directions measured where all 64 would take minutes
FEW_DIRECTIONS = 4
LARGE = (LLAVA_NEXT, QWEN)

SETUP = ("directions", "fold_metric")
SCORING = ("expected_sensitivity", "sensitivity", "score_and_select", "project_and_select")
SELECTION = ("select",)


def groups(
    shape: Shape, dtype: str, ops: Container[str], *, quick: bool = False
) -> Iterator[Group[Inputs]]:
    """The groups of a shape and dtype that have some of ``ops``, one by one: inputs are large."""
    inputs = make_inputs(shape, DTYPES[dtype])
    few = quick or shape in LARGE
    builders = {
        SETUP: setup_group,
        SCORING: partial(scoring_group, measured=FEW_DIRECTIONS if few else DIRECTIONS),
        SELECTION: selection_group,
    }
    if shape is LLAVA_NEXT:  # its projector is LLaVA-1.5's
        del builders[SETUP]
    for built, build in builders.items():
        if any(op in ops for op in built):
            group = build(inputs, dtype).only(lambda case: case.op in ops)
            warm_up({name: partial(run, inputs) for name, run in group.baselines.items()})
            yield group


def setup_group(inputs: Inputs, dtype: str) -> Group[Inputs]:
    """What is computed once per model."""
    num, dim = DIRECTIONS, inputs.shape.inputs
    exact = philox.directions(num, dim, "sphere", 1, inputs.w1.device)
    cases: list[Case[Inputs]] = [
        Case(
            "directions",
            f"{num} x {dim}",
            lambda x: zk.directions(num, dim, seed=1),
            lambda x, got: [verify.directions(got, exact)],
            {"PyTorch": [("sphere", 1)]},
        ),
        Case(
            "fold_metric",
            "once per model",
            lambda x: zk.fold_metric(x.w1, x.w2),
            lambda x, got: [verify.fold_metric(got, x)],
            {"PyTorch": [("fold", 1)]},
        ),
    ]
    plain = {
        "sphere": lambda x: baselines.sphere(num, dim),
        "fold": lambda x: baselines.fold(x.w1, x.w2),
    }
    return Group(inputs.shape, dtype, inputs, plain, cases)


def scoring_group(inputs: Inputs, dtype: str, measured: int) -> Group[Inputs]:
    """Scores and whole pipelines, against the forms that are quickest here."""
    gemms = {name: partial(f, inputs.rows, inputs.w2) for name, f in baselines.GEMMS.items()}
    tried = (inputs.x, *inputs.layers, inputs.directions[:2], STEP)
    papers = {name: partial(f, *tried) for name, f in baselines.PAPER_FORMS.items()}
    forms = scoring.Forms(quickest(papers), quickest(gemms), measured)
    shape = inputs.shape
    cases = scoring.cases(shape, forms, all_variants=shape not in LARGE)
    return Group(shape, dtype, inputs, scoring.plain(shape, forms), cases)


def selection_group(inputs: Inputs, dtype: str) -> Group[Inputs]:
    shape = inputs.shape
    return Group(shape, dtype, inputs, selection.plain(shape), selection.cases(shape))
