"""The CPU selection against a float64 replay of every pick, and its promises to callers."""

import itertools
import subprocess
import sys

import pytest
import torch

from zoprune_kernels import backend, reference, select, select_varlen
from zoprune_kernels.testing import DTYPES, certify_select, fallback, refusals

pytestmark = pytest.mark.skipif(
    backend.why_not("select", "cpu", "cpu") is not None, reason="needs the native library"
)

METHODS = ("sads", "maxmin", "topk", "random", "mmr")
VARIANTS = (
    {"method": "mmr", "tradeoff": 0.25},
    {"method": "mmr", "tradeoff": 1.0, "max_similarity": 0.5},
    {"method": "maxmin", "first": "isolated"},
    {"method": "sads", "num_seed": 9},
    {"method": "maxmin", "num_seed": 1000},
    {"method": "topk", "first": "isolated", "max_similarity": 0.25},
    {"method": "sads", "picks_per_step": 4},
    {"method": "mmr", "picks_per_step": 1000, "num_seed": 2},
)
SIZES = ((1, 1), (7, 7), (33, 12), (63, 1), (100, 64), (300, 40), (577, 64))  # tokens, k


def random_keys(kind: str, images: int, tokens: int, dim: int) -> torch.Tensor:
    """Keys as they come: apart, around a mean, in clusters, repeated, some zero, any scale."""
    keys = torch.randn(images, tokens, dim)
    if kind == "mean":
        keys += 2 * torch.randn(images, 1, dim)
    if kind == "clusters":
        owner = torch.randint(0, max(1, tokens // 8), (images, tokens))
        keys = torch.randn(images, tokens, dim).take_along_dim(owner[..., None], 1) + keys / 8
    if kind == "repeated":
        keys = keys[:, torch.randint(0, max(1, tokens // 3), (tokens,))]
    if kind == "zeros":
        keys *= torch.rand(images, tokens, 1) < 0.7
    if kind == "scales":
        keys *= 10.0 ** torch.randint(-30, 31, (images, tokens, 1)).float()
    return keys


def random_scores(kind: str, images: int, tokens: int) -> torch.Tensor:
    scores = torch.rand(images, tokens)
    if kind == "equal":
        scores = torch.full_like(scores, 0.25)
    if kind == "ties":
        scores = (scores * 4).floor()
    if kind == "nonfinite":
        drawn = torch.rand(images, tokens)
        scores[drawn < 0.1] = float("nan")
        scores[(drawn > 0.1) & (drawn < 0.15)] = float("inf")
        scores[drawn > 0.95] = -float("inf")
    return scores


def masks(images: int, tokens: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """must_keep with at most k tokens and valid with at least k, one inside the other."""
    order = torch.rand(images, tokens).argsort(1).argsort(1)
    return order < min(k, tokens // 8), order < max(k, tokens - tokens // 4)


def exact_inputs(images: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and keys for which every step is exact: integers, norms that are powers of two."""
    entries = torch.tensor([0, 1, 4, 16])[torch.randint(0, 4, (images, tokens, 1))]
    chosen = torch.rand(images, tokens, 16).argsort(-1).argsort(-1) < entries
    keys = chosen * (torch.randint(0, 2, (images, tokens, 16)) * 2 - 1)
    scale = 2.0 ** torch.randint(-3, 4, (images, tokens, 1))
    return torch.randint(0, 5, (images, tokens)) * 2.0**28, keys * scale


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
def test_every_pick_is_the_best_available(method, dtype):
    images = 4
    for tokens, k in SIZES[:-1]:
        for kind in ("apart", "mean", "clusters", "repeated", "zeros", "scales"):
            if kind == "scales" and dtype == torch.float16:
                continue
            keys = random_keys(kind, images, tokens, 40).to(dtype)
            scores = random_scores("ties" if kind == "mean" else "nonfinite", images, tokens)
            must_keep, valid = masks(images, tokens, k)
            rule = {"method": method, "max_similarity": 0.4 if kind == "clusters" else 1.0}
            for given in ((None, None), (must_keep, valid)):
                picks = select(scores, keys, k, *given, **rule, sort=False)
                assert certify_select(picks, scores, keys, *given, **rule).passed, (tokens, k, kind)


@pytest.mark.parametrize("max_similarity", [1.0, 0.5, 0.0, -1.0])
@pytest.mark.parametrize("method", METHODS)
def test_exact_arithmetic_gives_plain_greedy(method, max_similarity):
    rule = {"method": method, "max_similarity": max_similarity}
    for tokens, k in SIZES:
        scores, keys = exact_inputs(8, tokens)
        given = masks(8, tokens, k)
        for dtype in DTYPES:
            picks = select(scores, keys.to(dtype), k, *given, **rule, sort=False)
            assert certify_select(picks, scores, keys, *given, **rule).exact, (tokens, k, dtype)


@pytest.mark.parametrize("rule", VARIANTS, ids=str)
def test_variants(rule):
    for tokens, k in SIZES:
        for masked in (False, True):
            scores, keys = exact_inputs(4, tokens)
            given = masks(4, tokens, k) if masked else (None, None)
            picks = select(scores, keys.bfloat16(), k, *given, **rule, sort=False)
            assert certify_select(picks, scores, keys, *given, **rule).exact, (tokens, k)
            keys = random_keys("clusters", 4, tokens, 40)
            picks = select(scores, keys, k, *given, **rule, sort=False)
            assert certify_select(picks, scores, keys, *given, **rule).passed, (tokens, k)


@pytest.mark.parametrize("dtype", DTYPES)
def test_centred_keys(dtype):
    for tokens, k in SIZES:
        keys = (random_keys("mean", 4, tokens, 40) + 5).to(dtype)
        keys[:, ::9, 3] = float("inf")
        given = masks(4, tokens, k)
        scores = random_scores("apart", 4, tokens)
        for method in ("sads", "maxmin"):
            rule = {"method": method, "centre": True}
            picks = select(scores, keys, k, *given, **rule, sort=False)
            assert certify_select(picks, scores, keys, *given, **rule).passed, (tokens, k)


@pytest.mark.parametrize("method", METHODS)
def test_agrees_with_the_reference(method):
    for dtype in DTYPES:
        scores, keys = exact_inputs(3, 200)
        given = masks(3, 200, 50)
        for sort in (True, False):
            rule = {"method": method, "max_similarity": 0.5, "sort": sort}
            arguments = (scores, keys.to(dtype), 50, *given)
            assert torch.equal(select(*arguments, **rule), reference.select(*arguments, **rule))


@pytest.mark.parametrize("kind", ["equal", "ties", "nonfinite"])
def test_degenerate_scores(kind):
    scores, keys = random_scores(kind, 5, 130), random_keys("repeated", 5, 130, 16)
    for k in (1, 64, 130):
        picks = select(scores, keys, k, sort=False)
        assert certify_select(picks, scores, keys).passed


def test_all_scores_nan_gives_the_first_tokens():
    scores, keys = torch.full((9,), float("nan")), torch.randn(9, 4)
    assert select(scores, keys, 4).tolist() == [0, 1, 2, 3]


def test_keys_that_are_not_finite_are_far_from_everything():
    keys = torch.randn(60, 8)
    keys[::7, 3], keys[::5, 0], keys[::11] = float("nan"), float("inf"), 0.0
    scores = torch.rand(60)
    picks = select(scores, keys, 60, sort=False)
    assert certify_select(picks[None], scores[None], keys[None]).passed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-42, 1e-38, 1e-30, 1e30, 1e37])
def test_scale_of_keys_does_not_matter(scale, dtype):
    unscaled = (torch.randint(-8, 9, (200, 24)).float()).to(dtype)
    exponent = torch.tensor(scale).log2().floor()
    keys = (unscaled.double() * 2.0 ** exponent.double()).to(dtype)
    assert keys.isfinite().all()
    scores = torch.rand(200)
    if scale > 1e-42:  # below, digits are lost when the keys are stored
        assert torch.equal(select(scores, keys, 50), select(scores, unscaled, 50))
    picks = select(scores, keys, 50, sort=False)
    assert certify_select(picks[None], scores[None], keys[None]).passed


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_and_packing_do_not_change_an_image(dtype):
    images, tokens, k = 5, 333, 70
    scores, keys = torch.rand(images, tokens), random_keys("mean", images, tokens, 100).to(dtype)
    must_keep, valid = masks(images, tokens, k)
    batched = select(scores, keys, k, must_keep, valid, sort=False)
    single = [
        select(scores[b], keys[b], k, must_keep[b], valid[b], sort=False) for b in range(images)
    ]
    assert torch.equal(batched, torch.stack(single))
    cu_tokens = torch.arange(images + 1, dtype=torch.int32) * tokens
    cu_keep = torch.arange(images + 1, dtype=torch.int32) * k
    flat = [t.flatten(0, 1) for t in (scores, keys, must_keep, valid)]
    packed = select_varlen(*flat[:2], cu_tokens, cu_keep, images * k, *flat[2:], sort=False)
    assert torch.equal(packed.view(images, k) - cu_tokens[:-1, None], batched)


def test_packed_images_of_any_size():
    sizes, keep = [1, 0, 63, 577, 5, 20], [1, 0, 63, 100, 0, 3]
    cu_tokens = torch.tensor([0, *sizes]).cumsum(0).int()
    cu_keep = torch.tensor([0, *keep]).cumsum(0).int()
    scores, keys = torch.rand(sum(sizes)), torch.randn(sum(sizes), 33)
    for sort in (True, False):
        packed = select_varlen(scores, keys, cu_tokens, cu_keep, sum(keep), sort=sort)
        for b in range(len(sizes)):
            image = slice(cu_tokens[b], cu_tokens[b + 1])
            own = packed[cu_keep[b] : cu_keep[b + 1]] - cu_tokens[b]
            if keep[b]:
                assert torch.equal(own, select(scores[image], keys[image], keep[b], sort=sort))


def test_any_strides():
    scores, keys = torch.rand(3, 90), torch.randn(3, 90, 20)
    expected = select(scores, keys, 30)
    for layout in (
        keys.transpose(1, 2).contiguous().transpose(1, 2),
        keys.transpose(0, 1).contiguous().transpose(0, 1),
        torch.cat([keys, keys], 2)[..., :20],
        torch.stack([keys, keys], -1)[..., 0],
    ):
        assert not layout.is_contiguous()
        strided = torch.stack([scores, scores], -1)[..., 1]
        assert torch.equal(select(strided, layout, 30), expected)
    shared = keys[:1].expand(3, 90, 20)
    assert torch.equal(select(scores, shared, 30), select(scores, shared.clone(), 30))


def test_threads_do_not_change_a_result():
    scores, keys = torch.rand(1000), random_keys("mean", 1, 1000, 129)[0]
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 2, 3):
            torch.set_num_threads(number)
            results.append(select(scores, keys, 300, sort=False))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_prefix_of_pick_order_is_the_smaller_selection():
    scores, keys = torch.rand(600), torch.randn(600, 30)
    picks = select(scores, keys, 200, sort=False)
    for k in (1, 2, 31, 128, 199):
        assert torch.equal(select(scores, keys, k, sort=False), picks[:k])


def test_similarity_constraint_holds_until_no_token_is_left():
    keys = random_keys("clusters", 1, 256, 64)[0]
    scores = torch.rand(256)
    unit = torch.nn.functional.normalize(keys, dim=-1)
    picks = select(scores, keys, 20, method="topk", max_similarity=0.9)
    between = unit[picks] @ unit[picks].T
    assert (between - torch.eye(20)).max() <= 0.9 + 1e-5
    assert len(set(select(scores, keys, 256, method="topk", max_similarity=0.9).tolist())) == 256


@pytest.mark.parametrize("op", ["select", "select_varlen"])
def test_errors_have_the_fallbacks_text(op):
    refused = 0
    for arguments in (call.arguments for call in refusals([op])):
        try:
            getattr(fallback, op)(**arguments)
        except RuntimeError as error:
            with pytest.raises(RuntimeError) as raised:
                getattr(torch.ops.zoprune, op)(**arguments)
            assert str(error) in str(raised.value)
            refused += 1
    assert refused >= 20


def check_this_instruction_set() -> None:
    """For tests/ops/test_instruction_sets.py, in a process of its own."""
    global SIZES
    SIZES = ((300, 40), (65, 20))
    torch.manual_seed(1)
    for dtype in DTYPES:
        test_every_pick_is_the_best_available("sads", dtype)
    test_exact_arithmetic_gives_plain_greedy("maxmin", 0.5)
    test_batch_and_packing_do_not_change_an_image(torch.bfloat16)


MEASURE_MEMORY = """
import itertools
import resource
import torch
from zoprune_kernels import select
tokens, dim = 100_000, 1024
keys = torch.empty(tokens, dim, dtype=torch.bfloat16).normal_()
scores = torch.rand(tokens)
select(scores[:999], keys[:999], 50)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
picks = select(scores, keys, 1000)
assert len(set(picks.tolist())) == 1000
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_memory_of_a_hundred_thousand_tokens():
    run = subprocess.run(
        [sys.executable, "-c", MEASURE_MEMORY], capture_output=True, text=True, check=True
    )
    assert float(run.stdout) < 256  # MiB; an N x N matrix would be 20,000


def test_most_isolated_token_comes_first_and_lowest():
    """Keys of +-1: their cosines are exact. Many tie in 16 dimensions, few in 256."""
    for tokens, dim in itertools.product((1, 2, 23, 25, 63, 200, 577), (16, 256)):
        for _ in range(5):
            keys = torch.randint(0, 2, (tokens, dim)).mul(2).sub(1).float()
            valid = torch.rand(tokens) < 0.9
            valid[torch.randint(tokens, ())] = True
            cosine = (keys @ keys.T / dim).fill_diagonal_(-1)[:, valid]
            nearest = cosine.amax(1).masked_fill(~valid, 2)
            pick = select(torch.ones(tokens), keys, 1, None, valid, first="isolated")
            assert int(pick) == int((nearest == nearest.min()).int().argmax())
