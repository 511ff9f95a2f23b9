"""merge, budget, compact and frame_change against definitions written independently, in float64."""

import math

import pytest
import torch

from zoprune_kernels import reference
from zoprune_kernels.testing import DTYPES

OPS = torch.ops.zoprune
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def cosines(keys: torch.Tensor) -> torch.Tensor:
    unit = torch.nan_to_num(keys.double() / keys.double().norm(dim=-1, keepdim=True))
    return unit @ unit.T


def merge_by_loops(tokens, keys, indices, weights, valid, rule):
    """The definition, token by token; also the margin by which each token chose its owner."""
    similar, kept = cosines(keys), indices.tolist()
    owned = {i: [] for i in kept}
    margin = math.inf
    for i in range(len(tokens)):
        if i in owned or not valid[i]:
            continue
        row = similar[i, kept]
        owned[kept[int(row.argmax())]].append(i)
        if len(kept) > 1:
            margin = min(margin, float(row.topk(2).values.diff().abs()))
    merged, sizes = [], []
    for i in kept:
        given = sum((weights[j] * tokens[j] for j in owned[i]), torch.zeros_like(tokens[0]))
        weight = sum((weights[j] for j in owned[i]), torch.tensor(0.0).double())
        if rule == "residual":
            merged.append(tokens[i] + (given / weight if owned[i] else 0))
        else:
            total = weights[i] * tokens[i] + given
            merged.append(total / (weights[i] + weight) if rule == "mean" else total)
        sizes.append(weights[i] + weight)
    return torch.stack(merged), torch.stack(sizes), margin


