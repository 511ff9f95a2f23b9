"""select_coverage against float64: every pick's true gain, ties, weights and odd tokens."""

import pytest
import torch

from benchmarks.cpu.memory import peak_extra_mib
from tests.ops.family import check_candidate_order, check_scale_free, same_in_every_layout
from zoprune_kernels import (
    backend,
    reference,
    select_coverage,
    select_coverage_varlen,
)
from zoprune_kernels.testing import DTYPES, certify_coverage, clustered, fallback


def test_native_runs():
    assert backend.candidates("select_coverage", "cpu")[0] == ("cpu", None)
    assert backend.candidates("select_coverage_varlen", "cpu")[0] == ("cpu", None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tokens, k", [(1, 1), (63, 20), (577, 25), (1000, 9)])
def test_picks_are_the_references(tokens, k, dtype):
    scores, keys = torch.rand(tokens).to(dtype), clustered(tokens, 100, dtype)
    for weights in (None, torch.rand(tokens)):
        picks = select_coverage(scores, keys, k, weights, sort=False)
        assert certify_coverage(picks, scores, keys, weights).passed
        arguments = (scores.double(), keys.double(), k, weights)
        exact = reference.select_coverage(*arguments, sort=False)
        assert (picks == exact).float().mean() > 0.98  # rounding may swap nearly equal gains
        assert torch.equal(select_coverage(scores, keys, k, weights), picks.sort().values)


def test_images_whose_cosines_are_not_all_stored():
    """Cosines of 2,100 tokens are stored, those of 3,000 computed when needed: the same picks."""
    scores, keys = torch.rand(3000), clustered(3000, 24)
    valid = torch.arange(3000) < 2100
    must_keep = (torch.rand(3000) < 0.002) & valid
    picks = select_coverage(scores, keys, 300, must_keep=must_keep, valid=valid, sort=False)
    rest = [tensor[:2100] for tensor in (scores, keys, must_keep)]
    stored = select_coverage(*rest[:2], 300, must_keep=rest[2], sort=False)
    assert torch.equal(picks, stored)
    assert certify_coverage(select_coverage(*rest[:2], 9, sort=False), *rest[:2]).passed


def test_memory_is_far_from_all_pairs():
    scores, keys = torch.rand(8000), torch.randn(8000, 8)
    assert peak_extra_mib(lambda: select_coverage(scores, keys, 4)) < 32  # all cosines: 244 MiB


def test_a_prefix_is_the_selection_for_a_smaller_k():
    scores, keys = torch.rand(577), clustered(577, 100)
    many = select_coverage(scores, keys, 90, sort=False)
    for k in (1, 2, 33, 64):
        assert torch.equal(select_coverage(scores, keys, k, sort=False), many[:k])


def test_the_objective_is_facility_location():
    """The best single token and the best second one, by trying them all."""
    keys = clustered(63, 8)
    unit = keys / keys.norm(dim=1, keepdim=True)
    cosine = (unit @ unit.T).clamp_min(0)
    first = int(cosine.sum(0).argmax())
    second = int(torch.maximum(cosine[:, first, None], cosine).sum(0).argmax())
    assert select_coverage(torch.ones(63), keys, 2, sort=False).tolist() == [first, second]


def test_equal_gains_tie_to_the_lowest_index():
    picks = select_coverage(torch.ones(300), torch.eye(300).flip(0), 200, sort=False)
    assert torch.equal(picks, torch.arange(200))


def test_tokens_that_add_nothing_come_last_by_score():
    keys = torch.eye(3)[[0, 0, 1, 1, 2, 0]] * torch.tensor([[1.0], [2], [1], [4], [1], [8]])
    scores = torch.tensor([0.9, 0.8, 0.5, 0.6, 0.1, 0.85])
    assert select_coverage(scores, keys, 6, sort=False).tolist() == [0, 3, 4, 5, 1, 2]
    scores = torch.tensor([-0.5, 0.0, 0.2, -0.1, 0.0])
    assert select_coverage(scores, torch.eye(5), 5, sort=False).tolist() == [2, 1, 4, 3, 0]


def test_weights_of_any_size():
    scores, keys, weights = torch.rand(300), clustered(300, 40), torch.rand(300)
    picks = select_coverage(scores, keys, 40, weights, sort=False)
    for scale in (2.0**-100, 2.0**100):
        assert torch.equal(select_coverage(scores, keys, 40, weights * scale, sort=False), picks)
    weights[:9] = torch.tensor([-1.0, float("nan"), -float("inf")]).repeat(3)
    without = weights.clone()
    without[:9] = 0
    assert torch.equal(
        select_coverage(scores, keys, 40, weights), select_coverage(scores, keys, 40, without)
    )


def test_must_keep_covers_and_padding_is_not_covered():
    scores, keys = torch.rand(300), clustered(300, 100)
    must_keep, valid = torch.rand(300) < 0.1, torch.rand(300) < 0.7
    masks = {"must_keep": must_keep & valid, "valid": valid, "sort": False}
    exact = reference.select_coverage(scores.double(), keys.double(), 60, **masks)
    assert torch.equal(select_coverage(scores, keys, 60, **masks), exact)


def test_candidate_order():
    check_candidate_order(select_coverage)


def test_keys_of_any_length():
    check_scale_free(select_coverage)


def test_images_do_not_depend_on_their_batch():
    same_in_every_layout(select_coverage, select_coverage_varlen)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scores": torch.rand(2, 3, 4)}, r"scores: expected shape \[N\] or \[B, N\], got"),
        (
            {"keys": torch.rand(8, 4)},
            r"keys: expected shape \[9, D\] \(one key for each token of s",
        ),
        ({"weights": torch.rand(8)}, r"weights: expected shape \[9\] \(one weight for each token"),
        ({"weights": torch.ones(9).long()}, "weights: expected float32, float16 or bfloat16, got"),
        ({"must_keep": torch.ones(9)}, "must_keep: expected dtype bool, got float32"),
        ({"k": 0}, r"k: expected 1 <= k <= 9 \(the number of tokens\), got 0"),
    ],
)
def test_errors_name_the_argument(change, message):
    arguments = {"scores": torch.rand(9), "keys": torch.rand(9, 4), "k": 3} | change
    for function in (select_coverage, fallback.select_coverage):
        with pytest.raises(RuntimeError, match=f"zoprune::select_coverage: {message}"):
            function(**arguments)
