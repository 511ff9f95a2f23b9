"""``select`` alone, with the projector's outputs as keys: the cases of every device."""

from __future__ import annotations

from torch import Tensor

import zoprune_kernels as zk
from zoprune_kernels.testing import Check, certify_select

from . import baselines
from .case import Case, Run
from .shapes import CROPS, Inputs, Shape


def plain(shape: Shape) -> dict[str, Run[Inputs]]:
    """The published loop, and one that keeps the minimum, for each k."""
    found: dict[str, Run[Inputs]] = {}
    for k in shape.keep:
        found[f"loop {k}"] = lambda x, k=k: baselines.authors_selection(x.native_scores, x.keys, k)
        found[f"running minimum {k}"] = lambda x, k=k: baselines.running_minimum_selection(
            x.native_scores, x.keys, k
        )
        if shape in CROPS:
            found[f"loop over crops {k}"] = lambda x, k=k: loop_over_crops(x, k)
    return found


def cases(shape: Shape) -> list[Case[Inputs]]:
    found: list[Case[Inputs]] = []
    for k in shape.keep:
        found.append(
            Case(
                "select",
                f"k = {k}",
                lambda x, k=k: zk.select(x.scores, x.keys, k),
                lambda x, got: [certify_select(got, x.scores, x.keys, in_order=False)],
                {
                    "loop": [(f"loop {k}", 1.0)],
                    "better loop": [(f"running minimum {k}", 1.0)],
                },
            )
        )
        if shape in CROPS:
            crops = CROPS[shape]
            found.append(
                Case(
                    "select",
                    f"{crops} crops, k = {k // crops} each",
                    lambda x, k=k: zk.select(*in_crops(x), k // CROPS[shape]),
                    check_crops,
                    {"loop": [(f"loop over crops {k}", 1.0)]},
                )
            )
    return found


def in_crops(x: Inputs) -> tuple[Tensor, Tensor]:
    """Scores [crops, n] and keys [crops, n, D]: views, since crops follow one another."""
    crops = CROPS[x.shape]
    return x.scores.view(crops, -1), x.keys.view(crops, -1, x.keys.shape[-1])


def loop_over_crops(x: Inputs, k: int) -> list[Tensor]:
    """What the authors' LLaVA-NeXT code runs: each crop by itself, one after the other."""
    keys = in_crops(x)[1]
    scores = x.native_scores.view(len(keys), -1)
    crops = zip(scores, keys, strict=True)
    return [baselines.authors_selection(s, z, k // len(keys)) for s, z in crops]


def check_crops(x: Inputs, got: Tensor) -> list[Check]:
    scores, keys = in_crops(x)
    return [certify_select(got, scores, keys, in_order=False)]
