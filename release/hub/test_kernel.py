"""The kernel as the hub's users get it, against float64."""

from pathlib import Path

import pytest
import torch
from kernels import get_local_kernel

zoprune = get_local_kernel(Path(__file__).parents[1])
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.kernels_ci
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_closed_form(dtype):
    torch.manual_seed(0)
    x, w1, b1, w2 = (
        torch.randn(*shape, dtype=dtype, device=DEVICE) / shape[-1] ** 0.5
        for shape in ((37, 19), (33, 19), (33,), (21, 33))
    )
    metric = zoprune.fold_metric(w1, w2)
    scores = zoprune.expected_sensitivity(x, w1, b1, metric, activation="relu")
    slopes = (x.double() @ w1.double().T + b1.double() > 0).double()
    weights = w2.double().T @ w2.double() * (w1.double() @ w1.double().T) / 19
    exact = ((slopes @ weights) * slopes).sum(-1).sqrt()
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(scores.double(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.kernels_ci
def test_selection_is_plain_greedy():
    torch.manual_seed(1)
    scores = torch.rand(101, device=DEVICE)
    keys = torch.randn(101, 7, device=DEVICE)
    picks = zoprune.select(scores, keys, 20, method="maxmin", sort=False)
    distances = 1 - torch.nn.functional.cosine_similarity(
        keys.double()[:, None], keys.double()[None], dim=-1
    )
    gaps = torch.full((101,), torch.inf, dtype=torch.float64, device=DEVICE)
    for pick in picks.tolist():
        if gaps.isfinite().all():
            assert gaps[pick] >= gaps.max() - 1e-6
        gaps = gaps.minimum(distances[pick])
        gaps[pick] = -1


@pytest.mark.kernels_ci
def test_the_namespace_is_this_builds_own():
    assert zoprune.namespace.NAME != "zoprune"
    assert zoprune.backend.native_error is None
    assert zoprune.backend.candidates("select", "cpu")[0] == ("cpu", None)
    assert not hasattr(torch.ops.zoprune, "select")
