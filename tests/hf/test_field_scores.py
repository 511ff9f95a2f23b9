"""Situations from the field: scores in any dtype and mode (rows 8, 11, 18)."""

import copy
import warnings

import pytest
import torch

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import zoprune  # noqa: E402
from torch import nn  # noqa: E402
from zoprune.adapters import zoo_prune  # noqa: E402
from zoprune.projector import Estimator, find_projector  # noqa: E402

from tests.hf.field import BY_NAME, CASE, scores_of  # noqa: E402
from tests.hf.models import make, prompt  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@torch.no_grad()
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("method", ["sads", "topk", "mmr", "dpp", "suppress", "coverage"])
def test_scores_that_are_no_numbers_rank_last(model, inputs, bad, method, monkeypatch):
    score = zoprune.projector.Projector.score

    def spoilt(self, x, estimator):
        return score(self, x, estimator).index_fill(0, torch.tensor([2, 7, 11]), bad)

    zoprune.prune(model, 4, method=method)
    monkeypatch.setattr(zoprune.projector.Projector, "score", spoilt)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model(**inputs)
    kept = zoprune.report(model).kept[0].tolist()
    assert len(kept) == 4
    if method != "coverage":  # goes by what the kept tokens stand for
        assert not {2, 7, 11} & set(kept)
    assert ["3 of 16" in str(w.message) for w in caught] == [True]
    with zoprune.keep(14), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model(**inputs)
    assert len(zoprune.report(model).kept[0]) == 14


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_after_prune(clone, inputs, dtype):
    zoprune.prune(clone, 6)
    scores = scores_of(clone, inputs)
    clone.to(dtype)
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    other = scores_of(clone, inputs)
    assert torch.corrcoef(torch.stack([scores, other]))[0, 1] > 0.99


def test_a_model_built_in_inference_mode(inputs):
    with torch.inference_mode():
        model = make(CASE)
    expected = zoprune.prune(make(CASE), 6)
    zoprune.prune(model, 6)
    with torch.no_grad():
        logits = expected(**inputs).logits
        assert torch.equal(model(**inputs).logits, logits)
    with torch.inference_mode():
        assert torch.equal(model(**inputs).logits, logits)
        assert torch.equal(expected(**inputs).logits, logits)
    output = expected(**inputs)  # a graph, after inference mode
    output.logits.sum().backward()


@torch.no_grad()
@pytest.mark.parametrize("name", ["llava", "internvl", "qwen2_vl", "mistral3"])
@pytest.mark.parametrize("options", [{}, dict(estimator="directions", num_directions=8)])
def test_autocast_changes_no_score(name, options):
    case = BY_NAME[name]
    model = make(case)
    inputs = prompt(case, model)
    zoprune.prune(model, 3, **options)
    settings = model._zoprune
    with torch.autocast("cpu", torch.bfloat16):
        tokens = settings.family.encode(model.model, inputs, case.modality)
        got = settings.projector(model.model).score(tokens.x, settings.estimator)
        model(**inputs)
    plain = zoprune.restore(copy.deepcopy(model))
    fresh = find_projector(plain.get_submodule(settings.family.projector))
    fresh.unfolded = settings.projector(model.model).unfolded
    assert torch.equal(got, fresh.score(tokens.x, settings.estimator))


@torch.no_grad()
@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize("name", ["closed", "directions"])
def test_autocast_changes_no_score_of_a_projector(norm, name):
    mlp = nn.Sequential(norm(24), nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 32))
    x = torch.randn(1, 50, 24)
    expected = zoo_prune.zoo_prune_get_sensitivity(x, mlp, Estimator(name, 8))
    with torch.autocast("cpu", torch.bfloat16):
        got = zoo_prune.zoo_prune_get_sensitivity(x, mlp, Estimator(name, 8))
    assert torch.equal(got, expected)
