"""select_dpp against float64: every pick's true marginal gain, ties, dependent and odd tokens."""

import pytest
import torch

from tests.ops.family import SIZES, check_candidate_order, check_scale_free, same_in_every_layout
from zoprune_kernels import backend, reference, select_dpp, select_dpp_varlen
from zoprune_kernels.testing import DTYPES, certify_dpp, clustered, fallback


def test_native_runs():
    assert backend.candidates("select_dpp", "cpu")[0] == ("cpu", None)
    assert backend.candidates("select_dpp_varlen", "cpu")[0] == ("cpu", None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tokens, k", SIZES)
def test_picks_are_the_references(tokens, k, dtype):
    quality, keys = torch.rand(tokens).to(dtype), clustered(tokens, 100, dtype)
    picks = select_dpp(quality, keys, k, sort=False)
    assert certify_dpp(picks, quality, keys).passed
    exact = reference.select_dpp(quality.double(), keys.double(), k, sort=False)
    assert (picks == exact).float().mean() > 0.98  # rounding may swap nearly equal gains
    assert torch.equal(select_dpp(quality, keys, k), picks.sort().values)


@pytest.mark.parametrize("dim", [60, 300])
def test_gains_hold_until_the_space_is_almost_filled(dim):
    quality, keys = torch.rand(577) + 0.5, clustered(577, dim)
    picks = select_dpp(quality, keys, dim - 10, sort=False)
    assert certify_dpp(picks, quality, keys).passed


def test_a_prefix_is_the_selection_for_a_smaller_k():
    quality, keys = torch.rand(577), clustered(577, 100)
    many = select_dpp(quality, keys, 90, sort=False)
    for k in (1, 2, 33, 64):
        assert torch.equal(select_dpp(quality, keys, k, sort=False), many[:k])


def test_equal_qualities_and_orthogonal_keys_tie_to_the_lowest_index():
    picks = select_dpp(torch.ones(300), torch.eye(300).flip(0), 200, sort=False)
    assert torch.equal(picks, torch.arange(200))


def test_dependent_tokens_come_last_by_quality():
    keys = torch.eye(3)[[0, 0, 1, 1, 2, 0]] * torch.tensor([[1.0], [2], [1], [3], [1], [5]])
    quality = torch.tensor([0.9, 0.8, 0.5, 0.6, 0.1, 0.85])
    picks = select_dpp(quality, keys, 6, sort=False)
    assert picks.tolist() == [0, 3, 4, 5, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_more_picks_than_dimensions(dtype):
    """Beyond the rank nothing spans more volume, whatever rounding leaves: by quality."""
    quality, keys = torch.rand(577) + 0.1, torch.randn(577, 20).to(dtype)
    picks = select_dpp(quality, keys, 200, sort=False)
    assert torch.equal(
        picks, reference.select_dpp(quality.double(), keys.double(), 200, sort=False)
    )
    tail = quality[picks[20:]]
    assert (tail.diff() <= 0).all()


@pytest.mark.parametrize("dim, rank", [(7, 7), (7, 5), (64, 33)])
@pytest.mark.parametrize("select", [select_dpp, reference.select_dpp])
def test_beyond_the_rank_by_quality_over_decades(select, dim, rank):
    """Picks of almost no volume magnify rounding; it must not look like volume."""
    for _ in range(40 if rank < 10 else 2):
        quality = 10 ** (torch.rand(rank + 17) * 6 - 3)
        keys = torch.randn(rank + 17, rank) @ torch.randn(rank, dim)
        picks = select(quality, keys, rank + 17, sort=False)
        assert (quality[picks[rank:]].diff() <= 0).all()


def test_keys_that_nearly_agree():
    """The bound of docs/family.md, by orthogonal projection."""
    for noise in (0.1, 0.03, 0.01, 0.003):
        keys = torch.randn(33) + noise * torch.randn(100, 33)
        quality = torch.rand(100) + 0.5
        rest, left = reference.unit_keys(keys.double()), quality.double() ** 2
        most = left.max()
        for pick in select_dpp(quality, keys, 30, sort=False):
            gain = left * rest.square().sum(-1)
            assert gain.max() - gain[pick] <= 2e-5 * most
            left[pick] = 0
            direction = rest[pick] / rest[pick].norm()
            for _ in range(2):
                rest = rest - (rest @ direction)[:, None] * direction


def test_quality_that_is_zero_or_negative_comes_last():
    quality = torch.tensor([-0.5, 0.0, 0.2, -0.1, 0.0])
    assert select_dpp(quality, torch.eye(5), 5, sort=False).tolist() == [2, 1, 4, 3, 0]


def test_must_keep_conditions_the_others():
    keys = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    must_keep = torch.tensor([False, True, False])
    picks = select_dpp(torch.tensor([1.0, 0.1, 0.5]), keys, 2, must_keep, sort=False)
    assert picks.tolist() == [1, 2]
    quality, keys = torch.rand(300), clustered(300, 100)
    must_keep = torch.rand(300) < 0.1
    exact = reference.select_dpp(quality.double(), keys.double(), 60, must_keep, sort=False)
    assert torch.equal(select_dpp(quality, keys, 60, must_keep, sort=False), exact)


def test_candidate_order():
    check_candidate_order(select_dpp)


def test_keys_of_any_length():
    check_scale_free(select_dpp)


def test_images_do_not_depend_on_their_batch():
    same_in_every_layout(select_dpp, select_dpp_varlen)


def test_more_tokens_than_a_matrix_of_all_pairs_would_allow():
    quality, keys = torch.rand(100_000), torch.randn(100_000, 16)
    picks = select_dpp(quality, keys, 12, sort=False)
    assert certify_dpp(picks, quality, keys).passed


@pytest.mark.parametrize(
    "change, message",
    [
        ({"quality": torch.rand(2, 3, 4)}, r"quality: expected shape \[N\] or \[B, N\], got"),
        (
            {"quality": torch.rand(9).long()},
            "quality: expected float32, float16 or bfloat16, got i",
        ),
        (
            {"keys": torch.rand(8, 4)},
            r"keys: expected shape \[9, D\] \(one key for each token of q",
        ),
        ({"k": 10}, r"k: expected 1 <= k <= 9 \(the number of tokens\), got 10"),
        (
            {"valid": torch.zeros(9, dtype=torch.bool)},
            "valid: expected at least k = 3 valid tokens",
        ),
    ],
)
def test_errors_name_the_argument(change, message):
    arguments = {"quality": torch.rand(9), "keys": torch.rand(9, 4), "k": 3} | change
    for function in (select_dpp, fallback.select_dpp):
        with pytest.raises(RuntimeError, match=f"zoprune::select_dpp: {message}"):
            function(**arguments)
