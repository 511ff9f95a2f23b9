"""The plug-in that prunes what transformers' own tests build, and the table of what they said."""

import json

import pytest

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'zoprune_kernels[hf]'"
)

from zoprune.hf.settings import pruning_of  # noqa: E402

from tests.hf import transformers_suite as suite  # noqa: E402
from tests.hf.mlp_models import llava  # noqa: E402
from tests.hf.prune_everything import patch  # noqa: E402


def test_what_is_built_and_loaded_is_pruned(tmp_path):
    cls = transformers.LlavaForConditionalGeneration
    undo = patch(cls, 1.0)
    try:
        built = llava()
        built.save_pretrained(tmp_path)
        loaded = cls.from_pretrained(tmp_path)
        assert pruning_of(built).keep == pruning_of(loaded).keep == 1.0
    finally:
        undo()
    assert pruning_of(llava()) is None and pruning_of(cls.from_pretrained(tmp_path)) is None


def test_the_table_is_that_of_the_results():
    families = json.loads(suite.RESULTS.read_text())["families"]
    assert suite.table(families) in suite.PAGE.read_text()
    assert not any(found["only_pruned"] for found in families.values())


def test_what_fails_unpruned_too_is_told_apart():
    pruned = {
        "models": 7,
        "outcomes": {"a": "passed", "b": "failed", "c": "failed", "d": "skipped"},
    }
    unpruned = {"models": 0, "outcomes": {"c": "failed"}}
    counts = {"passed": 1, "failed": 2, "models": 7}
    assert suite.summary(pruned, unpruned) == counts | {"only_pruned": 1}
    assert suite.summary(pruned, {}) == counts | {"only_pruned": 2}
