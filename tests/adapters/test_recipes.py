"""Recipes, whose signatures are ours, against plain fp64 loops of their formulas."""

import pytest
import torch
from zoprune.adapters.greedyprune import greedyprune
from zoprune.adapters.swiftvlm import prune_and_merge, readd
from zoprune.adapters.topv import contributions, topv, visual_aware_cost
from zoprune.adapters.zspaprune import zspaprune

from tests.adapters.calls import (
    HALVES,
    SIZES,
    check_greedy,
    cosines,
    inputs,
    max_similarity,
    normalised,
)

CASES = [(n, k, torch.float32) for n, k in SIZES] + [(63, 20, dtype) for dtype in HALVES]


def in_greedy_order(kept, gains):
    """The kept tokens as a greedy loop over them alone would pick them."""
    order = []
    for _ in range(len(kept)):
        gain = gains(order)
        order.append(max((i for i in kept.tolist() if i not in order), key=lambda i: gain[i]))
    return torch.tensor(order)


# -- GreedyPrune -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "k", "dtype", "weight"),
    [(*case, 0.4) for case in CASES] + [(*CASES[1], end) for end in (0.0, 1.0)],
)
def test_greedyprune(n, k, dtype, weight):
    saliency, keys = inputs(n, 24, dtype)
    kept = greedyprune(keys, saliency, k, weight)
    w, similarity = normalised(saliency), cosines(keys)

    def gains(picked):
        if not picked:
            return w.clone()
        return weight * w + (1 - weight) * (1 - max_similarity(similarity, picked))

    assert torch.equal(kept, kept.sort().values)
    check_greedy(in_greedy_order(kept, gains), gains, 1e-5)
    batch = greedyprune(torch.stack([keys, keys.flip(0)]), torch.stack([saliency] * 2), k, weight)
    assert torch.equal(batch[0], kept)


# -- ZSPAPrune -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k", "dtype"), CASES)
@pytest.mark.parametrize("core_ratio", [0.0, 0.58])
def test_zspaprune(n, k, dtype, core_ratio):
    _, keys = inputs(n, 24, dtype)
    prompt = torch.randn(7, 24).to(dtype)
    kept = zspaprune(keys, prompt, k, core_ratio)
    core = max(1, int(core_ratio * k))
    relevance = cosines(keys, prompt.double().mean(0, keepdim=True))[:, 0]
    similarity = cosines(keys)

    def gains(picked):
        return relevance.clone() if len(picked) < core else -max_similarity(similarity, picked)

    assert torch.equal(kept, kept.sort().values)
    check_greedy(in_greedy_order(kept, gains), gains, 1e-5)
    batch = zspaprune(torch.stack([keys] * 2), torch.stack([prompt] * 2), k, core_ratio)
    assert torch.equal(batch, kept.expand(2, k))


def test_zspaprune_ties_go_to_the_lowest_index():
    keys = torch.eye(3).repeat(2, 1)
    assert zspaprune(keys, torch.ones(1, 3), 4, 0.5).tolist() == [0, 1, 2, 3]


# -- TopV ------------------------------------------------------------------------------------------


