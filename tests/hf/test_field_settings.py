"""Situations from the field: what prune is asked for and leaves behind (rows 7, 21, 22, 29a)."""

import re
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

import numpy as np  # noqa: E402
import zoprune  # noqa: E402
from torch import nn  # noqa: E402
from zoprune.hf import compat  # noqa: E402
from zoprune.hf.families import SUPPORTED  # noqa: E402
from zoprune.hf.families.refused import REASONS  # noqa: E402
from zoprune.hf.families.versions import OLDEST, SINCE  # noqa: E402

from tests.hf.field import BY_NAME, hand_logits, hooks_of  # noqa: E402
from tests.hf.models import CASES, NEWEST, make, prompt  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@torch.no_grad()
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(keep=0), "keep: expected"),
        (dict(keep=4, per="tile"), "per: expected 'image'"),
        (dict(keep=4, num_directions=0), "num_directions: expected a count >= 1"),
        (dict(keep=4, num_directions=2.5), "num_directions: expected a count >= 1"),
        (dict(keep=4, step=-1.0), "step: expected a finite number >= 0"),
        (dict(keep=4, step=float("nan")), "step: expected a finite number >= 0"),
        (dict(keep=4, step="x"), "step: expected a finite number >= 0"),
        (dict(keep=4, distribution="x"), "distribution: expected one of"),
        (dict(keep=4, seed=0.5), "seed: expected a whole number"),
        (dict(keep=4, through_norm="yes"), "through_norm: expected True or False"),
        (dict(keep=4, method="best"), "method: expected one of"),
        (dict(keep=4, max_similarity=7.0), "max_similarity: expected"),
        (dict(keep=4, tradeoff="x"), "tradeoff|zoprune"),
        (dict(keep=4, prompt_seeds=-1), "prompt_seeds: expected a count >= 0"),
        (dict(keep=4, prompt_seeds=1.5), "prompt_seeds: expected a count >= 0"),
        (dict(keep=4, positions="x"), "positions: expected one of"),
        (dict(keep=4, metric="/nowhere/metric"), "metric: expected a file in a folder"),
        (dict(keep=4, metric=__file__), "metric: expected a file that prune wrote"),
        (dict(keep=4, metric="m", estimator="directions"), "metric: expected None with estimator"),
        (dict(keep=4, metric="m", method="random"), "metric: expected None with method 'random'"),
    ],
)
def test_a_prune_that_fails_changes_nothing(model, inputs, arguments, message):
    before = set(vars(model)), set(vars(model.model))
    with pytest.raises(ValueError, match=message):
        zoprune.prune(model, **arguments)
    assert (set(vars(model)), set(vars(model.model))) == before
    assert not hooks_of(model)
    expected = zoprune.prune(model, 6)(**inputs).logits
    with pytest.raises(ValueError, match=message):
        zoprune.prune(model, **arguments)
    assert torch.equal(model(**inputs).logits, expected)


def test_a_class_of_another_engine_with_the_same_name():
    class LlavaForConditionalGeneration(nn.Module):
        def __init__(self):
            super().__init__()
            self.multi_modal_projector = nn.Linear(2, 2)
            self.language_model = nn.Linear(2, 2)

    other = LlavaForConditionalGeneration()
    before = dict(vars(other))
    with pytest.raises(TypeError, match=r"lacks .*model\.multi_modal_projector"):
        zoprune.prune(other, 4)
    assert vars(other) == before and not other.multi_modal_projector._forward_hooks


@pytest.mark.skipif(not NEWEST, reason="tested from transformers 5.24 on")
def test_a_model_without_a_vision_tower_is_refused():
    (case,) = [c for c in CASES if c.name == "gemma4"]
    config = make(case).config
    config.vision_config = None
    model = transformers.Gemma4ForConditionalGeneration(config)
    with pytest.raises(TypeError, match=r"that reads images, got a Gemma4.* lacks model.embed_vis"):
        zoprune.prune(model, 4)
    assert "_zoprune" not in vars(model)


