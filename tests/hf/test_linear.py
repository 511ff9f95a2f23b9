"""Models whose projector is one linear layer: diversity alone decides."""

import warnings

import pytest
import torch

pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import zoprune
from zoprune import projector as projectors
from zoprune.hf.compat import core_of
from zoprune.hf.settings import pruning_of
from zoprune.selection import Rule

from tests.hf.models import CASES, make, prompt

pytestmark = pytest.mark.usefixtures("one_thread")
LINEAR = [case for case in CASES if case.linear and case.modality == "image"]


@pytest.fixture(scope="module", params=LINEAR, ids=lambda case: case.name)
def linear(request):
    return request.param, make(request.param)


def farthest_first(features, count):
    """Indices of tokens [N, D], each the least similar to those before, in float64."""
    unit = torch.nn.functional.normalize(features.double(), dim=-1)
    picked = [0]
    while len(picked) < count:
        similarity = (unit @ unit[picked].T).max(-1).values
        similarity[picked] = torch.inf
        picked.append(int(similarity.argmin()))
    return sorted(picked)


@torch.no_grad()
@pytest.mark.parametrize("method", ["sads", "maxmin"])
def test_kept_tokens_are_the_most_different(linear, method):
    case, model = linear
    inputs = prompt(case, model, (1, 1))
    zoprune.prune(model, 6, method=method)
    model(**inputs)
    kept = zoprune.report(model).kept
    features = pruning_of(model).family.encode(core_of(model), inputs, "image").features
    assert [k.tolist() for k in kept] == [farthest_first(f, 6) for f in features]


def test_one_warning_with_the_reason(linear, monkeypatch):
    monkeypatch.setattr(projectors, "_warned", False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        zoprune.prune(linear[1], 6)
        zoprune.prune(linear[1], 7)
    assert [str(w.message) for w in caught] == [projectors.LINEAR_WARNING]


def test_a_linear_layer_alone_warns_too(monkeypatch):
    monkeypatch.setattr(projectors, "_warned", False)
    with pytest.warns(UserWarning, match="selecting by diversity only"):
        zoprune.PrunedProjector(torch.nn.Linear(8, 8), 3)


def test_a_ranking_by_equal_scores_is_refused(linear):
    with pytest.raises(ValueError, match="method: expected one that compares tokens"):
        zoprune.prune(linear[1], 6, method="topk")
    with pytest.raises(ValueError, match="method: expected one that compares tokens"):
        zoprune.PrunedProjector(torch.nn.Linear(8, 8), 3, rule=Rule("topk"))


@torch.no_grad()
def test_more_images_than_the_prompt_has_is_an_error(linear):
    case, model = linear
    inputs = prompt(case, model, (2,))
    pixels = inputs["pixel_values"]
    if case.crops or case.name == "hyperclovax":  # pixels of one image are many rows
        inputs |= case.images(model, 1)[0]
    else:
        inputs["pixel_values"] = pixels[:, :1] if case.views else pixels[:1]
    if case.typed:
        inputs["image_position_ids"] = inputs["image_position_ids"][:1]
    zoprune.prune(model, 6)
    with pytest.raises(ValueError, match=r"input_ids: expected (16|6|34) image tokens"):
        model(**inputs)
