"""pytest-benchmark cases of every operator: ``pytest benchmarks --benchmark-only``.

Not part of ``make test``. For one operator: ``-k "select and bf16"``; to compare two versions,
store runs with ``--benchmark-autosave`` and use ``--benchmark-compare``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import zoprune_kernels as zk

from ..machine import OPS
from ..shapes import DTYPES, LLAVA, STEP, Shape, make_inputs
from .cases import FEW_DIRECTIONS

SMALL = Shape("small", 64, 128, 256, 256, (16,))
SHAPES = {"llava": LLAVA, "small": SMALL}


@pytest.fixture(scope="module", params=[f"{s}-{d}" for d in DTYPES for s in SHAPES])
def calls(request: pytest.FixtureRequest) -> dict[str, Callable[[], Any]]:
    """Every operator's call at one shape and dtype, sharing the inputs."""
    shape, dtype = request.param.split("-")
    inputs = make_inputs(SHAPES[shape], DTYPES[dtype])
    x, w1, b1, w2, b2 = inputs.x, *inputs.layers
    k, u = inputs.shape.keep[0], inputs.directions[:FEW_DIRECTIONS]
    metric = zk.fold_metric(w1, w2)
    keys = torch.nn.functional.linear(x, w1)
    scores = zk.expected_sensitivity(x, w1, b1, metric)
    projector = (x, w1, b1, w2, b2)
    return {
        "directions": partial(zk.directions, *u.shape),
        "fold_metric": partial(zk.fold_metric, w1, w2),
        "expected_sensitivity": partial(zk.expected_sensitivity, x, w1, b1, metric),
        "sensitivity": partial(zk.sensitivity, x, w1, b1, w2, u, step=STEP),
        "select": partial(zk.select, scores, keys, k),
        "score_and_select": partial(zk.score_and_select, *projector, k, metric=metric),
        "project_and_select": partial(zk.project_and_select, *projector, k, metric=metric),
    }


@pytest.mark.parametrize("op", OPS)
def test_operator(benchmark: Any, calls: dict[str, Callable[[], Any]], op: str) -> None:
    with torch.inference_mode():
        benchmark.pedantic(calls[op], rounds=5, warmup_rounds=1)
