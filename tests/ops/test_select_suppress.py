"""select_suppress against float64, rule by rule."""

import pytest
import torch

from tests.ops.family import SIZES, check_candidate_order, check_scale_free, same_in_every_layout
from zoprune_kernels import (
    backend,
    reference,
    select,
    select_suppress,
    select_suppress_varlen,
)
from zoprune_kernels.testing import DTYPES, certify_suppress, clustered, fallback, grid

RULES = {
    "soft": {"rule": "soft", "sigma_similarity": 0.3},
    "exponential": {"rule": "exponential", "sigma_similarity": 0.3, "strength": 0.4},
    "hard": {"rule": "hard", "threshold": 0.6},
}


def test_native_runs():
    assert backend.candidates("select_suppress", "cpu")[0] == ("cpu", None)
    assert backend.candidates("select_suppress_varlen", "cpu")[0] == ("cpu", None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("tokens, k", SIZES)
def test_picks_are_the_references(tokens, k, rule, dtype):
    scores, keys = torch.randperm(tokens) / tokens, clustered(tokens, 100, dtype)
    for positions in (None, grid(tokens, 24)):
        arguments = (scores, keys, k, positions)
        picks = select_suppress(*arguments, **RULES[rule], sort=False)
        exact = reference.select_suppress(
            scores.double(), keys.double(), k, positions, **RULES[rule], sort=False
        )
        assert (picks == exact).float().mean() > 0.98  # rounding may swap nearly equal scores
        assert certify_suppress(picks, scores, keys, positions, **RULES[rule]).passed
        assert torch.equal(select_suppress(*arguments, **RULES[rule]), picks.sort().values)


@pytest.mark.parametrize("rule", RULES)
def test_a_prefix_is_the_selection_for_a_smaller_k(rule):
    scores, keys = torch.rand(577), clustered(577, 100)
    many = select_suppress(scores, keys, 90, **RULES[rule], sort=False)
    for k in (1, 2, 33, 64):
        assert torch.equal(select_suppress(scores, keys, k, **RULES[rule], sort=False), many[:k])


def test_soft_suppression_is_adaptprunes():
    """One pick, by hand: the copy next to it loses exp(-1 / 2 sigma^2) of its score."""
    scores = torch.tensor([1.0, 0.9, 0.3, 0.2])
    keys = torch.eye(3)[[0, 0, 0, 1]]
    positions = torch.tensor([[0.0, 0], [0, 1], [0, 6], [0, 2]])
    lowered = 0.9 * (1 - torch.exp(torch.tensor(-1 / (2 * 1.5**2))))  # 0.18
    assert 0.1 < lowered < 0.2  # so both others come before it, the far copy untouched
    picks = select_suppress(scores, keys, 4, positions, sort=False)
    assert picks.tolist() == [0, 2, 3, 1]


def test_a_cosine_at_the_threshold_is_not_above_it():
    keys, scores = torch.tensor([[1.0, 0], [0, 1], [-1, 0]]), torch.tensor([3.0, 2, 1])
    for threshold, picks in ((0.0, [0, 1]), (-0.5, [0, 2])):
        hard = {"rule": "hard", "threshold": threshold, "sort": False}
        assert select_suppress(scores, keys, 2, **hard).tolist() == picks


def test_negative_scores_fall_too():
    scores = torch.tensor([-1.0, -1.1, -1.5])
    keys = torch.eye(2)[[0, 0, 1]]
    assert select_suppress(scores, keys, 3, sort=False).tolist() == [0, 2, 1]


def test_hard_suppression_is_similarity_constrained_topk():
    scores, keys = torch.rand(577), clustered(577, 100)
    for threshold in (-1.0, 0.2, 0.9):
        picks = select_suppress(scores, keys, 200, rule="hard", threshold=threshold, sort=False)
        constrained = select(scores, keys, 200, method="topk", max_similarity=threshold, sort=False)
        assert torch.equal(picks, constrained)


def test_positions_alone():
    scores, positions = torch.arange(9.0).flip(0), grid(9, 3)
    picks = select_suppress(scores, None, 4, positions, rule="hard", radius=1.0, sort=False)
    assert picks.tolist() == [0, 2, 4, 6]


def test_a_position_that_is_nan_has_no_neighbours():
    positions = torch.tensor([[0.0, 0], [float("nan"), 0], [0, 1]])
    picks = select_suppress(torch.tensor([3.0, 2, 1]), torch.ones(3, 2), 2, positions, rule="hard")
    assert picks.tolist() == [0, 1]


def test_infinite_radius_and_three_axes():
    scores, keys = torch.rand(300), clustered(300, 40)
    positions = torch.cat([torch.arange(300)[:, None] // 100, grid(300, 10)], dim=1).float()
    options = {"radius": float("inf"), "sigma_similarity": 0.5, "sort": False}
    picks = select_suppress(scores, keys, 60, positions, **options)
    exact = reference.select_suppress(scores.double(), keys.double(), 60, positions, **options)
    assert torch.equal(picks, exact)


def test_ties_go_to_the_lowest_index():
    scores, keys = torch.ones(300), torch.eye(300)
    for options in RULES.values():
        picks = select_suppress(scores, keys, 90, **{**options, "sigma_similarity": 1e-3})
        assert torch.equal(picks, torch.arange(90))


@pytest.mark.parametrize("rule", RULES)
def test_must_keep_suppresses_the_others(rule):
    scores, keys = torch.rand(300), clustered(300, 100)
    must_keep = torch.rand(300) < 0.1
    options = RULES[rule] | {"must_keep": must_keep, "sort": False}
    exact = reference.select_suppress(scores.double(), keys.double(), 90, **options)
    assert torch.equal(select_suppress(scores, keys, 90, **options), exact)


def test_candidate_order():
    check_candidate_order(select_suppress)


def test_keys_of_any_length():
    check_scale_free(select_suppress)


def test_images_do_not_depend_on_their_batch():
    same_in_every_layout(select_suppress, select_suppress_varlen)


def test_many_tokens():
    scores, keys, positions = torch.rand(100_000), torch.randn(100_000, 16), grid(100_000, 300)
    picks = select_suppress(scores, keys, 40, positions, sort=False)
    exact = reference.select_suppress(scores.double(), keys.double(), 40, positions, sort=False)
    assert torch.equal(picks, exact)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"keys": None}, "keys: expected a tensor where positions are None, got None"),
        (
            {"positions": torch.rand(9, 4)},
            r"positions: expected shape \[9, 2 or 3\] \(one position for each token of scores\), "
            r"got \[9, 4\]",
        ),
        ({"positions": torch.ones(9, 2).long()}, "positions: expected float32, float16 or bfloat1"),
        ({"rule": "mean"}, "rule: expected one of soft, exponential, hard, got 'mean'"),
        ({"sigma_space": 0.0}, r"sigma_space: expected a number in \[1e-18, 1e\+18\], got 0"),
        ({"sigma_similarity": 1e-20}, r"sigma_similarity: expected a number in .*, got 1e-20"),
        ({"radius": float("nan")}, "radius: expected a number > 0, got nan"),
        ({"strength": -0.5}, r"strength: expected a number in \[0, 1e\+18\], got -0.5"),
        ({"threshold": 1.5}, r"threshold: expected a number in \[-1, 1\], got 1.5"),
        ({"k": 10}, r"k: expected 1 <= k <= 9 \(the number of tokens\), got 10"),
    ],
)
def test_errors_name_the_argument(change, message):
    arguments = {"scores": torch.rand(9), "keys": torch.rand(9, 4), "k": 3} | change
    for function in (select_suppress, fallback.select_suppress):
        with pytest.raises(RuntimeError, match=f"zoprune::select_suppress: {message}"):
            function(**arguments)
