"""Picks of a batch equal picks of each image alone, and structure always stays."""

import pytest
import torch
from zoprune.vllm.options import METHODS, Options
from zoprune.vllm.picking import Tokens, pick

from zoprune_kernels import select


def image(tokens, units=None, newlines=0, extra=0):
    n = tokens + newlines
    structure = None
    if newlines:
        structure = torch.zeros(n, dtype=torch.bool)
        structure[torch.randperm(n)[:newlines]] = True
    return Tokens(torch.randn(n, 9 + extra), torch.rand(n), units or [tokens], structure)


@pytest.mark.parametrize("method", METHODS)
def test_each_image_as_alone(method):
    torch.manual_seed(0)
    images = [image(17), image(24, [8, 8, 8]), image(30, newlines=5), image(3)]
    keeps = [5, 0.4, 7, 9]
    options = Options(5, method=method)
    together = pick(images, keeps, 9, options)
    for picture, keep, picks in zip(images, keeps, together, strict=True):
        assert torch.equal(picks, pick([picture], [keep], 9, options)[0])
        assert torch.equal(picks, picks.unique())  # ascending, distinct
    assert [len(p) for p in together] == [5, 3 * 3, 7 + 5, 3]
    assert set(images[2].structure.nonzero()[:, 0].tolist()) <= set(together[2].tolist())
    in_units = together[1] // 8
    assert in_units.bincount().tolist() == [3, 3, 3]


@pytest.mark.parametrize("limit", [1.0, 0.3])
def test_as_the_operator_picks(limit):
    torch.manual_seed(1)
    picture = image(41, newlines=6, extra=4)
    rows = (~picture.structure).nonzero()[:, 0]
    expected = select(
        picture.scores[rows], picture.features[rows, :9], 11, max_similarity=limit, method="sads"
    )
    picks = pick([picture], [11], 9, Options(5, max_similarity=limit))[0]
    assert torch.equal(picks[~picture.structure[picks]], rows[expected])


def test_scores_that_are_not_numbers_come_last():
    picture = image(12)
    picture.scores[3:] = float("nan")
    picks = pick([picture], [3], 9, Options(3, method="topk"))[0]
    assert picks.tolist() == [0, 1, 2]
