"""zoprune_kernels.testing: certificates accept what exact greedy returns, and can fail."""

import doctest
import math
import subprocess
import sys

import pytest
import torch

import zoprune_kernels as zk
from zoprune_kernels import reference, testing

N, K = 63, 12
SELECTIONS = {
    **{m: {"method": m} for m in ("sads", "maxmin", "topk", "random", "mmr")},
    "constrained": {"method": "sads", "max_similarity": 0.3},
    "isolated": {"method": "maxmin", "first": "isolated"},
    "several a step": {"method": "mmr", "picks_per_step": 4, "num_seed": 3, "centre": True},
}
SUPPRESSIONS = {
    "soft": {"rule": "soft", "sigma_similarity": 0.3},
    "exponential": {"rule": "exponential", "sigma_similarity": 0.3, "strength": 0.4},
    "hard": {"rule": "hard", "threshold": 0.4},
}


def cases():
    """Name, what selects, and the certificate of its picks: fp64 references, any order."""
    for name, options in SELECTIONS.items():
        yield name, reference.select, testing.certify_select, (), options
    for name, options in SUPPRESSIONS.items():
        positions = (testing.grid(N, 9),)
        yield name, reference.select_suppress, testing.certify_suppress, positions, options
    yield "dpp", reference.select_dpp, testing.certify_dpp, (), {}
    yield "coverage", reference.select_coverage, testing.certify_coverage, (), {}


@pytest.fixture(params=cases(), ids=lambda case: case[0])
def made(request):
    """A good selection, and the certificate of any picks and further arguments."""
    _, select, certificate, more, options = request.param
    scores, keys = torch.rand(N), testing.clustered(N, 40)

    def pick(sort=False, **masks):
        return select(scores.double(), keys.double(), K, *more, **masks, **options, sort=sort)

    def certify(picks, scores=scores, **masks):
        return certificate(picks, scores, keys, *more, **masks, **options)

    return pick, certify, scores


def test_the_reference_passes_in_its_order_and_as_a_set(made):
    pick, certify, _ = made
    check = certify(pick())
    assert check.passed and check.exact
    assert certify(pick(sort=True), in_order=False).passed
    assert certify(pick().flip(0), in_order=False).passed


def test_every_replaced_pick_is_refused(made):
    """Each pick in turn gets a token that was not picked: less gain, or a lower class."""
    pick, certify, _ = made
    picks = pick()
    others = torch.tensor([token for token in range(N) if token not in picks.tolist()])
    for number in range(K):
        wrong = picks.clone()
        wrong[number] = others[torch.randint(len(others), ())]
        check = certify(wrong)
        assert not check.passed and not check.exact and check.where, (number, check)
        assert not certify(wrong, in_order=False).passed, number


def test_swapped_picks_are_refused(made):
    pick, certify, _ = made
    picks = pick()
    for number in range(K - 1):
        wrong = picks.clone()
        wrong[[number, number + 1]] = picks[[number + 1, number]]
        assert not certify(wrong).passed, number


def test_what_no_rounding_explains_is_infinitely_wrong(made):
    pick, certify, scores = made
    picks = pick()
    twice = torch.where(torch.arange(K) == 5, picks[4], picks)
    outside = torch.where(torch.arange(K) == 5, N, picks)
    for wrong in (twice, outside, -1 - picks):
        assert certify(wrong).error == math.inf
    valid = torch.ones(N, dtype=torch.bool)
    valid[picks[3]] = False
    assert certify(picks, valid=valid).error == math.inf
    last = pick(valid=valid)
    assert certify(last, valid=valid).passed
    must_keep = torch.zeros(N, dtype=torch.bool)
    must_keep[~torch.isin(torch.arange(N), picks).nonzero()[:2, 0]] = True
    must_keep[picks] = False
    assert certify(picks, must_keep=must_keep).error == math.inf
    kept = pick(must_keep=must_keep)
    assert certify(kept, must_keep=must_keep).passed
    empty = scores.clone()
    empty[picks[2]] = math.nan  # picked although scored ones were left
    assert certify(picks, scores=empty).error == math.inf