def plain_cost(source, target, rows, columns, weights, sigma):
    n = rows * columns
    place = [(i // columns, i % columns) for i in range(n)]
    centre = ((rows - 1) / 2, (columns - 1) / 2)
    terms = torch.zeros(3, n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            rho2 = (place[i][0] - place[j][0]) ** 2 + (place[i][1] - place[j][1]) ** 2
            terms[0, i, j] = (source[i].double() - target[j].double()).square().sum()
            terms[1, i, j] = 1 - torch.exp(torch.tensor(-rho2 / (2 * sigma**2)).double())
        terms[2, i] = ((place[i][0] - centre[0]) ** 2 + (place[i][1] - centre[1]) ** 2) ** 0.5
    for term in terms:
        term -= term.min()
        term /= term.max() if term.max() > 0 else 1
    return sum(weight * term for weight, term in zip(weights, terms, strict=True))


def plain_sinkhorn(cost, epsilon, iterations):
    n = len(cost)
    kernel, u, v = torch.exp(-cost / epsilon), torch.ones(n).double(), torch.ones(n).double()
    for _ in range(iterations):
        u = 1 / n / (kernel @ v)
        v = 1 / n / (kernel.T @ u)
    return u[:, None] * kernel * v


@pytest.mark.parametrize(
    ("rows", "columns", "dtype"),
    [
        (1, 1, torch.float32),
        (7, 9, torch.float32),
        (5, 5, torch.float16),
        (5, 5, torch.bfloat16),
    ],
)
def test_topv(rows, columns, dtype):
    n = rows * columns
    k = max(1, n // 3)
    source, target = torch.randn(2, n, 24).to(dtype), torch.randn(2, n, 24).to(dtype)
    options = {"feature_weight": 1.0, "distance_weight": 0.5, "centre_weight": 0.2, "sigma": 3.0}
    cost = visual_aware_cost(source, target, (rows, columns), **options)
    plan = contributions(cost, epsilon=0.2, iterations=3)
    kept = topv(source, target, k, (rows, columns), epsilon=0.2, recover_every=4, **options)
    for b in range(2):
        expected = plain_cost(source[b], target[b], rows, columns, (1.0, 0.5, 0.2), 3.0)
        torch.testing.assert_close(cost[b].double(), expected, rtol=0, atol=1e-5)
        expected = plain_sinkhorn(expected, 0.2, 3)
        torch.testing.assert_close(plan[b].double() * n, expected * n, rtol=1e-4, atol=1e-5)
        best = expected.sum(1).argsort(descending=True, stable=True)[:k].tolist()
        pruned = [i for i in range(n) if i not in best]
        assert kept[b].tolist() == sorted(best + pruned[::4])


def test_topv_of_equal_tokens_is_by_place_alone():
    same = torch.ones(9, 4)
    cost = visual_aware_cost(same, same, (3, 3), distance_weight=0.0, centre_weight=1.0)
    assert cost[4].eq(0).all() and cost[0].eq(1).all()
    assert topv(same, same, 3, (3, 3), distance_weight=0.0, centre_weight=0.0).tolist() == [0, 1, 2]


# -- SwiftVLM --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "k", "groups", "dtype"),
    [
        (2, 1, 1, torch.float32),
        (63, 20, 43, torch.float32),
        (577, 60, 20, torch.float32),
        *((63, 20, 7, dtype) for dtype in HALVES),
    ],
)
def test_swiftvlm(n, k, groups, dtype):
    hidden, attention = torch.randn(2, n, 24).to(dtype), torch.rand(2, n).to(dtype)
    states, bypass = prune_and_merge(hidden, attention, k, groups)
    assert states.shape == (2, k + groups, 24) and states.dtype == dtype
    later = (states.float() * 1.5 + 1).to(dtype)  # what some layers might have made of them
    everything = readd(later, bypass)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0, "atol": 0.1}
    for b in range(2):
        order = attention[b].double().argsort(descending=True, stable=True)
        kept = sorted(order[:k].tolist())
        dropped = [i for i in range(n) if i not in kept]
        centres = [dropped[g * len(dropped) // groups] for g in range(groups)]
        nearest = cosines(hidden[b], hidden[b][centres]).argmax(1).tolist()
        members = [[i for i in dropped if nearest[i] == g] for g in range(groups)]
        means = torch.stack([hidden[b][rows].double().mean(0) for rows in members])
        expected = torch.cat([hidden[b][kept].double(), means])
        torch.testing.assert_close(states[b].double(), expected, **tolerance)
        aligned = hidden[b].double()
        for g, rows in enumerate(members):
            aligned[rows] += later[b, k + g].double() - means[g]
        aligned[kept] = later[b, :k].double()
        torch.testing.assert_close(everything[b].double(), aligned, **tolerance)
    single = readd(later[0], prune_and_merge(hidden[0], attention[0], k, groups)[1])
    assert torch.equal(single, everything[0])


def test_swiftvlm_of_equal_tokens():
    """All join the first centre; the other centres stay alone."""
    hidden, attention = torch.ones(9, 4), torch.arange(9.0)
    states, bypass = prune_and_merge(hidden, attention, 3, 2)
    assert bypass.kept.tolist() == [6, 7, 8] and bypass.centres.tolist() == [0, 3]
    assert bypass.group[:6].tolist() == [0, 0, 0, 1, 0, 0]
    assert torch.equal(readd(states, bypass), hidden)


# -- errors ----------------------------------------------------------------------------------------

F32 = torch.randn(9, 4)
BAD = [
    (lambda: greedyprune(F32, F32[:, 0], 0), "greedyprune: k: expected an integer from 1 to 9"),
    (lambda: greedyprune(F32[None], F32[:, 0], 2), r"saliency: expected shape \[1, 9\], got \[9\]"),
    (lambda: greedyprune(F32, F32[:, 0], 2, -0.1), r"saliency_weight: .*\[0, 1\], got -0.1"),
    (
        lambda: zspaprune(F32, F32[:, :3], 2),
        r"prompt_tokens: .* \[M, 4\], got \[9, 3\]",
    ),
    (lambda: zspaprune(F32, F32, 2, 2.0), r"core_ratio: .*\[0, 1\], got 2.0"),
    (
        lambda: topv(F32, F32, 2, (3, 4)),
        r"grid: .* columns of 9 tokens, got \(3, 4\)",
    ),
    (lambda: topv(F32, F32[:8], 2, (3, 3)), r"target: expected shape \[9, 4\], got \[8, 4\]"),
    (lambda: topv(F32, F32, 2, (3, 3), recover_every=-1), "recover_every: .*>= 0, got -1"),
    (lambda: topv(F32, F32, 2, (3, 3), sigma=0.0), "sigma: expected a number > 0, got 0.0"),
    (lambda: contributions(F32), r"cost: expected shape \[N, N\], got \[9, 4\]"),
    (lambda: contributions(F32[:4], epsilon=0.0), "epsilon: expected a number > 0, got 0.0"),
    (lambda: contributions(F32[:4], iterations=0), "iterations: expected an integer >= 1, got 0"),
    (lambda: prune_and_merge(F32, F32[:, 0], 9, 1), "prune_and_merge: k: .* from 1 to 8"),
    (lambda: prune_and_merge(F32, F32[:, 0], 4, 6), "num_groups: expected an integer from 1 to 5"),
    (
        lambda: readd(F32, prune_and_merge(F32, F32[:, 0], 4, 2)[1]),
        r"readd: hidden_states: expected shape \[6, 4\], got \[9, 4\]",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
