"""A user's code, for mypy --strict and pyright: never run. Each line with an error says which.

tests/test_typing.py expects an error on the lines that end in ``# error`` and on no other.
"""

from __future__ import annotations

import torch
import zoprune
from torch import Tensor, nn
from typing_extensions import assert_type
from zoprune.hf.reports import Report
from zoprune.module import Kept

import zoprune_kernels


class Model:
    pass


def prune(model: Model, output: object) -> None:
    assert_type(zoprune.prune(model, keep=64), Model)
    zoprune.prune(model, 0.25, per="crop", method="mmr", tradeoff=0.3, metric="metric.safetensors")
    zoprune.prune(model, 64, estimator="directions", num_directions=8, distribution="orthogonal")
    zoprune.prune(model, 64, method="suppress", rule="hard", threshold=0.9, positions="original")
    zoprune.prune(model)  # error
    zoprune.prune(model, "64")  # error
    zoprune.prune(model, 64, per="picture")  # error
    zoprune.prune(model, 64, method="best")  # error
    zoprune.prune(model, 64, tradeof=0.3)  # error
    zoprune.prune(model, 64, centre="yes")  # error
    assert_type(zoprune.restore(model), Model)
    with zoprune.keep(128), zoprune.keep(0.5), zoprune.keep(None):
        pass
    zoprune.keep("all")  # error
    report = zoprune.report(output)
    assert_type(report, Report)
    assert_type(report.kept, list[Tensor])
    assert_type(report.shorten(torch.zeros(1, 9)), Tensor)
    print(report.kep)  # error


def projector(layers: nn.Sequential, x: Tensor) -> Tensor:
    pruned = zoprune.PrunedProjector(layers, keep=64, method="dpp", seed=3)
    assert_type(zoprune.report(pruned), Kept)
    zoprune.PrunedProjector(layers, keep=64, method="best")  # error
    tokens, indices = pruned.forward(x)
    assert_type(indices, Tensor)
    return tokens


def operators(x: Tensor, w1: Tensor, w2: Tensor, cu: Tensor) -> Tensor:
    metric = zoprune_kernels.fold_metric(w1, w2)
    assert_type(metric, Tensor)
    found = zoprune_kernels.project_and_select(x, w1, None, w2, None, 64, metric=metric)
    assert_type(found, tuple[Tensor, Tensor, Tensor])
    zoprune_kernels.project_and_select(x, w1, None, w2, None)  # error
    zoprune_kernels.project_and_select(x, w1, None, w2, None, 64, tradeoff="high")  # error
    zoprune_kernels.project_and_select(x, w1, None, w2, None, 64, stepp=0.1)  # error
    zoprune_kernels.project_and_select_varlen(x, w1, None, w2, None, cu, cu, 64, metric=metric)
    zoprune_kernels.project_and_select_varlen(x, w1, None, w2, None, cu, cu, "64")  # error
    indices, scores = zoprune_kernels.score_and_select(x, w1, None, w2, None, 64, seed=1)
    assert_type(zoprune_kernels.select(scores, None, 64, method="topk"), Tensor)
    zoprune_kernels.select(scores, 64)  # error
    zoprune.prun(x)  # error
    zoprune_kernels.selct(x)  # error
    return indices