@pytest.mark.parametrize("name", sorted(REASONS))
def test_known_models_that_cannot_be_pruned_are_refused_with_the_reason(name):
    assert name not in SUPPORTED and (hasattr(transformers, name) or not NEWEST)
    other = type(name, (nn.Module,), {})()
    with pytest.raises(TypeError, match=f"got {name}, which is none of them: {REASONS[name]}"):
        zoprune.prune(other, 4)
    assert not hasattr(other, "_zoprune")


@pytest.mark.parametrize("name", ["llava", "glm4v", "llava_next_video"])
def test_an_older_transformers_is_refused_by_name(name, monkeypatch):
    """Its forward may be another one; nothing is changed."""
    model = make(next(case for case in CASES if case.name == name))
    oldest = SINCE.get(type(model).__name__, OLDEST)
    monkeypatch.setattr(compat, "VERSION", (4, 56))
    wanted = f"model: expected transformers >= {oldest} for a {type(model).__name__}, got 4.56"
    with pytest.raises(TypeError, match=re.escape(wanted)):
        zoprune.prune(model, 4)
    monkeypatch.undo()
    zoprune.prune(model, 4)


@pytest.mark.parametrize("name", ["idefics3", "smolvlm"])
def test_versions_between_are_refused_by_name(name, monkeypatch):
    model = make(next(case for case in CASES if case.name == name))
    for version, pruned in (((5, 17), True), ((5, 18), False), ((5, 20), False), ((5, 21), True)):
        monkeypatch.setattr(compat, "VERSION", version)
        if pruned:
            zoprune.restore(zoprune.prune(model, 4))
            continue
        wanted = f"expected transformers < 5.18 or >= 5.21 for a {type(model).__name__}, got 5."
        with pytest.raises(TypeError, match=re.escape(wanted)):
            zoprune.prune(model, 4)


@pytest.mark.skipif(not NEWEST, reason="the table is of transformers 5.24")
def test_every_class_for_images_and_text_is_supported_or_refused_by_name():
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    classes = set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values())
    assert classes <= {*SUPPORTED, *REASONS} and not set(SUPPORTED) & set(REASONS)
    table = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    assert [name for name in (*SUPPORTED, *REASONS) if f"`{name}`" not in table] == []


def test_the_class_of_a_pruned_model_is_an_ordinary_one(model):
    zoprune.prune(model, 6)
    other = type(model)(model.config)
    assert type(other) is transformers.LlavaForConditionalGeneration
    zoprune.restore(zoprune.prune(other, 6))
    assert type(other) is transformers.LlavaForConditionalGeneration and "_zoprune" not in vars(
        other
    )


@torch.no_grad()
@pytest.mark.parametrize(
    ("keep", "count"),
    [
        (np.int64(6), 6),
        (torch.tensor(6), 6),
        (np.float32(0.5), 8),
        (torch.tensor(0.5), 8),
        (1, 1),
        (1.0, 16),
        (np.float64(1), 16),
    ],
)
def test_scalars_of_any_library(model, inputs, keep, count):
    zoprune.prune(model, keep)
    model(**inputs)
    assert str(zoprune.report(model)) == f"{count} of 16"
    zoprune.prune(model, 2)
    with zoprune.keep(keep):
        model(**inputs)
    assert str(zoprune.report(model)) == f"{count} of 16"


@pytest.mark.parametrize(
    "keep",
    [np.bool_(True), torch.tensor(True), "6", torch.tensor([6]), np.array([3]), 0, 2.0, None],
)
def test_other_budgets_are_refused(model, keep):
    with pytest.raises(ValueError, match=r"1 is one token, 1\.0 all of them"):
        zoprune.prune(model, keep)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen3_vl", "internvl", "gemma3"])
def test_a_budget_over_all_images_of_a_call(name):
    case = BY_NAME[name]
    model = make(case)
    inputs = prompt(case, model, (2, 1))
    zoprune.prune(model, 9, per="call")
    logits = model(**inputs).logits
    report = zoprune.report(model)
    structure = sum(int(lines.sum()) for lines in report.newlines)
    assert sum(len(kept) for kept in report.kept) == 9 + structure
    assert report.rows == [0, 0, 1] and str(report).startswith("row 0: ")
    for row, expected in enumerate(hand_logits(model, inputs, case, "compact")):
        torch.testing.assert_close(logits[row, -len(expected) :], expected, atol=1e-4, rtol=1e-4)
