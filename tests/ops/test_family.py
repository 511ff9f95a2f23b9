"""What the family's selections have in common: errors; and instruction sets, with merge."""

import pytest
import torch
from torch import Tensor

from zoprune_kernels.testing import DTYPES, fallback, grid, projector, refusals

OPS = [f"select_{name}{end}" for name in ("dpp", "suppress", "coverage") for end in ("", "_varlen")]


@pytest.mark.parametrize("op", OPS)
def test_errors_have_the_fallbacks_text(op):
    refused = 0
    for arguments in (call.arguments for call in refusals([op])):
        if arguments["keys"] is None and "suppress" not in op:
            continue  # the dispatcher itself refuses it
        try:
            getattr(fallback, op)(**arguments)
        except RuntimeError as error:
            with pytest.raises(RuntimeError) as raised:
                getattr(torch.ops.zoprune, op)(**arguments)
            assert str(error) in str(raised.value)
            assert str(error).startswith(f"zoprune::{op}: ")
            refused += 1
    assert refused >= 8


METHODS = {
    "dpp": {},
    "coverage": {},
    "suppress": {"rule": "exponential", "sigma_similarity": 0.3, "strength": 0.5},
    "sads": {"max_similarity": 0.6},
    "mmr": {"tradeoff": 0.8, "num_seed": 2},
}


def _picks(method: str, *arguments, **options) -> Tensor:
    """Of the operator that the method has for itself."""
    name = f"select_{method}" if method in ("dpp", "coverage", "suppress") else "select"
    chosen = {"method": method} if name == "select" else {}
    packed = "_varlen" if len(arguments) > 3 else ""
    return getattr(torch.ops.zoprune, name + packed)(*arguments, **chosen, **options)


@pytest.mark.parametrize("operators", [torch.ops.zoprune, fallback], ids=["native", "fallback"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_scoring_takes_every_method(method, dtype, operators):
    p, options = projector(2, 63, dtype=dtype), dict(METHODS[method])
    valid = torch.arange(63).expand(2, 63) < torch.tensor([[63], [50]])
    masks = {"valid": valid, "must_keep": torch.arange(63).expand(2, 63) == 7}
    place = {"positions": grid(63, 9).expand(2, 63, 2)} if method == "suppress" else {}
    place |= {"weights": torch.rand(2, 63)} if method == "coverage" else {}
    metric = torch.ops.zoprune.fold_metric(p.w1, p.w2)
    given = {"metric": metric, "method": method, **options}

    tokens, indices, scores = operators.project_and_select(*p.layers, 9, **given, **place, **masks)
    outputs, _, _ = operators.project_and_select(*p.layers, 63, metric=metric, method="topk")
    assert torch.equal(indices, _picks(method, scores, outputs, 9, **options, **place, **masks))
    kept = outputs.take_along_dim(indices[..., None], 1)
    torch.testing.assert_close(tokens, kept, rtol=0, atol=0 if dtype == torch.bfloat16 else 2e-3)

    packing = (*(torch.tensor([0, n, 2 * n], dtype=torch.int32) for n in (63, 9)), 18)
    flat = {name: tensor.flatten(0, 1) for name, tensor in (place | masks).items()}
    layers = (p.x.flatten(0, 1), *p.layers[1:])
    packed, _ = operators.score_and_select_varlen(*layers, *packing, **given, **flat)
    assert torch.equal(packed.view(2, 9), indices + torch.tensor([[0], [63]]))

    keys = torch.randn(2, 63, 5)
    by_keys, scores = operators.score_and_select(*p.layers, 9, keys=keys, **given, **place)
    assert torch.equal(by_keys, _picks(method, scores, keys, 9, **options, **place))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("dpp", {"max_similarity": 0.5}, "max_similarity: expected 1 with method 'dpp', got 0.5"),
        ("dpp", {"first": "isolated"}, "first: expected 'score' with method 'dpp', got 'isolated'"),
        ("coverage", {"num_seed": 3}, "num_seed: expected 0 with method 'coverage', got 3"),
        ("suppress", {"centre": True}, "centre: expected False with method 'suppress', got True"),
        ("dpp", {"picks_per_step": 2}, "picks_per_step: expected 1 with method 'dpp', got 2"),
        ("dpp", {"weights": torch.ones(63)}, "weights: expected None with method 'dpp', got a te"),
        ("sads", {"positions": grid(63, 9)}, "positions: expected None with method 'sads', got a"),
        ("suppress", {"rule": "mean"}, "rule: expected one of soft, exponential, hard, got 'mean'"),
        ("best", {}, "method: expected one of sads, maxmin, topk, random, mmr, dpp, suppress, cov"),
    ],
)
def test_options_of_other_methods_are_refused(method, options, message):
    p = projector(63)
    for function in (torch.ops.zoprune.score_and_select, fallback.score_and_select):
        with pytest.raises(RuntimeError) as raised:
            function(*p.layers, 9, method=method, **options)
        assert f"zoprune::score_and_select: {message}" in str(raised.value)
