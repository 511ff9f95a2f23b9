"""What the reports on accuracy and fidelity compare and count."""

from dataclasses import replace

import pytest
import torch

import zoprune_kernels
from zoprune_kernels import reference

pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
pytest.importorskip("transformers")

from benchmarks.accuracy import evaluate, methods
from benchmarks.accuracy import model as small
from benchmarks.fidelity import report as fidelity
from benchmarks.fidelity.estimators import Tokens, estimators


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    shapes = ((24, 16), (24,), (12, 24), (12,))
    weights = [torch.randn(shape, generator=generator) / 4 for shape in shapes]
    x = torch.randn(576, 16, generator=generator)
    return methods.Picture(methods.Projector(*weights), x, 3)


def test_published_scores_are_the_papers_and_lose_digits_in_half_precision(tiny):
    w1, b1, w2, _ = (w.double() for w in tiny.projector.weights)
    u = zoprune_kernels.directions(64, 16, seed=5).double()
    truth = reference.paper_sensitivity(tiny.x.double(), w1, b1, w2, u, step=0.01)
    exact = tiny.projector.published(tiny.x, 5, torch.float32)
    torch.testing.assert_close(exact, truth.float(), rtol=1e-4, atol=0)
    error = [
        ((tiny.score(f"paper {dtype}", 5) - truth) / truth).abs().mean()
        for dtype in ("float16", "bfloat16")
    ]
    assert 1e-3 < error[0] < error[1]


def test_every_method_keeps_k_of_the_tokens_and_only_chance_changes_with_the_seed(tiny):
    question = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))
    for method in methods.methods(0.5, 0.9):
        kept = method.keep(tiny, 9, 0, question)
        assert kept.shape == (9, 12), method.name
        rows = (kept[:, None] == tiny.tokens).all(-1).any(1)
        assert rows.all() or method.merged, method.name
        again = [torch.equal(method.keep(tiny, 9, seed, question), kept) for seed in (1, 2, 3)]
        assert all(again) != method.chance, method.name


def test_shares_and_their_interval():
    right = [[True] * 3, [False], [True, False]] * 50
    low, high = evaluate.interval(right)
    assert evaluate.share(right) == pytest.approx(4 / 6) and low < 4 / 6 < high
    assert evaluate.interval([[True, True]] * 9) == (1, 1)


@torch.no_grad()
def test_one_question_at_a_time_gives_the_answers_of_all_at_once():
    torch.manual_seed(0)
    model = small.build().eval()
    split = evaluate.Split.of(model, "dev", 7, 2)
    closed = methods.methods(0.5, 0.9)[0]
    alone = replace(closed, by_question=True)
    assert evaluate.answer(model, split, closed, 16) == evaluate.answer(model, split, alone, 16)


def test_fidelity_measures_estimators_against_the_truth():
    generator = torch.Generator().manual_seed(0)
    shapes = ((80, 16), (24, 16), (24,), (12, 24), (12,))
    tokens = Tokens(*(torch.randn(s, generator=generator).double() / 2 for s in shapes))
    truth = tokens.truth(2048)
    assert fidelity.agreement(3 * truth, truth, tokens.keys()) == pytest.approx((0, 1, 1, 1))
    found = {
        (e.name, e.dtype, e.m, e.step): fidelity.agreement(e.run(tokens, 0), truth, tokens.keys())
        for e in estimators()
    }
    assert found["closed form", "fp32", None, None][1] > 0.99
    assert (
        found["rewritten", "fp32", 4, 0.01][1]
        < found["rewritten", "fp32", 64, 0.01][1]
        < found["rewritten", "fp32", 256, 0.01][1]
    )
    assert found["paper-literal", "bf16", 64, 0.01][0] > 2 * found["rewritten", "bf16", 64, 0.01][0]
    assert found["paper-literal", "fp32", 64, 0.01] == pytest.approx(
        found["rewritten", "fp32", 64, 0.01], abs=1e-3
    )
