"""The loops that the selection family is measured against pick what the definitions say."""

import pytest
import torch

from benchmarks import family, family_baselines
from benchmarks.shapes import Shape
from tests.family import clustered, grid
from zoprune_kernels import reference

SCORES, KEYS = torch.rand(63).double(), clustered(63, 40, torch.float64)


@pytest.mark.parametrize("k", [1, 9, 30])
def test_loops_are_the_references(k):
    order = {"sort": False}
    exponential = {"sigma_similarity": 0.3, "strength": 0.4}
    soft = reference.select_suppress(SCORES, KEYS, k, grid(63, 9), **order)
    pairs = [
        (family_baselines.cdpruner(SCORES.float(), KEYS.float(), k), reference.select_dpp),
        (
            family_baselines.scope_steps(family_baselines.cosines(KEYS), SCORES, k),
            reference.select_coverage,
        ),
    ]
    for picks, definition in pairs:
        assert picks.tolist() == definition(SCORES, KEYS, k, **order).tolist()
    assert family_baselines.adaptprune(SCORES, KEYS, k, grid(63, 9)).tolist() == soft.tolist()
    loop = family_baselines.exponential(SCORES, KEYS, k, **exponential)
    exact = reference.select_suppress(SCORES, KEYS, k, rule="exponential", **exponential, **order)
    assert loop.tolist() == exact.tolist()
    loop = family_baselines.hard_suppression(SCORES, KEYS, k, threshold=0.5)
    exact = reference.select_suppress(SCORES, KEYS, k, rule="hard", threshold=0.5, **order)
    assert loop.tolist() == exact.tolist()


def test_every_operator_is_measured(monkeypatch):
    monkeypatch.setitem(family.GRID_WIDTH, 63, 9)
    shape = Shape("tiny", 63, 1, 1, 40, (7,))
    names = {operator.op for operator in family.OPERATORS}
    rows = family.run([shape], ["fp32"], names, lambda text: None)
    assert len(rows) == len(family.OPERATORS)
    for row in rows:
        assert "refused" not in row and row["against"]["loop"]["ratio"] > 0


def test_wrong_picks_are_refused():
    x = family.Tokens(SCORES.float(), KEYS.float(), grid(63, 9), 7)
    for operator in family.OPERATORS:
        worst = SCORES.argsort()[:7]
        assert not family.check(operator, x, worst)[0].passed