def test_a_token_too_similar_is_refused_as_long_as_others_are_left():
    keys = torch.eye(3)[[0, 0, 1, 2]]
    scores = torch.tensor([0.9, 0.8, 0.5, 0.1])
    rule = {"method": "topk", "max_similarity": 0.5}
    assert testing.certify_select(torch.tensor([0, 2, 3, 1]), scores, keys, **rule).passed
    refused = testing.certify_select(torch.tensor([0, 1, 2]), scores, keys, **rule)
    assert refused.error == math.inf


def test_rounding_within_the_tolerance_passes():
    scores, keys = torch.tensor([1.0, 0.5, 0.5 + 3e-6, 0.0]), torch.eye(4)
    picks = torch.tensor([0, 1, 2])  # exact arithmetic takes 2 before 1
    check = testing.certify_select(picks, scores, keys, method="topk")
    assert check.passed and not check.exact and 0 < check.error < 1e-5
    assert not testing.certify_select(picks, scores, keys, method="topk", tolerance=1e-7).passed


@pytest.mark.parametrize("rivals", [None, 40])
def test_a_few_steps_and_rivals_of_a_large_image(rivals):
    scores, keys = torch.rand(3000), testing.patches(3000, 64)
    for certificate, picks in (
        (testing.certify_select, zk.select(scores, keys, 300, sort=False)),
        (testing.certify_dpp, zk.select_dpp(scores, keys, 50, sort=False)),
    ):
        few = {"steps": 8, "rivals": rivals}
        assert certificate(picks, scores, keys, **few).passed
        assert not certificate(picks.flip(0), scores, keys, **few).passed
    with pytest.raises(ValueError, match=r"rivals: expected one image \[N\], got several"):
        testing.certify_select(picks[None], scores[None], keys[None], rivals=9)


@pytest.mark.parametrize("dtype", testing.DTYPES, ids=str)
def test_every_operators_call_is_certified(dtype):
    calls = testing.calls(dtype)
    assert {call.op for call in calls} == {op.split(".")[0] for op in published()}
    for call in calls:
        checks = call.check()
        assert checks and all(check.passed for check in checks), [call.op, *map(str, checks)]


def published():
    names = torch._C._dispatch_get_all_op_names()
    public = (name.removeprefix("zoprune::") for name in names if name.startswith("zoprune::"))
    return [name for name in public if not name.startswith("_")]


def damaged(result):
    """Each tensor of a result made wrong in turn: floats by 5 %, integers and flags shifted."""
    parts = list(result) if isinstance(result, (tuple, list)) else [result]
    for i, part in enumerate(parts):
        if part.is_floating_point():
            wrong = part.double() * 1.05 + 0.05 * part.double().abs().mean()
            wrong = wrong.to(part.dtype)
        elif part.dtype == torch.bool:
            wrong = ~part
        else:
            wrong = part.clone()
            wrong.view(-1)[-1] += 7 if part.view(-1)[-1] < 50 else -7
        changed = [*parts[:i], wrong, *parts[i + 1 :]]
        yield i, changed[0] if isinstance(result, torch.Tensor) else type(result)(changed)


@pytest.mark.parametrize("op", sorted(testing.operator_calls()))
def test_every_damaged_result_is_refused(op):
    (call,) = testing.calls(only=[op])
    for part, wrong in damaged(call.run()):
        checks = testing.certify(op, call.arguments, wrong)
        assert not all(check.passed for check in checks), (part, *map(str, checks))


def test_every_backend_runs_and_an_unknown_one_is_refused():
    calls = testing.calls(only=["select", "sensitivity"])
    bad = next(iter(testing.refusals(["select"])))
    found = testing.on_every_backend([*calls, bad])
    assert "reference" in found
    for backend, results in found.items():
        assert len(results) == 3 and isinstance(results[2], RuntimeError), backend
        for call, result in zip(calls, results, strict=False):
            assert all(check.passed for check in testing.certify(call.op, call.arguments, result))
    with pytest.raises(RuntimeError, match="ZOPRUNE_BACKEND: expected one of"):
        testing.on_backend("tpu", calls)


def test_imports_without_pytest_and_its_example_holds():
    code = "import sys; sys.modules['pytest'] = None; import zoprune_kernels.testing"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert doctest.testmod(testing).failed == 0


def test_a_projector_as_a_module_is_its_layers():
    p = testing.projector(7, bias=False)
    want = reference.project(*p.layers, "gelu")
    torch.testing.assert_close(p.module()(p.x), want)
