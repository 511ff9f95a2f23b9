"""The loops that the selection family is measured against pick what the definitions say."""

import pytest
import torch

from benchmarks import charts, measure, readme, table
from benchmarks.family import baselines as family_baselines
from benchmarks.family import cases as family_cases
from benchmarks.family import growth
from benchmarks.family import report as family
from benchmarks.shapes import Shape
from zoprune_kernels import reference
from zoprune_kernels.testing import clustered, grid

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
    isolated = {"method": "maxmin", "first": "isolated"}
    exact = reference.select(SCORES, KEYS, k, **isolated, **order)
    assert family_baselines.divprune(KEYS, k).tolist() == exact.tolist()
    assert family_baselines.adaptprune(SCORES, KEYS, k, grid(63, 9)).tolist() == soft.tolist()
    loop = family_baselines.exponential(SCORES, KEYS, k, **exponential)
    exact = reference.select_suppress(SCORES, KEYS, k, rule="exponential", **exponential, **order)
    assert loop.tolist() == exact.tolist()
    loop = family_baselines.hard_suppression(SCORES, KEYS, k, threshold=0.5)
    exact = reference.select_suppress(SCORES, KEYS, k, rule="hard", threshold=0.5, **order)
    assert loop.tolist() == exact.tolist()


def test_tomes_merge_is_the_reference():
    merged, sizes = family_baselines.tome_merge(KEYS, KEYS, 15)
    want, counts, stays = reference.merge_bipartite(KEYS, KEYS, 15)
    assert sizes[:, 0].sum() == 63 and sizes[:, 0].sort().values.tolist() == sorted(counts.tolist())
    # Those that stay are in the order of their similarity in one, of their index in the other
    torch.testing.assert_close(merged[17:], want[stays % 2 == 1])
    pairs = torch.cdist(merged[:17], want[stays % 2 == 0]).amin(1)
    assert pairs.max() < 1e-6


@pytest.mark.parametrize("k", [1, 9, 30])
def test_mmr_loop_is_the_reference(k):
    loop = family_baselines.mmr(SCORES, KEYS, k, tradeoff=0.5)
    exact = reference.select(SCORES, KEYS, k, method="mmr", tradeoff=0.5, sort=False)
    assert loop.tolist() == exact.tolist()


@pytest.fixture(scope="module")
def measured():
    """A result of every operator at a tiny shape, in the place of 2,880 tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(family.GRID_WIDTH, 64, 8)
        patch.setattr(measure, "SECONDS", 0)
        patch.setattr(growth, "TOKENS", (64, 128))
        patch.setattr(growth, "KEEP", (16, 32))
        patch.setattr(growth, "MANY", 96)
        patch.setattr(growth, "SHORTEST_SAMPLE", 1e-9)
        rows = family.run([Shape("tiny", 64, 1, 1, 40, (16,))], ["fp32"], set(family.OPS), print)
        about = {"name": "cpu", "threads": 2, "torch": "2.13", "date": "2026-01-01"}
        yield {"machine": about, "rows": rows, "growth": growth.measure(print)}


def test_every_operator_is_measured(measured):
    assert len(measured["rows"]) == len(family.OPERATORS)
    for row in measured["rows"]:
        assert "refused" not in row and row["against"]["loop"]["ratio"] > 0


def test_table_shows_what_was_measured(measured):
    rows = [row | {"shape": family.SHAPES[0].name} for row in measured["rows"]]
    against = {"loop": rows[3]["against"]["loop"] | {"ratio": 12.34, "spread": 0.0}}
    rows[3] |= {"against": against, "steps_measured": 8}
    text = readme.generate_family([measured | {"rows": rows}])
    assert "| `select`, mmr | a loop of MMR | 12.3x\\* | - | - | 10x |" in text
    assert "* 8 of the loop's k equal steps" in "\n".join(table.ratios(rows, 0))
    verdicts = [target.verdict(rows) for target in family.targets()]
    assert [v["met"] for v in verdicts[6:9]] == [True, None, None]


def test_growth_is_drawn(measured, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install matplotlib")
    charts.growth(measured, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_documents_are_current():
    assert readme.main(["--check"]) == 0


def test_wrong_results_are_refused():
    scores, keys = torch.rand(64), clustered(64, 40)
    x = family_cases.Tokens(scores, keys, grid(64, 8), torch.arange(16))
    for operator in family_cases.OPERATORS:
        result = operator.run(x)
        picks = isinstance(result, torch.Tensor)
        wrong = scores.argsort()[:16] if picks else (1.5 * result[0], *result[1:])
        assert all(check.passed for check in operator.check(x, result)), operator
        assert not all(check.passed for check in operator.check(x, wrong)), operator
