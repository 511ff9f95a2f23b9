"""``first="isolated"`` on the CPU for keys long enough that sketches guess what to compare."""

import pytest
import torch

from zoprune_kernels import backend, select
from zoprune_kernels.testing import DTYPES, certify_select

from .test_select_cpu import random_keys, random_scores

pytestmark = pytest.mark.skipif(
    backend.why_not("select", "cpu", "cpu") is not None, reason="needs the native library"
)

MAXMIN = {"method": "maxmin", "first": "isolated"}


def signs(kind: str, tokens: int, dim: int) -> torch.Tensor:
    """Keys of +-1, whose cosines are exact: unlike, in clusters, all nearly alike, or repeated."""
    keys = torch.randint(0, 2, (tokens, dim)) * 2 - 1
    if kind in ("clusters", "alike"):
        owner = torch.randint(0, min(tokens, 8 if kind == "clusters" else 1), (tokens,))
        flips = torch.rand(tokens, dim) < 0.3 * torch.rand(tokens, 1)
        keys = keys[owner] * (1 - 2 * flips.long())
    if kind == "repeated":
        keys = keys[torch.randint(0, max(1, tokens // 3), (tokens,))]
    return keys.float()


@pytest.mark.parametrize("kind", ["unlike", "clusters", "alike", "repeated"])
@pytest.mark.parametrize("tokens, dim", [(1, 512), (2, 512), (25, 1000), (63, 545), (577, 512)])
def test_first_pick_is_exact(kind, tokens, dim):
    for dtype in DTYPES:
        keys = signs(kind, tokens, dim)
        valid = torch.rand(tokens) < 0.9
        valid[torch.randint(tokens, ())] = True
        cosine = (keys @ keys.T).fill_diagonal_(-dim)[:, valid]
        nearest = cosine.amax(1).masked_fill(~valid, 2 * dim)
        scores = torch.rand(tokens)
        pick = select(scores, keys.to(dtype), 1, None, valid, **MAXMIN)
        assert int(pick) == int((nearest == nearest.min()).int().argmax())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["maxmin", "sads", "topk"])
def test_picks_after_it_are_greedy(method, dtype):
    """They begin with the cosines that its search has computed."""
    for kind in ("apart", "clusters", "repeated", "zeros", "scales"):
        if kind == "scales" and dtype == torch.float16:
            continue
        keys = random_keys(kind, 2, 300, 520).to(dtype)
        keys[:, ::50, 3] = float("inf")
        scores = random_scores("nonfinite", 2, 300)
        rule = {"method": method, "first": "isolated", "max_similarity": 0.9}
        for centre in (False, True):
            picks = select(scores, keys, 40, **rule, centre=centre, sort=False)
            assert certify_select(picks, scores, keys, **rule, centre=centre).passed, kind


def test_its_cosines_are_those_that_greedy_computes():
    """The same picks, to the last bit, as from that token's having the highest score."""
    for kind in ("apart", "clusters", "mean"):
        keys, tokens = random_keys(kind, 1, 700, 640)[0], 700
        isolated = select(torch.ones(tokens), keys, 300, **MAXMIN, sort=False)
        scores = torch.zeros(tokens)
        scores[isolated[0]] = 1
        assert torch.equal(isolated, select(scores, keys, 300, method="maxmin", sort=False))


def test_threads_and_batches_do_not_change_it():
    scores, keys = torch.rand(3, 600), random_keys("clusters", 3, 600, 600)
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 3, 4):
            torch.set_num_threads(number)
            results.append(select(scores, keys, 60, **MAXMIN, sort=False))
            alone = [select(scores[b], keys[b], 60, **MAXMIN, sort=False) for b in range(3)]
            results.append(torch.stack(alone))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], other) for other in results[1:])
