"""Scores, and scores with projector outputs and selection: the cases of every device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

import zoprune_kernels as zk
from zoprune_kernels.testing import Check

from . import baselines, verify
from .case import Case, Run
from .shapes import DIRECTIONS, STEP, Inputs, Shape


@dataclass(frozen=True)
class Forms:
    """The baselines that are quickest on a device, and how many directions are measured.

    The paper's time is linear in the number of directions: whole pipelines scale it up to all of
    them, and m = 64 rows compare the same few directions on both sides.
    """

    paper: str = "paper, one by one"
    gemm: str = "GEMM, F.linear"
    directions: int = DIRECTIONS


def plain(shape: Shape, forms: Forms) -> dict[str, Run[Inputs]]:
    """What the cases are compared with."""
    paper, product = baselines.PAPER_FORMS[forms.paper], baselines.GEMMS[forms.gemm]
    return {
        "projector": lambda x: baselines.projector(x.x, *x.layers),
        "selection loop": lambda x: baselines.authors_selection(
            x.native_scores, x.keys, shape.keep[0]
        ),
        forms.gemm: lambda x: product(x.rows, x.w2),
        forms.paper: lambda x: paper(x.x, *x.layers, x.directions[: forms.directions], STEP),
    }


def cases(shape: Shape, forms: Forms, *, all_variants: bool = True) -> list[Case[Inputs]]:
    """Closed form and sampled directions; ``all_variants`` adds the slow ones."""
    k, m = shape.keep[0], forms.directions

    # Multiply-adds of a case over those of the bare product
    project = shape.tokens * shape.inputs * shape.hidden
    product = min(2304, 4 * shape.tokens) * shape.hidden * shape.outputs
    closed = (project + shape.tokens * shape.hidden**2) / product
    per_direction = shape.inputs * shape.hidden + shape.tokens * shape.hidden * shape.outputs
    sampled = (project + m * per_direction) / product

    floor = {"projector": [("projector", 1.0)]}
    scaled = (forms.paper, DIRECTIONS / m)
    rest = [("projector", 1.0), ("selection loop", 1.0)]
    noted = {"directions_measured": m}

    def sensitivity(x: Inputs, step: float) -> Tensor:
        return zk.sensitivity(x.x, *x.layers[:3], x.directions[:m], step=step)

    found: list[Case[Inputs]] = [
        Case(
            "expected_sensitivity",
            "closed form",
            lambda x: zk.expected_sensitivity(x.x, *x.layers[:2], x.metric),
            closed_scores,
            {"paper": [scaled], "GEMM": [(forms.gemm, closed)], **floor},
            noted=noted,
        ),
        Case(
            "sensitivity",
            "m = 64, h = 0.01",
            partial(sensitivity, step=STEP),
            partial(sampled_scores, m, STEP),
            {"paper": [(forms.paper, 1.0)], "GEMM": [(forms.gemm, sampled)]},
            noted=noted,
        ),
        Case(
            "score_and_select",
            f"closed form, k = {k}",
            lambda x: zk.score_and_select(x.x, *x.layers, k, metric=x.metric),
            partial(pruned, closed_scores),
            {"paper": [scaled, *rest], **floor},
            noted=noted,
        ),
        Case(
            "project_and_select",
            f"closed form, k = {k}",
            lambda x: zk.project_and_select(x.x, *x.layers, k, metric=x.metric),
            projected,
            {"paper": [scaled, *rest], **floor},
            noted=noted,
        ),
    ]
    if all_variants:
        found += [
            Case(
                "sensitivity",
                "m = 64, h = 0",
                partial(sensitivity, step=0.0),
                partial(sampled_scores, m, 0.0),
                {"paper": [(forms.paper, 1.0)], "GEMM": [(forms.gemm, sampled)]},
                noted=noted,
            ),
            Case(
                "score_and_select",
                f"m = 64, k = {k}",
                lambda x: zk.score_and_select(
                    x.x, *x.layers, k, directions=x.directions[:m], step=STEP
                ),
                partial(pruned, partial(sampled_scores, m, STEP)),
                {"paper": [(forms.paper, 1.0), *rest], **floor},
                noted=noted,
            ),
        ]
    return found


def closed_scores(x: Inputs, got: Tensor) -> list[Check]:
    return [verify.expected_sensitivity(got, x, x.metric)]


def sampled_scores(m: int, step: float, x: Inputs, got: Tensor) -> list[Check]:
    return [verify.sensitivity(got, x, x.directions[:m], step)]


def pruned(scores: Any, x: Inputs, got: tuple[Tensor, Tensor]) -> list[Check]:
    """Indices and scores of one call, the scores checked by ``scores``."""
    return [*scores(x, got[1]), verify.own_selection(got[0], got[1], x)]


def projected(x: Inputs, got: tuple[Tensor, Tensor, Tensor]) -> list[Check]:
    tokens, indices, scores = got
    return [verify.tokens(tokens, indices, x), *pruned(closed_scores, x, (indices, scores))]