@pytest.mark.parametrize("rule", ["mean", "sum", "residual"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n,k,dim", [(1, 1, 3), (63, 8, 17), (577, 64, 33), (100, 100, 8)])
def test_merge(n, k, dim, dtype, rule):
    tokens, keys = torch.randn(n, dim + 2).to(dtype), torch.randn(n, dim).to(dtype)
    indices = torch.randperm(n)[:k]
    weights, valid = torch.rand(n) + 0.1, torch.rand(n) < 0.9
    merged, sizes = OPS.merge(tokens, keys, indices, weights, valid, rule=rule)
    expected, expected_sizes, margin = merge_by_loops(
        tokens.double(), keys.double(), indices, weights.double(), valid, rule
    )
    assert merged.dtype == dtype and sizes.dtype == torch.float32
    if margin > 1e-6:
        tolerance = TOLERANCE[dtype]
        scale = expected.abs().max()
        assert (merged.double() - expected).abs().max() <= tolerance * scale
        torch.testing.assert_close(sizes.double(), expected_sizes, rtol=1e-5, atol=0)


def test_merge_ties_go_to_the_first_kept_and_padding_to_no_one():
    keys = torch.eye(3)[[0, 0, 0, 1, 2]]
    tokens = torch.tensor([[1.0], [2.0], [4.0], [8.0], [math.nan]])
    valid = torch.tensor([True, True, True, True, False])
    merged, sizes = OPS.merge(tokens, keys, torch.tensor([1, 0]), None, valid, rule="sum")
    assert merged.flatten().tolist() == [14.0, 1.0]  # token 3 is equally far from both
    assert sizes.tolist() == [3.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_merge_tells_candidates_apart_that_bf16_does_not(dtype):
    directions = torch.randn(5, 100)[torch.randint(5, (300,))]
    keys = (directions + 2e-2 * torch.randn(300, 100)).to(dtype)
    similar = cosines(keys)[40:, :40]
    nearest, second = similar.topk(2).values.T
    clear = nearest - second > 1e-6
    assert (nearest - second < 1e-3)[clear].any()  # far less than rounding to bf16 moves a cosine
    tokens = torch.eye(300)
    merged, _ = OPS.merge(tokens, keys, torch.arange(40), rule="sum")
    assert torch.equal(merged[:, 40:].argmax(0)[clear], similar.argmax(1)[clear])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_merge_does_not_depend_on_the_batch(dtype):
    tokens = torch.randn(3, 65, 20).to(dtype)
    indices = torch.stack([torch.randperm(65)[:9].sort().values for _ in range(3)])
    together = OPS.merge(tokens, tokens, indices)
    cu_tokens = torch.tensor([0, 65, 130, 195], dtype=torch.int32)
    cu_keep = torch.tensor([0, 9, 18, 27], dtype=torch.int32)
    offset = 65 * torch.arange(3)[:, None]
    flat = tokens.flatten(0, 1)
    packed = OPS.merge_varlen(flat, flat, (indices + offset).flatten(), cu_tokens, cu_keep)
    for b in range(3):
        alone = OPS.merge(tokens[b], tokens[b], indices[b])
        for one, batch, part in zip(alone, together, packed, strict=True):
            assert torch.equal(one, batch[b])
            assert torch.equal(one, part.view(3, 9, *part.shape[1:])[b])


@pytest.mark.parametrize("n,count", [(1, 0), (2, 1), (63, 20), (64, 32), (577, 100)])
def test_merge_bipartite(n, count):
    tokens, keys, size = torch.randn(2, n, 12), torch.randn(2, n, 9), torch.rand(2, n) + 0.5
    merged, sizes, stays = OPS.merge_bipartite(tokens, keys, count, size)
    for b in range(2):
        similar = cosines(keys[b])[0::2, 1::2]
        members = {i: [i] for i in range(n)}
        if count:
            best = similar.max(dim=1)
            for a in best.values.argsort(descending=True)[:count].tolist():
                members[2 * int(best.indices[a]) + 1] += members.pop(2 * a)
        assert stays[b].tolist() == sorted(members)
        for row, i in enumerate(sorted(members)):
            w, t = size[b, members[i]].double(), tokens[b, members[i]].double()
            expected = (w[:, None] * t).sum(0) / w.sum()
            torch.testing.assert_close(merged[b, row].double(), expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(sizes[b, row].double(), w.sum(), rtol=1e-6, atol=0)


def test_equal_pairs_merge_from_the_lowest_position():
    keys = torch.eye(2)[[0, 0, 1, 1] * 5]  # every token at an even index has an equal one
    merged, sizes, stays = OPS.merge_bipartite(torch.arange(20.0)[:, None], keys, 3)
    assert stays.tolist() == [1, 3, 5, *range(6, 20)]
    assert sizes[:3].tolist() == [3, 2, 1]  # the first of equals is the nearest: 1 for 0 and 4
    assert merged[:3, 0].tolist() == pytest.approx([5 / 3, 2.5, 5])


@pytest.mark.parametrize("rule", ["equal", "proportional", "softmax"])
def test_budget_sums_exactly_within_bounds(rule):
    for _ in range(300):
        images = int(torch.randint(1, 40, ()))
        weights = torch.rand(images) * (torch.rand(images) < 0.8) * 10.0 ** torch.randint(-3, 4, ())
        capacity = torch.randint(2, 700, (images,), dtype=torch.int32)
        total = int(torch.randint(2 * images, int(capacity.sum()) + 1, ()))
        offsets = OPS.budget(weights, total, capacity, rule=rule, minimum=2)
        count = offsets.diff()
        assert offsets.dtype == torch.int32 and offsets[0] == 0 and offsets[-1] == total
        assert (count >= 2).all() and (count <= capacity).all()
        free = (count > 2) & (count < capacity)
        if free.any():  # Webster: what is not at a bound is within one of its exact share
            share = torch.full((images,), 1 / images).double()
            if rule == "proportional" and weights.sum() > 0:
                share = weights.double() / weights.double().sum()
            if rule == "softmax":
                share = weights.double().softmax(0)
            share = share.clamp_min(1e-12)  # documented: a share of nothing fills up last
            scale = ((count - 0.5) / share)[free].max(), ((count + 0.5) / share)[free].min()
            assert scale[0] <= scale[1] * (1 + 1e-9)


@pytest.mark.parametrize("rule", ["equal", "proportional", "softmax"])
def test_budget_up_to_the_largest_offset(rule):
    """Weights of all magnitudes; the native kernel and the reference agree to the last token."""
    weights = torch.tensor([3e38, 1.0, 0.0, 1e-38, 2e38])
    for total in (2**31 - 1, 2**24 + 1, 7):
        for temperature in (1e-18, 1.0, 1e18):
            options = {"rule": rule, "temperature": temperature, "minimum": 1}
            counts = OPS.budget(weights, total, **options).diff()
            assert int(counts.sum()) == total and int(counts.min()) >= 1
            assert torch.equal(counts, reference.budget(weights, total, **options).diff())


def test_budget_equal_shares_go_to_the_lowest_index_first():
    assert OPS.budget(torch.rand(4), 10, rule="equal").diff().tolist() == [3, 3, 2, 2]


def test_compact_gathers_every_rank():
    embeddings, ids = torch.randn(2, 63, 8), torch.randint(0, 9, (2, 63))
    positions, deep = torch.arange(378).view(3, 2, 63), torch.randn(63, 4).half()
    kept = torch.tensor([[1, 5, 40], [7, 0, 62]])
    outputs = OPS.compact([embeddings, ids > 4, positions], kept, [1, 1, 2])
    for b in range(2):
        assert torch.equal(outputs[0][b], embeddings[b, kept[b]])
        assert torch.equal(outputs[1][b], (ids > 4)[b, kept[b]])
        assert torch.equal(outputs[2][:, b], positions[:, b, kept[b]])
    strided = deep.T.contiguous().T
    (row,) = OPS.compact([strided], kept[1], [0])
    assert torch.equal(row, deep[kept[1]])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("frames,patches,dim", [(1, 1, 1), (7, 63, 17), (3, 100, 64)])
def test_frame_change(frames, patches, dim, dtype):
    x = torch.randn(2, frames, patches, dim).to(dtype)
    x[0, 0, 0] = 0  # a zero key resembles nothing
    change = OPS.frame_change(x)
    wide = x.double()
    cosine = torch.nn.functional.cosine_similarity(wide[:, 1:], wide[:, :-1], dim=-1)
    assert (change[:, 0] == 2).all()
    torch.testing.assert_close(change[:, 1:].double(), 1 - cosine, rtol=0, atol=1e-6)
    assert torch.equal(change[1], OPS.frame_change(x[1]))


X, KEPT = torch.randn(6, 4), torch.tensor([0, 2])
CU = [torch.tensor(v, dtype=torch.int32) for v in ([0, 6], [0, 2])]


@pytest.mark.parametrize(
    "op, arguments, options, message",
    [
        ("merge", (X.double(), X, KEPT), {}, "tokens: expected float32, float16 or bfloat16"),
        ("merge", (X, X[:5], KEPT), {}, "keys: expected shape [6, D]"),
        ("merge", (X, X, KEPT.int()), {}, "indices: expected dtype int64, got int32"),
        ("merge", (X, X, torch.tensor([0, 6])), {}, "indices: expected positions in [0, 6), got 6"),
        ("merge", (X, X, torch.tensor([3, 3])), {}, "indices: expected distinct positions, got 3"),
        ("merge", (X, X, KEPT), {"rule": "max"}, "rule: expected one of mean, sum, residual"),
        ("merge", (X, X, KEPT, X[:, 0].long()), {}, "weights: expected float32, float16"),
        ("merge_varlen", (X, X, KEPT + 5, *CU), {}, "indices: expected positions in [0, 6), got 7"),
        ("merge_varlen", (X, X, KEPT, CU[0], CU[0]), {}, "cu_keep: expected 2 (total_keep) as its"),
        ("merge_bipartite", (X, X, 4), {}, "count: expected 0 <= count <= 3"),
        ("budget", (X[:, 0], 5), {"minimum": 1}, "total: expected at least 6"),
        ("budget", (X[:, 0], 5), {"rule": "x"}, "rule: expected one of equal, proportional"),
        ("budget", (X[:, 0], 5), {"temperature": 0.0}, "temperature: expected a number in [1e-18"),
        ("budget", (X[:, 0], 5), {"minimum": 2**62}, "minimum: expected an integer in [0, "),
        ("budget", (X[:, 0], 2**31), {}, "total: expected at most 2147483647 (offsets are int32)"),
        ("budget", (X[:, 0], -(2**63)), {}, "total: expected at least 0 (minimum for each of weig"),
        ("budget", (X[:2, 0], 5, CU[1]), {}, "capacity: expected at least 5 (total) in all, got 2"),
        ("compact", ([X], KEPT, [2]), {}, "dims[0]: expected 0 <= dim < 2"),
        ("compact", ([X], KEPT, []), {}, "dims: expected 1 dimensions"),
        ("compact", ([X], KEPT - 1, [0]), {}, "indices: expected positions in [0, 6), got -1"),
        ("frame_change", (X,), {}, "x: expected shape [T, P, D] or [B, T, P, D], got [6, 4]"),
    ],
)
def test_bad_arguments_are_named(op, arguments, options, message):
    with pytest.raises(RuntimeError) as error:
        getattr(OPS, op)(*arguments, **options)
    assert str(error.value).startswith(f"zoprune::{op}: {message}")
